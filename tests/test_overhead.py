"""What recording adds to an event: nothing where nothing records, more than that where something does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import needs
import pytest
from needs import faults, root

from kdtool.collect import collector
from kdtool.collect.base import Progress, Scope
from kdtool.collect.overhead import Added, added_by, overhead_of
from kdtool.errors import CapabilityError
from kdtool.kernel.cgroup import find_layout
from kdtool.traces import TraceWriter

TRIES = 10
"""At most: other work on the machine may hit one of two likes more often than the other; not every time."""


class Nothing:
    """A collector and source that records nothing, of a load that is made all the same."""

    name, tables, clock = "nothing", ("tasks",), "monotonic"

    def __init__(self, load: str, refused: str = "") -> None:
        self.environment: dict[str, str] = {}
        self.load, self.refused, self.recorded = load, refused, list[int]()

    def unavailable(self) -> None:
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "Nothing":
        if self.refused:
            raise CapabilityError(self.refused)
        return self

    def start(self, pids: Sequence[int]) -> None:
        self.recorded = [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    def check(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...

    def progress(self) -> Progress:
        return Progress(0, 0)

    def facts(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("load", ["fault", "switch"])
def test_what_records_nothing_adds_nothing(load: str) -> None:
    nothing = Nothing(load)

    found = (added_by(nothing) for _ in range(TRIES))

    assert any(added.low_ns <= 0 <= added.high_ns for added in found)
    assert len(nothing.recorded) == 1, "it lived, and is gone"
    assert not Path(f"/proc/{nothing.recorded[0]}").exists()


@root
@pytest.mark.root
@pytest.mark.parametrize(
    "name", [pytest.param("faults", marks=faults), pytest.param("sched", marks=needs.tracefs)]
)
def test_recording_takes_time(name: str) -> None:
    before = _cgroups()

    found: Iterator[Added] = (added_by(collector(name)) for _ in range(TRIES))  # type: ignore[arg-type]

    assert any(0 < added.low_ns <= added.median_ns <= added.high_ns < 50_000 for added in found)
    assert _cgroups() == before


def test_what_cannot_be_measured_is_said_and_nothing_is_lost_by_it() -> None:
    facts = overhead_of([Nothing("fault"), Nothing("switch", "no tracefs: mount it")])  # type: ignore[list-item]

    assert facts["added_per_switch"] == "not measured: no tracefs: mount it"
    assert isinstance(facts["added_per_fault_ns"], int) and facts["added_per_fault_spread_ns"] >= 0


def test_a_load_that_ends_early_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loads = tmp_path / "loads.py"
    loads.write_text("import sys\nprint(1, flush=True)\nsys.stdin.readline()\nsys.exit(7)\n")
    monkeypatch.setattr("kdtool.collect.overhead.LOADS", loads)

    facts = overhead_of([Nothing("fault")])  # type: ignore[list-item]

    assert facts == {
        "added_per_fault": "not measured: loads.py ended with 7: it makes the events: look at standard error"
    }


@faults
@root
@pytest.mark.root
def test_the_command_puts_it_into_the_manifest_and_info_says_it(tmp_path: Path) -> None:
    kdtool, trace = (sys.executable, "-m", "kdtool"), tmp_path / "t.kdt"
    subprocess.run([*kdtool, "collect", "-o", trace, "--", "true"], check=True, capture_output=True)

    overhead = json.loads((trace / "manifest.json").read_text())["collector"]["overhead"]
    said = subprocess.run([*kdtool, "info", trace], check=True, capture_output=True, text=True).stdout
    assert set(overhead) == {"cpu_ns", "after_cpu_ns", "added_per_fault_ns", "added_per_fault_spread_ns"}
    assert "added per fault" in said


def _cgroups() -> list[str]:
    events = find_layout().events
    assert events is not None
    return sorted(path.name for path in events.root.glob(f"kdtool-{os.getpid()}-*"))

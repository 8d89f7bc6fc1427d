"""doctor: every finding is a thing tried, and undone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import needs
import pytest

from kdtool.collect import COLLECTORS, collector, doctor
from kdtool.collect.base import Problem
from kdtool.errors import ParameterError
from kdtool.kernel.cgroup import find_layout

PAGE_CLUSTER = Path("/proc/sys/vm/page-cluster")


def test_every_check_has_a_name_and_says_how_to_mend_what_fails() -> None:
    checks = doctor.examine()

    collectors = [f"collect --events {name}" for name, _ in COLLECTORS]
    assert [check.name for check in checks] == [*collectors, *(name for name, _ in doctor.CHECKS)]
    for check in checks:
        assert check.reason
        assert bool(check.fix) != check.ok


@pytest.mark.root
@needs.root
def test_root_leaves_no_cgroup_and_no_setting_behind() -> None:
    layout, page_cluster = find_layout(), PAGE_CLUSTER.read_text()

    doctor.examine()

    for hierarchy in (layout.memory, layout.events):
        assert hierarchy is None or not list(hierarchy.root.glob(f"kdtool-{os.getpid()}-*"))
    assert PAGE_CLUSTER.read_text() == page_cluster


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)

    checks = {check.name: check for check in doctor.examine()}

    assert checks["gcc"].fix == "apt-get install gcc libc6-dev"
    assert "apt-get install qemu-user" in checks["references (qemu-user)"].fix


def test_no_swap_names_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "swap_devices", list)

    checks = {check.name: check for check in doctor.examine()}

    assert checks["swap"].fix == "scripts/swap up"


@pytest.mark.root
@needs.root
def test_a_user_without_rights_gets_the_same_document() -> None:
    command = [sys.executable, "-m", "kdtool", "doctor", "--json"]

    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", *command]
    done = subprocess.run(nobody, capture_output=True, text=True, check=True)

    checks = {row["name"]: row for row in json.loads(done.stdout)["checks"]}
    assert set(next(iter(checks.values()))) == {"name", "ok", "reason", "fix"}
    assert not checks["page-fault events"]["ok"] and "root" in checks["page-fault events"]["fix"]
    assert not checks["page-cluster"]["ok"]
    assert checks["gcc"]["ok"]


def test_the_table_is_printed_for_a_person() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kdtool", "doctor"], capture_output=True, text=True, check=True
    )

    assert "page-fault events" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("name", [name for name, _ in COLLECTORS])
def test_every_collector_keeps_the_protocol(name: str) -> None:
    made = collector(name)

    assert made.name == name
    assert made.tables
    problem = made.unavailable()
    assert problem is None or (isinstance(problem, Problem) and problem.reason and problem.fix)


def test_an_unknown_collector_is_named_with_the_nearest() -> None:
    with pytest.raises(ParameterError, match="unknown events 'ref': did you mean 'refs'"):
        collector("ref")

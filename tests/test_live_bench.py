"""Replay beside live: what it says of a strided program, and the table of both."""

from dataclasses import replace
from fractions import Fraction
from io import StringIO
from itertools import pairwise

import pytest
from builders import ssd, strided_trace
from needs import gcc, qemu
from rich.console import Console

from bench.fidelity import matrix
from bench.fidelity.looks import DRIFTING
from bench.fidelity.matrix import Plan, record_references
from bench.live.measure import _look, looks_of, moment_of
from bench.live.store import LiveStore
from bench.live.workloads import PAIRS, choose_pairs
from kdtool.collect import refs
from kdtool.errors import ParameterError
from kdtool.live.predict import ByAgent, Predicted, lateness_ns, predict
from kdtool.live.table import make_cells, print_cells
from kdtool.replay import load_policy, load_workload
from kdtool.traces import Trace

PAGES = 3000


def run_of(wall_s, agent=True):
    run = {"wall_ns": int(wall_s * 1e9), "major_faults": 100, "load": 0.5, "steps_back": 0}
    return run | (
        {"coverage": 0.9, "accuracy": 1.0, "agent_cpu_ns": 10**8} if agent else {"agent_cpu_ns": None}
    )


MEASURED = {
    "toy": {"linux-0": [run_of(2.0, False)], "linux-vma": [run_of(1.8, False)], "stride": [run_of(1.2)]},
    "other": {"linux-0": [run_of(2.0, False)], "linux-vma": [], "stride": [run_of(1.2)]},
}


def test_replay_says_that_a_policy_covers_and_is_faster(tmp_path):
    workload = load_workload(strided_trace(tmp_path / "toy.kdt", PAGES))
    none, late = load_policy("none"), {"stride": 1, "late": 10_000_000}
    alone = {"linux-0": none, "linux-vma": load_policy("linux-vma")}

    said = predict(
        workload,
        PAGES // 2,
        ssd(),
        200_000_000,
        alone=alone,
        acting={name: ByAgent(load_policy("stride"), ns, none) for name, ns in late.items()},
    )

    assert said["stride"].coverage > 0.8  # its trial was half without it, and the nearest pages are left out
    assert said["late"].coverage < 0.1
    assert 0.2 < said["stride"].wall_s < said["linux-0"].wall_s
    assert said["linux-vma"].coverage is None


def test_an_agent_is_as_late_as_in_the_runs_in_which_it_asked_for_pages():
    idle = {"calls": 0, "median_lag_ns": 0, "mean_call_ns": 0}
    late = [{"calls": 9, "median_lag_ns": 100 * n, "mean_call_ns": 10} for n in (1, 2, 9)]

    assert lateness_ns([idle, *late], 5) == 210
    assert lateness_ns([idle], 5) == lateness_ns([], 5) == 5
    with pytest.raises(ParameterError, match="measure them anew"):
        lateness_ns([{"calls": 9, "mean_lag_ns": 100, "mean_call_ns": 10}], 5)


def test_the_table_has_replay_beside_live_where_it_was_asked():
    predicted = {"toy": {"linux-0": Predicted(3.0, None), "linux-vma": Predicted(2.8, None)}}
    predicted["toy"]["stride"] = Predicted(2.0, 0.8)

    cells = make_cells(MEASURED, ["linux-0", "linux-vma"], predicted)

    stride, other = cells[2], cells[-1]
    assert (stride.program, stride.speedup) == ("toy", pytest.approx(1.5))
    assert (stride.predicted_speedup, stride.predicted_coverage) == (pytest.approx(1.4), 0.8)
    assert (other.program, other.to_row()["predicted_speedup"]) == ("other", None)
    row = next(line for line in printed(cells).splitlines() if "stride" in line)
    assert row.split()[-4:] == ["1.50", "90.0%", "1.40", "80.0%"]


def test_the_table_has_no_columns_of_replay_where_it_was_not_asked():
    assert "(r)" not in printed(make_cells(MEASURED, ["linux-0", "linux-vma"], {}))


def printed(cells):
    out = StringIO()
    print_cells(cells, Console(file=out, width=140))
    return out.getvalue()


def test_a_program_that_looks_otherwise_far_ahead_is_not_mixed_with_runs_of_another(tmp_path):
    store, pair, wanted = LiveStore(tmp_path, loop=False), PAIRS[0], {"degree_pages": 32, "agent_ns": 1}
    assert not store.learned(pair, wanted)
    store.program(pair).write_text("{}")
    store.keep_learned(pair, {"leaves": 3, **wanted})

    assert store.learned(pair, wanted)
    with pytest.raises(ParameterError, match=r"was learned with .*32.* not .*48.*: give another --work"):
        store.learned(pair, wanted | {"degree_pages": 48})


def test_the_disk_is_looked_at_once_a_round_and_pair(tmp_path):
    class Counting:
        n_looks = 0

        def look(self):
            self.n_looks += 1
            return dict.fromkeys(DRIFTING, 10 * self.n_looks)

    store, looker = LiveStore(tmp_path, loop=False), Counting()
    assert looks_of(PAIRS[0], store) == {}
    for number in range(3):
        for pair in PAIRS[:2]:
            for _variant in range(4):
                _look(pair, looker, store, number)

    assert looker.n_looks == 6
    assert looks_of(PAIRS[0], store) == dict.fromkeys(DRIFTING, 30)  # of 10, 30 and 50
    assert looks_of(PAIRS[1], store) == dict.fromkeys(DRIFTING, 40)


@pytest.mark.parametrize("rounds", [2, 4, 7, 16])
def test_rounds_meet_the_whole_statistics_period_however_many_are_asked_for_at_a_time(rounds):
    parts = [Fraction(*moment_of(number)) for number in range(rounds)]
    ends = [*sorted(parts), 1 + min(parts)]
    assert max(then - one for one, then in pairwise(ends)) <= Fraction(2, rounds)
    assert len(set(parts)) == rounds


@gcc
@qemu
def test_what_another_recorder_recorded_is_recorded_anew(tmp_path, monkeypatch):
    store, said = LiveStore(tmp_path, loop=False), []
    [pair] = choose_pairs(["stride-7"])
    small = replace(pair.learn, arguments=("500", "7", "100"))
    plan = Plan([small], [], [], 0, 64, 60.0, "1G")

    def recorded():
        record_references(plan, store, said.append)
        return Trace(store.trace(small)).sha256

    first = recorded()
    assert recorded() == first
    with monkeypatch.context() as later:
        later.setattr(refs, "build", lambda *_: (None, "of a later version"))
        assert not refs.recorded_by_this_version(Trace(store.trace(small)))
    monkeypatch.setattr(matrix, "recorded_by_this_version", lambda _: False)
    assert recorded() != first
    assert sum("recording" in line for line in said) == 2

    def cut_short(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "record", cut_short)
    with pytest.raises(KeyboardInterrupt):
        recorded()
    assert store.recorded(small) is None  # though it had been recorded before

"""The rows of `vmas` in a recording of faults: what each process has mapped, and what a fork passes on."""

import time

from hypothesis import given
from hypothesis import strategies as st

from kdtool.collect.mappings import USER_END_VPN, Mappings, Row, _row
from kdtool.kernel.perf_records import Comm, Exit, Fork, Mapping, Side
from kdtool.traces import VmaFlag

PAGE = 4096


class Plain:
    """The rule in its plainest form: all rows are looked at for each."""

    def __init__(self) -> None:
        self.live: dict[int, list[Row]] = {}
        self.rows: list[tuple[int, Row]] = []

    def add(self, pid: int, row: Row) -> None:
        kept = [
            old
            for old in self.live.get(pid, [])
            if not row.start_vpn <= old.start_vpn < old.end_vpn <= row.end_vpn
        ]
        self.live[pid] = [*kept, row]
        self.rows.append((pid, row))

    def follow(self, record: Side) -> None:
        if isinstance(record, Mapping):
            self.add(record.pid, _row(record))
        elif isinstance(record, Comm) and record.is_exec:
            self.live[record.pid] = []
            self.rows.append((record.pid, Row(record.t_ns, 0, USER_END_VPN, VmaFlag.UNMAPPED, "")))
        elif isinstance(record, Fork) and record.pid != record.parent_pid:
            for row in list(self.live.get(record.parent_pid, [])):
                self.add(record.pid, Row(record.t_ns, row.start_vpn, row.end_vpn, row.flags, row.name))
        elif isinstance(record, Exit) and record.last:
            self.live.pop(record.pid, None)


@st.composite
def records(draw: st.DrawFn, t_ns: int) -> Side:
    """A record of one of three processes; addresses are few, so that mappings cover each other."""
    pid, other = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["map"] * 8 + ["fork"] * 3 + ["exec", "name", "exit", "thread"]))
    if kind == "map":
        start = draw(st.integers(0, 12))
        end = start + draw(st.integers(0, 6))
        return Mapping(t_ns, pid, start * PAGE, end * PAGE, draw(st.integers(0, 7)), False, f"/{t_ns}")
    if kind == "fork":
        return Fork(t_ns, pid, other, pid, other)
    if kind in ("exec", "name"):
        return Comm(t_ns, pid, pid, "x", kind == "exec")
    return Exit(t_ns, pid, kind == "exit")


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(*(records(t_ns) for t_ns in range(n)))))
def test_the_rows_are_those_of_the_plain_rule(given: tuple[Side, ...]) -> None:
    plain, mappings = Plain(), Mappings()
    for record in given:
        plain.follow(record)
        mappings.follow(record)

    assert mappings._pending == plain.rows
    assert {pid: list(live) for pid, live in mappings._live.items() if list(live)} == {
        pid: live for pid, live in plain.live.items() if live
    }


def test_as_many_mappings_as_linux_allows_are_followed_in_seconds() -> None:
    """65,530 (vm.max_map_count), and forks of a process that has them: the plain rule takes many minutes."""
    mappings, began_s = Mappings(), time.process_time()
    for vpn in range(0, 2 * 65_530, 2):
        mappings.add(1, Row(0, vpn, vpn + 1, 3, ""))
    mappings.follow(Fork(1, 2, 1, 2, 1))
    mappings.add(2, Row(2, 0, 2 * 65_530, 3, ""))
    mappings.follow(Fork(3, 4, 2, 4, 2))

    assert time.process_time() - began_s < 20
    assert len(mappings._pending) == 2 * 65_530 + 2

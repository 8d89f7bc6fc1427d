"""The figures of each table as lines of a screen: a label and what it says; SECTIONS lists them all."""

from collections.abc import Callable, Iterator
from typing import Any

from kdtool.traces.info.whence import source_facts
from kdtool.traces.info.wording import bars, count, duration, join, lay, rate, shorten, si, size
from kdtool.traces.sizes import PAGE_BYTES

__all__ = ["LABEL", "SECTIONS", "WIDTH", "Line"]

LABEL = 11
"""Columns of the label."""
WIDTH = 80 - LABEL
NAME = 24
"""Columns of a thread's or kernel's name."""
NS_PER_S = 1_000_000_000

Line = tuple[str, str]
Figures = dict[str, Any]


def _faults(description: Figures, table: Figures) -> Iterator[Line]:
    yield "faults", join([f"{table['major']:,} major", f"{table['minor']:,} minor", _footprint(table)], WIDTH)
    kinds = [
        f"{kind} {_share(of['rows'], table['rows'])}" + (f" ({of['major']:,} major)" if of["major"] else "")
        for kind, of in table["by_mapping"].items()
    ]
    for i, text in enumerate(lay(kinds, WIDTH)):
        yield "" if i else " in", text
    yield " by", _processes(table)
    yield from _deltas(table["deltas"])
    yield from _over_time(table, "fault")
    if table["major"]:
        yield from _rate(" major", table, "major")


def _refs(description: Figures, table: Figures) -> Iterator[Line]:
    kinds = [f"{kind} {_share(n, table['rows'])}" for kind, n in table["kinds"].items()]
    yield "refs", join(kinds, WIDTH)
    reduction = description["reduction"]
    if reduction is not None:
        yield " reduced", _reduction(description, reduction, table["rows"])
    kinds = [f"{kind} {of['footprint_pages']:,}" for kind, of in table["by_mapping"].items()]
    yield " in", join([f"{_footprint(table)}: {kinds[0]}", *kinds[1:]], WIDTH)
    yield " by", _processes(table)
    yield from _deltas(table["deltas"])
    if table["insns"]:
        per = si(table["rows"] * 1000 / table["insns"])
        yield " clock", f"{table['insns']:,} instructions, {per} refs in 1,000"
    new = table["new_pages"]
    yield " new pages", f"{bars(new['pages'])} max {si(max(new['pages']))}"


def _sched(description: Figures, table: Figures) -> Iterator[Line]:
    counts = [count(table["switches"], "switch", "switches")]
    counts += [count(table[f"{name}s"], name) for name in ("waking", "migration", "fork")]
    yield "sched", join(counts, WIDTH)
    yield " waited", f"{_quantiles(table['runqueue_ns'])} from waking to switch-in"
    preempted = f"{_share(table['preempted'], table['switched_out'])} of switches out preempted"
    room_ns = len(table["cpus"]) * (table.get("span_ns") or 0)
    cpus = f"{_share(table['on_cpu_ns'], room_ns)} of {count(len(table['cpus']), 'CPU')}"
    least = "at least " if source_facts(description).get("sched", {}).get("unpaired") else ""
    yield " ran", join([f"{least}{duration(table['on_cpu_ns'])}", cpus, preempted], WIDTH)
    yield " by", _who(table["top_threads"], "tid", table["threads"])
    yield from _over_time(table, "event")


def _blockio(description: Figures, table: Figures) -> Iterator[Line]:
    facts = [
        count(table["rows"], "request"),
        size(table["bytes_moved"]),
        f"{_share(table['sequential'], table['rows'])} sequential",
        count(table["errors"], "error"),
        f"{table['in_flight']:,} in flight",
    ]
    yield "blockio", join(facts, WIDTH)
    for name, of in table["operations"].items():
        yield f" {name}", f"{count(of['requests'], 'request')}, {size(of['bytes'])}"
        steps = (("queued", of["queue_to_issue_ns"]), ("served", of["issue_to_complete_ns"]))
        known = [f"{step} {_quantiles(latency)}" for step, latency in steps if latency["count"]]
        if known:
            yield "", join(known, WIDTH)
    yield (
        " on",
        join(
            [f"{each['name']} {_share(each['requests'], table['rows'])}" for each in table["devices"]], WIDTH
        ),
    )
    yield " by", _who(table["top_threads"], "tid", table["threads"])
    yield from _over_time(table, "request")


def _accel(description: Figures, table: Figures) -> Iterator[Line]:
    span_ns = table.get("span_ns")
    busy = [
        f"device {each['device']} {duration(each['busy_ns'])} ({_share(each['busy_ns'], span_ns or 0)})"
        for each in table["devices"]
    ]
    unfinished = [f"{table['unfinished']:,} unfinished"] if table["unfinished"] else []
    yield "accel", join([count(table["rows"], "command"), *unfinished], WIDTH)
    yield " busy", join(busy, WIDTH)
    for name, of in table["kinds"].items():
        moved = f", {size(of['bytes'])}" if of["bytes"] else ""
        speed = f" ({si(of['bytes'] * NS_PER_S / of['time_ns'])}B/s)" if of["bytes"] and of["time_ns"] else ""
        yield f" {name}", f"{of['commands']:,}{moved} in {duration(of['time_ns'])}{speed}"
    kernels = [
        f"{shorten(each['name'], NAME)} {each['share']:.1%} "
        f"({each['launches']:,} × {duration(each['time_ns'] / each['launches'])})"
        for each in table["top_kernels"]
    ]
    if kernels:
        yield " kernels", join(kernels, WIDTH)
    yield " waited", f"{_quantiles(table['queued_to_start_ns'])} from queued to start"
    yield " by", _who(table["top_processes"], "pid", table["processes"])
    yield from _over_time(table, "command")


def _vmas(description: Figures, table: Figures) -> Iterator[Line]:
    yield (
        "vmas",
        join(
            [
                f"{table['mapped']:,} mapped",
                f"{table['unmapped']:,} unmapped",
                count(table["files"], "file"),
                count(table["processes"], "process", "processes"),
            ],
            WIDTH,
        ),
    )


def _forks(description: Figures, table: Figures) -> Iterator[Line]:
    children = count(table["children"], "process", "processes")
    yield "forks", f"{children} by {count(table['parents'], 'parent')}"


def _waits(description: Figures, table: Figures) -> Iterator[Line]:
    sleeps = count(table["sleeps"], "sleep")
    parts = [f"{sleeps} of {count(table['threads'], 'thread')}"]
    parts.append(f"{table['woken_by_a_thread']:,} ended by another one")
    if table["asked_ns"]:
        parts.append(f"{duration(table['asked_ns'])} asked for")
    yield "waits", join(parts, WIDTH)


def _zeros(description: Figures, table: Figures) -> Iterator[Line]:
    found = count(table["found"], "reference")
    yield "zeros", f"after {found} of {table['references']:,} the page is full of zeros"


def _tasks(description: Figures, table: Figures) -> Iterator[Line]:
    processes = count(table["processes"], "process", "processes")
    yield "tasks", f"{count(table['threads'], 'thread')} of {processes}"


SECTIONS: tuple[tuple[str, Callable[[Figures, Figures], Iterator[Line]]], ...] = (
    ("faults", _faults),
    ("refs", _refs),
    ("sched", _sched),
    ("blockio", _blockio),
    ("accel", _accel),
    ("vmas", _vmas),
    ("forks", _forks),
    ("waits", _waits),
    ("zeros", _zeros),
    ("tasks", _tasks),
)
"""In the order of the screen."""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _footprint(table: Figures) -> str:
    pages = table["footprint_pages"]
    return f"{pages:,} pages ({size(pages * PAGE_BYTES)})"


def _processes(table: Figures) -> str:
    return _who(table["top_processes"], "pid", table["processes"], count(table["threads"], "thread"))


def _who(top: list[Figures], key: str, n: int, *more: str) -> str:
    """Return the processes or threads that most is of, by name, and how many there are."""
    parts = []
    for each in top:
        name = shorten(each["name"], NAME) if each["name"] else "no name"
        which = f"({each[key]})" if each["count"] == 1 else f"× {each['count']:,}"
        parts.append(f"{name} {which} {each['share']:.1%}")
    n_shown = sum(each["count"] for each in top)
    kind = ("process", "processes") if key == "pid" else ("thread", "threads")
    rest = [f"{n - n_shown:,} other {kind[n - n_shown > 1]}"] if n > n_shown else []
    return join([*parts, *rest, *more], WIDTH)


def _deltas(deltas: Figures) -> Iterator[Line]:
    if not deltas["count"]:
        return
    top = [f"{_signed(each['pages'])} {_share(each['count'], deltas['count'])}" for each in deltas["top"]]
    forward = f"forward {_share(deltas['forward'], deltas['count'])}"
    yield " deltas", join([*top, forward], WIDTH)
    yield " |delta|", f"{bars(deltas['by_log2'])} 0, 1, 2 to 3 … 2^{len(deltas['by_log2']) - 1} pages"


def _signed(pages: int) -> str:
    return f"{pages:+,}" if pages else "0"


def _reduction(description: Figures, reduction: Figures, rows: int) -> str:
    """Return how, and what is left of the references that the source counted, where it says how many."""
    # Recordings of version 1 told it of the workload.
    facts = source_facts(description).get("refs", {}) | description["workload"]
    counted = facts.get("refs_counted")
    known = isinstance(counted, int) and counted > 0
    of = f": {_share(rows, counted)} of {counted:,} references are left" if known else ""
    return f"{reduction['method']}, k = {reduction['k']}{of}"


def _quantiles(latency: Figures) -> str:
    if not latency["count"]:
        return "–"
    return f"p50 {duration(latency['p50'])} p99 {duration(latency['p99'])}"


def _over_time(table: Figures, what: str) -> Iterator[Line]:
    yield from _rate(" rate", table, "rows")
    if table["over_time"]["untimed"]:
        yield "", f"{count(table['over_time']['untimed'], what)} without a time"


def _rate(label: str, table: Figures, key: str) -> Iterator[Line]:
    """Draw rows over the table's span, and say the highest rate of a part."""
    over_time = table["over_time"]
    if table.get("span_ns"):
        highest = max(over_time[key]) * NS_PER_S / over_time["part_ns"]
        yield label, f"{bars(over_time[key])} max {rate(highest)}"

"""What the manifest says of a recording, in words: how it ended, what recorded it, at what cost, and where.

Nothing here is counted on: a fact that is missing, or of another kind than our recorders write, is left out.
"""

from typing import Any

from kdtool.traces.info.wording import duration, size

__all__ = ["collector_parts", "ending", "host_parts", "source_facts"]

Facts = dict[str, Any]

ENDINGS = {
    "command": "the command ended",
    "cgroup": "the cgroup ended",
    "process": "the process ended",
    "duration": "its time was up",
    "size": "its size was reached",
    "user": "Ctrl-C ended it",
    "signal": "Ctrl-C or another signal cut it short",
    "killed": "its recorder was killed",
}
"""`workload.ended_by` (collect/session.py)."""

PARTS = {"opencl": "an OpenCL layer", "drm": "tracepoints of GPU drivers"}
"""Of the source `accel`."""


def ending(description: Facts) -> str:
    """Return the state, and why and how the recording ended where it is known."""
    workload, said = description["workload"], [description["state"]]
    if isinstance(workload.get("ended_by"), str):
        said.append(ENDINGS.get(workload["ended_by"], f"ended by {workload['ended_by']}"))
    if isinstance(workload.get("exit_code"), int):
        said.append(f"exit code {workload['exit_code']}")
    if isinstance(workload.get("wall_ns"), int):
        said.append(duration(workload["wall_ns"]))
    return ", ".join(said)


def source_facts(description: Facts) -> dict[str, Facts]:
    """Return the facts of each source by its name; of one recorder without sources, its own."""
    collector = description["collector"]
    sources = collector.get("sources")
    if not isinstance(sources, dict) or not sources:
        return {str(collector.get("name", "unknown")): collector}
    return {name: facts if isinstance(facts, dict) else {} for name, facts in sources.items()}


def collector_parts(description: Facts) -> list[str]:
    """Return what recorded it and by which way, and what that cost."""
    collector = description["collector"]
    parts = [f"{name}{_way(facts)}" for name, facts in source_facts(description).items()]
    if "file" in collector:
        parts[-1] += f" from {collector['file']}"
    told = collector.get("overhead")
    overhead: Facts = told if isinstance(told, dict) else {}
    costs = {key: n for key, n in overhead.items() if type(n) is int}
    cpu_ns = [costs.pop(key) for key in ("cpu_ns", "after_cpu_ns") if key in costs]
    if cpu_ns:
        counted = sum(table["counted"] for table in description["tables"].values())
        each = f", {duration(sum(cpu_ns) / counted)} an event" if counted else ""
        parts.append(f"{' + '.join(map(duration, cpu_ns))} of CPU{each}")
    parts += [_cost(key, n) for key, n in costs.items()]
    return parts + [f"{_words(key)} {said}" for key, said in overhead.items() if isinstance(said, str)]


def _way(facts: Facts) -> str:
    """Return by which way a source's events came, as its facts say it in their several ways."""
    seen = [
        way
        for name, way in PARTS.items()
        if isinstance(facts.get(name), dict) and "unavailable" not in facts[name]
    ]
    if seen:
        return " by " + " and ".join(seen)
    return f" by {facts['path']}" if "path" in facts else " by qemu-user" if "qemu" in facts else ""


def _cost(key: str, n: int) -> str:
    words = _words(key)
    return f"{words.removesuffix(' ns')} {duration(n)}" if key.endswith("_ns") else f"{words} {n:,}"


def _words(key: str) -> str:
    return key.replace("_", " ")


def host_parts(description: Facts) -> list[str]:
    """Return the facts of the machine that decide how it pages."""
    host = description["host"]
    return [
        f"Linux {host.get('kernel_release')}",
        f"{host.get('cpus')} × {host.get('cpu_model') or host.get('machine')}",
        _memory(host.get("memory_bytes"), description["cgroup"].get("limit_bytes")),
        _swap(host.get("swap")),
        f"page-cluster {host.get('page_cluster')}",
        f"THP {host.get('thp') or 'not known'}",
    ]


def _memory(memory_bytes: object, limit_bytes: object) -> str:
    memory = f"{size(memory_bytes)}" if isinstance(memory_bytes, int) else "memory not known"
    return f"limit {size(limit_bytes)} of {memory}" if isinstance(limit_bytes, int) else f"{memory}, no limit"


def _swap(devices: object) -> str:
    known = [each for each in devices if isinstance(each, dict)] if isinstance(devices, list) else []
    if not known:
        return "no swap"
    seeks = known[0].get("rotational")
    kind = "" if seeks is None else ", rotational" if seeks else ", non-rotational"
    more = f" and {len(known) - 1} more" if len(known) > 1 else ""
    return f"swap {known[0].get('path')} ({known[0].get('kind')}{kind}){more}"

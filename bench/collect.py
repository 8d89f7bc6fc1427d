"""What recording costs, loses and leaves on disk: python bench/collect.py [faults] [sched] [blockio] ...

Both sides of every comparison run in turn, so that what else the machine does hits all alike; medians are
printed, and the median of the differences of neighbouring runs. Needs root and gcc.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from kdtool.collect import collector, session
from kdtool.collect.base import Collector, Request
from kdtool.collect.faults import Faults
from kdtool.collect.faultstream import FaultStream
from kdtool.collect.limited import run_limited
from kdtool.collect.recovery import recover
from kdtool.kernel.bpf_faults import BpfFaults
from kdtool.kernel.fault_events import CPU, IP, PAGE, TASK, TIME, PerfFaults
from kdtool.kernel.perf import Counts
from kdtool.traces import Manifest, Trace, TraceWriter
from kdtool.traces.blockio import EVENT, BlockEvent, RequestMatcher

PROGRAMS = Path(__file__).parent.parent / "tests" / "programs"
RUNS = 9
FAULTS = 1_000_003
REQUESTS, QUEUE_DEPTH = 9973, 32
DISK_BYTES, BLOCK_BYTES = 256 << 20, 4096
KILLS = 20


def compiled(folder: Path, name: str, *options: str) -> str:
    target = folder / name
    subprocess.run(["gcc", "-O2", "-pthread", "-o", target, PROGRAMS / f"{name}.c", *options], check=True)
    return str(target)


def output_of(work: Callable[[], object]) -> tuple[str, object]:
    """Run `work` and return what its command printed, with its result."""
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        before = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            result = work()
        finally:
            os.dup2(before, 1)
            os.close(before)
        file.seek(0)
        return file.read().decode(), result


def record(folder: Path, command: Sequence[str], *collectors: Collector) -> Trace:
    path = folder / f"{time.monotonic_ns()}.kdt"
    return session.record(Request(tuple(command), path), collectors)


def bench_faults(folder: Path, console: Console) -> None:
    """Added time a fault, by BPF and by perf, on two CPUs and with all on one."""
    program = compiled(folder, "million")
    table = Table(title=f"page faults: {FAULTS:,} a run, medians of {RUNS} interleaved runs")
    for column in (
        "CPUs",
        "way",
        "ns a fault",
        "added ns",
        "lost",
        "bytes an event",
        "recorder's CPU ns an event",
    ):
        table.add_column(column, justify="right")
    for cpus in ("0,1", "0"):
        command = ("taskset", "-c", cpus, program, str(FAULTS))
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
        ns: dict[str, list[float]] = {"none": [], "bpf": [], "perf": []}
        traces: dict[str, list[Trace]] = {"bpf": [], "perf": []}
        for _ in range(RUNS):
            ns["none"].append(float(output_of(partial(run_limited, command, None))[0]))
            for way in (BpfFaults, PerfFaults):
                said, trace = output_of(partial(record, folder, command, Faults((way,))))
                assert isinstance(trace, Trace)
                ns[way.path].append(float(said))
                traces[way.path].append(trace)
        os.sched_setaffinity(0, allowed)
        table.add_row(cpus, "none", f"{median(ns['none']):.0f}", "", "", "", "")
        for way, found in traces.items():
            infos = [trace.manifest.tables["faults"] for trace in found]
            overheads = [trace.manifest.collector["overhead"] for trace in found]
            cpu_ns = [sum(each.values()) / info.rows for each, info in zip(overheads, infos, strict=True)]
            added = median(b - a for a, b in zip(ns["none"], ns[way], strict=True))
            lost, size = sum(info.lost for info in infos), median(info.bytes / info.rows for info in infos)
            table.add_row(
                cpus,
                way,
                f"{median(ns[way]):.0f}",
                f"{added:.0f}",
                f"{lost:,}",
                f"{size:.2f}",
                f"{median(cpu_ns):.0f}",
            )
    console.print(table)


class Blocks:
    """Fault events that come as fast as they are taken, from two CPUs: all but the kernel's part."""

    path, ring_bytes = "memory", 0

    def __init__(self, n_blocks: int, block_rows: int) -> None:
        self.n_blocks, self.block_rows, self.given = n_blocks, block_rows, 0

    def enable(self, pids: Sequence[int]) -> None: ...
    def disable(self) -> None: ...
    def close(self) -> None: ...

    def fds(self) -> list[int]:
        return []

    def drain(self) -> list[tuple[int, np.ndarray]]:
        blocks = []
        while self.given < self.n_blocks and len(blocks) < 2:
            at = np.arange(self.given // 2 * self.block_rows, (self.given // 2 + 1) * self.block_rows)
            rows = np.empty((self.block_rows, 5), np.uint64)
            rows[:, CPU], rows[:, TIME] = self.given % 2, at * 1700 + at * 7919 % 300
            rows[:, TASK], rows[:, IP] = 7 << 32 | 7, 0x401000
            rows[:, PAGE] = (0x7F0000000 + at % 16384) << 1
            blocks.append((self.given % 2, rows))
            self.given += 1
        return blocks

    def decode(self, block: tuple[int, np.ndarray]) -> tuple[np.ndarray, list[object]]:
        return block[1], []

    def faults(self) -> Counts:
        return Counts(self.given * self.block_rows, 0)

    def side(self) -> Counts:
        return Counts(0, 0)


def bench_pipeline(folder: Path, console: Console) -> None:
    """Events a second from a drained ring to a sealed trace."""
    rates = []
    for run in range(RUNS):
        blocks = Blocks(n_blocks=40, block_rows=250_000)
        begin_s = time.perf_counter()
        with TraceWriter(folder / f"pipeline-{run}.kdt") as writer:
            stream = FaultStream(blocks, writer, {})  # type: ignore[arg-type]
            stream.start([])
            while blocks.given < blocks.n_blocks:
                time.sleep(0.001)
            stream.finish()
            trace = writer.seal(Manifest("complete", "monotonic", [], {"name": "bench"}))
            stream.close()
        rates.append(trace.rows("faults") / (time.perf_counter() - begin_s) / 1e6)
    console.print(
        f"pipeline: {median(rates):.2f} M faults/s from ring to sealed trace "
        f"({min(rates):.2f} to {max(rates):.2f} in {RUNS} runs)"
    )


def bench_sched(folder: Path, console: Console) -> None:
    """Scheduling events a second without loss: two threads that hand a byte back and forth."""
    program = compiled(folder, "switches")
    rates, lost = [], 0
    for _ in range(3):
        _, trace = output_of(lambda: record(folder, (program, "pipe", "200003"), collector("sched")))
        assert isinstance(trace, Trace)
        info = trace.manifest.tables["sched"]
        rates.append(info.counted / (trace.manifest.workload["wall_ns"] / 1e9))
        lost += info.lost
    console.print(f"sched: {median(rates):,.0f} events/s recorded, {lost:,} lost")


@contextmanager
def loop_disk(folder: Path) -> Iterator[str]:
    """Give a loop device of our own, with direct I/O."""
    file = folder / "kdtool-disk.img"
    with file.open("wb") as made:
        os.posix_fallocate(made.fileno(), 0, DISK_BYTES)
    attach = ["losetup", "-f", "--show", "--direct-io=on", str(file)]
    path = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield path
    finally:
        subprocess.run(["losetup", "-d", path], check=True)


def request_ns(said: str, requests: int) -> float:
    """Return the time a request took, of what the program printed."""
    _, t0_ns, t1_ns, failed = map(int, said.split())
    assert not failed
    return (t1_ns - t0_ns) / requests


def children_cpu_ns() -> float:
    """Return the CPU time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e9


def bench_blockio(folder: Path, console: Console) -> None:
    """Added time a request, one after another; requests a second, many at once; the matcher alone."""
    program, lost = compiled(folder, "blocks"), 0
    plain, added, added_cpu, recorder_cpu = (list[float]() for _ in range(4))
    with loop_disk(folder) as disk:
        command = (program, disk, "read", str(REQUESTS), str(BLOCK_BYTES))
        for _ in range(RUNS):
            begin_ns = children_cpu_ns()
            before = request_ns(output_of(partial(run_limited, command, None))[0], REQUESTS)
            between_ns = children_cpu_ns()
            said, trace = output_of(partial(record, folder, command, collector("blockio")))
            assert isinstance(trace, Trace)
            info = trace.manifest.tables["blockio"]
            plain.append(before)
            added.append(request_ns(said, REQUESTS) - before)
            added_cpu.append((children_cpu_ns() - between_ns - (between_ns - begin_ns)) / REQUESTS)
            recorder_cpu.append(sum(trace.manifest.collector["overhead"].values()) / info.rows)
            lost += info.lost
        console.print(
            f"blockio: {median(plain):,.0f} ns a request, {median(added):,.0f} ns added, {lost:,} lost "
            f"({REQUESTS:,} a run, medians of {RUNS} pairs)\nblockio: of CPU time a request, the program "
            f"{median(added_cpu):,.0f} ns more, the recorder {median(recorder_cpu):,.0f} ns"
        )
        deep = (program, disk, "depth", str(REQUESTS // 4), str(BLOCK_BYTES), str(QUEUE_DEPTH))
        said, trace = output_of(partial(record, folder, deep, collector("blockio")))
        assert isinstance(trace, Trace)
        info, total = trace.manifest.tables["blockio"], REQUESTS // 4 * QUEUE_DEPTH
        console.print(
            f"blockio: {1e9 / request_ns(said, total):,.0f} requests/s at queue depth {QUEUE_DEPTH}, "
            f"{info.rows - total:+,} rows of {total:,}, {info.lost:,} lost"
        )
    console.print(
        f"blockio: {1e-6 / matcher_seconds(1):.2f} M events/s matched of plain requests, "
        f"{1e-6 / matcher_seconds(2):.2f} M of requests done in two parts (CPU time)"
    )


def matcher_seconds(parts: int) -> float:
    """Return the seconds of CPU an event of requests that are done in some parts, 32 at once."""
    n, kinds = 50_000, [BlockEvent.QUEUE, BlockEvent.GETRQ, BlockEvent.ISSUE, *[BlockEvent.COMPLETE] * parts]
    events = np.zeros(n * len(kinds), EVENT)
    events["event"], events["sector"] = np.tile(kinds, n), np.repeat(np.arange(n) * 8, len(kinds))
    done = events["event"] == BlockEvent.COMPLETE
    events["nr_sectors"], events["tid"] = np.where(done, 8 // parts, 8), 7
    events["sector"][done] += np.tile(np.arange(parts, dtype=np.uint64) * (8 // parts), n)
    begin_ns = np.repeat(np.arange(n) * 10, len(kinds)) + np.tile(range(len(kinds)), n)
    events["ts_ns"] = begin_ns + done * QUEUE_DEPTH * 10
    events = events[np.argsort(events["ts_ns"], kind="stable")]
    seconds = []
    for _ in range(3):
        matcher, begin_s, rows = RequestMatcher(), time.process_time(), 0
        for start in range(0, len(events), 40_000):
            rows += len(matcher.match(events[start : start + 40_000])["dev"])
        seconds.append((time.process_time() - begin_s) / len(events))
        assert rows == n
    return median(seconds)


def bench_kill(folder: Path, console: Console) -> None:
    """kill -9 at random moments: rows left, and how long ago the last of them was."""
    program, behind_s = compiled(folder, "million"), []
    for moment in range(KILLS):
        path = folder / f"kill-{moment}.kdt"
        command = [sys.executable, "-m", "kdtool", "collect", "-o", str(path), "--", program, "20000000"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as recorder:
            while not (path / "recording.json").exists():
                time.sleep(0.01)
            time.sleep(random.Random(moment).uniform(0, 6))
            recorder.kill()
            killed_ns = time.monotonic_ns()
        subprocess.run(["pkill", "-KILL", "-f", f"^{program} 20000000"], check=False)
        assert recover(path)
        trace = Trace(path)
        assert trace.manifest.state == "interrupted"
        if trace.rows("faults"):
            behind_s.append((killed_ns - int(trace.columns("faults", ["ts_ns"])["ts_ns"][-1])) / 1e9)
    console.print(
        f"kill -9: {KILLS} of {KILLS} traces read; the last row was {median(behind_s):.1f} s old, "
        f"{max(behind_s):.1f} at most"
    )


BENCHES = {
    "faults": bench_faults,
    "pipeline": bench_pipeline,
    "sched": bench_sched,
    "blockio": bench_blockio,
    "kill": bench_kill,
}


def main() -> None:
    """Run the benches that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bench", nargs="*", choices=[*BENCHES, []], help="which; all when none is named")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console()
    for name in parser.parse_args().bench or BENCHES:
        with tempfile.TemporaryDirectory(prefix="kdtool-bench-") as folder:
            BENCHES[name](Path(folder), console)


if __name__ == "__main__":
    main()

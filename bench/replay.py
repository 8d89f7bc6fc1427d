"""How fast replay is, beside others: python bench/replay.py [speed] [scaling] [sweep] [start] [memory]

The trace: 10 M references, Zipf(1.0) over 1 M pages in random order, 100,000 of them resident. All sides of a
comparison run in turn, several rounds; rates are medians, ratios medians of each round's own. One-threaded
runs are timed by their CPU time, which other programs on the machine change less than the wall clock.
Needs gcc and libcachesim.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import libcachesim
import numpy as np
from rich.console import Console
from rich.table import Table

from kdtool.replay import ProgramPolicy, Workload, load_device, load_policy, load_workload, replay, run_shadow
from kdtool.replay.curve import miss_curve
from kdtool.replay.parallel import score_traces
from kdtool.replay.sweep import Sweep
from kdtool.rmt import Program, read_program
from kdtool.traces import Manifest, Reduction, Trace, TraceWriter
from kdtool.traces.exporters import export_trace

ROOT = Path(__file__).parent.parent
N_REFS, N_PAGES, RESIDENT = 10_000_000, 1_000_000, 100_000
TREE = ROOT / "bench" / "stencil.rmt.json"
"""A learned program: one tree, at most 10 comparisons to a leaf."""

C_LOOP, PEER = "C loop", "libCacheSim"

COLUMN_BYTES = 33
"""A row of the table `refs`: what a trace takes in memory as it is."""


def zipf(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    reached = np.cumsum(1 / np.arange(1, N_PAGES + 1))
    return rng.permutation(N_PAGES)[np.searchsorted(reached, rng.random(n) * reached[-1])]


def write_trace(path: Path, vpns: np.ndarray) -> Path:
    n = len(vpns)
    with TraceWriter(path) as writer:
        columns = {
            "pid": np.ones(n, np.int32),
            "tid": np.ones(n, np.int32),
            "vpn": vpns.astype(np.uint64),
            "ip": np.zeros(n, np.uint64),
            "kind": np.zeros(n, np.uint8),
            "insns": np.arange(1, n + 1, dtype=np.uint64) * 100,
        }
        writer.append("refs", columns)
        writer.seal(
            Manifest("complete", "insns", ["bench"], {"name": "bench"}, reduction=Reduction("none", 0))
        )
    return path


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def c_loop(folder: Path, workload: Workload) -> list[str]:
    """Return the command of bench/lru.c over the same dense ids."""
    program, ids = folder / "lru", folder / "ids"
    subprocess.run(["gcc", "-O2", "-o", program, ROOT / "bench" / "lru.c"], check=True)
    workload.page.tofile(ids)
    return [str(program), str(ids), str(len(workload.keys)), str(RESIDENT)]


def plain_c(folder: Path, workload: Workload, misses: int) -> Callable[[], float]:
    """Return a run of the C loop, which says its own seconds."""
    command = c_loop(folder, workload)

    def run() -> float:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found, ns = map(int, done.stdout.split())
        assert found == misses
        return ns / 1e9

    return run


def peer(folder: Path, trace: Path, misses: int) -> Callable[[], float]:
    """Return a run of libCacheSim's LRU over the same references as an oracleGeneral file."""
    file = folder / "refs.oracleGeneral"
    export_trace("oracle-general", trace, file)
    kind = libcachesim.TraceType.ORACLE_GENERAL_TRACE
    options = libcachesim.ReaderInitParam(ignore_obj_size=True)

    def run() -> float:
        reader = libcachesim.TraceReader(str(file), kind, options)
        cache = libcachesim.LRU(cache_size=RESIDENT)
        began = time.thread_time()
        miss_ratio, _ = cache.process_trace(reader)
        took_s = time.thread_time() - began
        assert round(miss_ratio * N_REFS) == misses
        return took_s

    return run


def tree_of(degree_pages: int) -> Program:
    """Return the learned program with another degree."""
    program = read_program(TREE)
    return replace(program, guards=replace(program.guards, degree_pages=degree_pages))


def bench_speed(folder: Path, console: Console, rounds: int) -> None:
    """Accesses a second of each engine and policy, libCacheSim and a C loop."""
    trace = write_trace(folder / "zipf.kdt", zipf(N_REFS))
    workload, device = load_workload(Trace(trace)), load_device("ssd")
    shadow, curve = run_shadow(workload, RESIDENT, device), miss_curve(workload)
    misses = curve.cold_faults + curve.major_faults(RESIDENT)
    works: dict[str, Callable[[], object]] = {
        "lru, none": partial(run_shadow, workload, RESIDENT, device, "lru"),
        "linux, none": partial(run_shadow, workload, RESIDENT, device, "linux"),
        "every size at once (--mrc)": partial(miss_curve, workload),
    }
    policies = {"linux-vma": load_policy("linux-vma")}
    for degree in (1, 16):
        policies[f"a learned tree, {degree} at once"] = ProgramPolicy(tree_of(degree))
    for name, policy in policies.items():
        works[f"linux, {name}"] = partial(replay, workload, policy, shadow, device)
    sides: dict[str, Callable[[], float]] = {
        C_LOOP: plain_c(folder, workload, misses),
        PEER: peer(folder, trace, misses),
        **{name: partial(cpu_seconds, work) for name, work in works.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(run())
    console.print(speed_table(seconds))


def speed_table(seconds: dict[str, list[float]]) -> Table:
    table = Table(title=f"{N_REFS:,} accesses, Zipf(1.0) over {N_PAGES:,} pages, {RESIDENT:,} resident")
    for column in ("", "M accesses/s", "range", f"× {PEER}", f"× {C_LOOP}"):
        table.add_column(column, justify="right" if column else "left")
    for name, took in seconds.items():
        rates = [N_REFS / each / 1e6 for each in took]
        span = f"{min(rates):.2f}–{max(rates):.2f}"
        pairs = (zip(seconds[other], took, strict=True) for other in (PEER, C_LOOP))
        ratios = [f"{median(other / own for other, own in pair):.2f}" for pair in pairs]
        table.add_row(name, f"{median(rates):.2f}", span, *ratios)
    return table


def bench_scaling(folder: Path, console: Console, rounds: int) -> None:
    """How much longer twice the trace takes."""
    whole = load_workload(Trace(write_trace(folder / "zipf.kdt", zipf(N_REFS))))
    half, device = whole.prefix(N_REFS // 2), load_device("ssd")
    works: dict[str, Callable[[Workload], object]] = {
        "lru, none": lambda w: run_shadow(w, RESIDENT, device, "lru"),
        "linux, none": lambda w: run_shadow(w, RESIDENT, device),
        "--mrc": miss_curve,
    }
    for name, work in works.items():
        work(half)  # so that what is to be compiled is
        ratios = []
        for _ in range(rounds):
            short_s, long_s = (cpu_seconds(partial(work, part)) for part in (half, whole))
            ratios.append(long_s / short_s)
        span = f"({min(ratios):.2f} to {max(ratios):.2f})"
        console.print(f"twice the trace, {name}: {median(ratios):.2f} times as long {span}")


def gain_of_two(command: list[str]) -> float:
    """Return by how much two runs at once are faster than one after the other: what two CPUs have to give."""

    def wall_s(groups: int, at_once: int) -> float:
        began = time.perf_counter()
        for _ in range(groups):
            for run in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(at_once)]:
                assert run.wait() == 0
        return time.perf_counter() - began

    return wall_s(2, 1) / wall_s(1, 2)


def seconds_in_a_fork(work: Callable[[], object]) -> float:
    """Return how long work takes in a process of its own: like a command, it finds no memory left for it."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def run() -> None:
        began = time.perf_counter()
        work()
        theirs.send(time.perf_counter() - began)

    process = fork.Process(target=run)
    process.start()
    theirs.close()
    took_s = float(ours.recv())
    process.join()
    return took_s


def bench_sweep(folder: Path, console: Console, rounds: int) -> None:
    """Eight replays one after the other, as a sweep in one process, and in two; beside it two C loops.

    One after the other each reads the trace and runs its shadow; a sweep does that once for all.
    """
    trace = write_trace(folder / "zipf.kdt", zipf(N_REFS))
    command = c_loop(folder, load_workload(Trace(trace)))
    policies = tuple(load_policy(name) for name in ("none", "linux-vma", "linux-cluster", "leap-paper"))
    sweep = Sweep(policies, ("10%", "20%"), (load_device("ssd"),))
    singles = [replace(sweep, policies=(p,), memories=(m,)) for p in policies for m in sweep.memories]
    assert len(score_traces([trace], sweep)) == 8  # compiles what a fork would have to compile each time
    read_s, took, at_most, apart_s = [], {1: [], 2: []}, [], []
    for _ in range(rounds):
        at_most.append(gain_of_two(command))
        read_s.append(seconds_in_a_fork(lambda: load_workload(Trace(trace))))
        apart_s.append(seconds_in_a_fork(lambda: [score_traces([trace], single) for single in singles]))
        for jobs, seconds in took.items():
            seconds.append(seconds_in_a_fork(partial(score_traces, [trace], sweep, jobs)))
    bare = [(one - read) / (two - read) for one, two, read in zip(took[1], took[2], read_s, strict=True)]
    console.print(
        f"8 replays of {N_REFS:,} accesses, a sweep in two processes: {median(took[2]):.1f} s. One after the "
        f"other: {median(apart_s):.1f} s, {spread(apart_s, took[2])}. A sweep in one process: "
        f"{median(took[1]):.1f} s, {spread(took[1], took[2])}; without the {median(read_s):.1f} s to read "
        f"the trace {median(bare):.2f} ×. Two C loops at once {median(at_most):.2f} × "
        f"({min(at_most):.2f} to {max(at_most):.2f})"
    )


def spread(slow_s: list[float], fast_s: list[float]) -> str:
    """Return the median and range of each round's ratio."""
    ratios = [slow / fast for slow, fast in zip(slow_s, fast_s, strict=True)]
    return f"{median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


COMMAND = """
import sys
from kdtool.cli import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def run_command(arguments: list[str], **environment: str) -> tuple[float, int]:
    """Run a command line of kdtool and return its seconds and the most memory that it held, in bytes."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return time.perf_counter() - began, int(done.stderr.split()[-1]) * 1024


def bench_start(folder: Path, console: Console, rounds: int) -> None:
    """From the command to the scoreboard of a tiny trace: after installing, and later."""
    trace = write_trace(folder / "tiny.kdt", np.arange(1000))
    command = partial(run_command, ["replay", str(trace)], XDG_CACHE_HOME=str(folder / "cache"))
    first_s, _ = command()
    later = [command()[0] for _ in range(rounds)]
    console.print(
        f"kdtool replay of 1,000 accesses, 5 policies: {first_s:.1f} s the first time, "
        f"then {median(later):.2f} s ({min(later):.2f} to {max(later):.2f})"
    )


def bench_memory(folder: Path, console: Console, rounds: int) -> None:
    """The most memory that a command holds, less what it holds for a tiny trace, by access."""
    del rounds  # it does not vary
    tiny = write_trace(folder / "tiny.kdt", np.arange(1000))
    trace = write_trace(folder / "zipf.kdt", zipf(N_REFS))
    for options in (["-p", "none", "--jobs", "1"], ["-p", "linux-vma", "--jobs", "1"], ["--mrc"]):
        least, most = (run_command(["replay", str(path), *options])[1] for path in (tiny, trace))
        access = (most - least) / N_REFS
        console.print(
            f"kdtool replay {' '.join(options)}: {access:.1f} bytes an access, "
            f"{access - COLUMN_BYTES:.1f} beyond the trace's own {COLUMN_BYTES}"
        )


BENCHES = {
    "speed": bench_speed,
    "scaling": bench_scaling,
    "sweep": bench_sweep,
    "start": bench_start,
    "memory": bench_memory,
}


def main() -> None:
    """Run the benches that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bench", nargs="*", choices=[*BENCHES, []], help="which; all when none is named")
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison")
    given = parser.parse_args()
    console = Console(width=110)
    for name in given.bench or BENCHES:
        with tempfile.TemporaryDirectory(prefix="kdtool-bench-") as folder:
            BENCHES[name](Path(folder), console, given.rounds)


if __name__ == "__main__":
    main()

"""What a decision costs, beside others: python bench/rmt.py [PART ...], all parts without one

    tree     a random tree of depth 10 over 8 features, at inputs that no branch predictor can foresee
    forest   50 trees of depth 10 over the same, as a random forest and as boosted trees
    network  layers of 16, 16 and 1 over the same
    stencil  bench/stencil.rmt.json, a tree of depth 10, at the swap-ins of the example trace
    swap     decisions while their policy is replaced without pause
    faults   bench/stencil.rmt.json at the page faults of a program that swaps, by the kernel's own statistics

BPF is timed by the kernel's test runs, net of the same program without the decision. All sides run in turn,
ROUNDS times; medians are shown. Needs root; pip install -e '.[bench]' for the others, gcc; swap for `faults`.
"""

import argparse
import ctypes
import os
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table as Shown
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeRegressor

from kdtool.kernel.bpf import count_run_time
from kdtool.learners.boosted import lower_boosted
from kdtool.learners.forest import lower_random_forest
from kdtool.learners.mlp import lower_mlp
from kdtool.rmt import (
    Action,
    Budget,
    Feature,
    Forest,
    Guards,
    Model,
    Network,
    Program,
    Register,
    Table,
    lower_tree,
    read_program,
)
from kdtool.rmt.batch import answers
from kdtool.rmt.lower_network import INPUT_SCALE, choose_shifts, shifted_inputs
from kdtool.rmt.numba_vm import observe
from kdtool.rmt.packed import pack
from kdtool.rmt.packedmodels import pack_models
from kdtool.verify.build import swap_ins
from kdtool.verify.equivalence import decide_all, decide_rows
from kdtool.verify.kernelvm import BATCH_EVENTS, KernelVm

ROOT = Path(__file__).parent.parent
STENCIL, TRACE = ROOT / "bench" / "stencil.rmt.json", ROOT / "examples" / "stencil.kdt"
ROUNDS = 15
KERNEL_RUNS = 50 * BATCH_EVENTS
FEATURES, DEPTH, N_TRAIN = 8, 10, 65_536
N_TREES, N_CLASSES = 50, 5
LAYERS = (16, 16)
PAGES = 1 << 22
"""Differences of pages below 2^22 are the same number as float32, which the others compute with."""

WALK_C = """
#define COMPARE \\
    long children = block[1], right = (block[0] >> 32) - X[slot & 63] >> 63; \\
    long at_left = (int)children - X[slot >> 6 & 63], at_right = (children >> 32) - X[slot >> 12 & 63]; \\
    const long *following = params + (unsigned)block[0];

void walk(const long *params, const long *X, long *out, long tree, long n_rows, long n_features) {
    for (long row = 0; row < n_rows; row++, X += n_features) {
        const long *block = params + tree + 5;
        long slot = params[tree + 3];
        for (long step = 1; step < params[tree]; step++) {
            COMPARE
            long lefts = block[2] >> (at_left >> 59 & 31), rights = block[3] >> (at_right >> 59 & 31);
            slot = lefts ^ (lefts ^ rights) & right;
            block = following + (slot >> 18 & 12);
        }
        COMPARE
        long child = (at_left ^ (at_left ^ at_right) & right) >> 63;
        out[row] = following[2 - right] << (child & 32) >> 32;
    }
}
"""

Timed = Callable[[], float]
"""One round: the ns of a decision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = {
        "tree": bench_tree,
        "forest": bench_forest,
        "network": bench_network,
        "stencil": bench_stencil,
        "swap": bench_swap,
        "faults": bench_faults,
    }
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="what to run; default: all")
    for part in parser.parse_args().parts or parts:
        parts[part]()


def show(title: str, rows: dict[str, float], baseline: str) -> None:
    table = Shown("", "ns", f"× {baseline}", title=title, title_justify="left", min_width=80)
    for name, ns in rows.items():
        table.add_row(name, f"{ns:,.1f}", f"{ns / rows[baseline]:,.2f}")
    Console(width=110).print(table)


def medians(timed: dict[str, Timed]) -> dict[str, float]:
    """Run all sides in turn, ROUNDS times."""
    rounds = [{name: run() for name, run in timed.items()} for _ in range(ROUNDS)]
    return {name: median(each[name] for each in rounds) for name in timed}


def kernel_ns(program: Program, contexts: np.ndarray, without: Program | None = None) -> Timed:
    """Time a decision in the kernel; net of `without`'s, or of the program that does not decide.

    Both are loaded anew each round: where code and maps come to lie is worth 2 ns.
    """

    def run() -> float:
        with KernelVm(program) as vm, KernelVm(without or program, decide=without is not None) as base:
            return vm.time_ns(contexts, KERNEL_RUNS) - base.time_ns(contexts, KERNEL_RUNS)

    return run


def numba_ns(program: Program, contexts: np.ndarray, without: Program | None = None) -> Timed:
    """Time a decision of the Numba VM by this thread's CPU time."""

    n_pages = np.zeros(len(contexts), np.int64)
    pages = np.zeros((len(contexts), program.guards.degree_pages), np.int64)
    packed = [pack(each) for each in (program, without) if each is not None]
    states = [each.new_state() for each in packed]

    def run(i: int) -> float:
        decide = partial(decide_rows, packed[i].params, states[i], contexts, n_pages, pages)
        times = KERNEL_RUNS // len(contexts)  # as often as in the kernel
        return cpu_ns(lambda: [decide() for _ in range(times)]) / KERNEL_RUNS

    run(0)  # compiles
    return lambda: run(0) - (run(1) if without is not None else 0)


def cpu_ns(work: Callable[[], object]) -> float:
    began_ns = time.thread_time_ns()
    work()
    return time.thread_time_ns() - began_ns


# ------------------------------------------------------------------------------------------------- tree


def random_contexts(n: int, seed: int) -> np.ndarray:
    contexts = np.ones((n, 6), np.int64)
    contexts[:, 0] = np.random.default_rng(seed).integers(1 << 30, (1 << 30) + PAGES, n)
    return contexts


def tree_program() -> tuple[Program, Program, DecisionTreeRegressor]:
    """Return a program with a fitted tree, the same with a leaf in its place, and the tree."""
    names = tuple(f"d{lag}" for lag in range(1, FEATURES + 1))
    program = Program(
        name="tree",
        hook="mm.swapin",
        registers=(Register("process", ("pid",), size=16, history=FEATURES + 1),),
        features=tuple(Feature(name, "delta", "process", lag) for lag, name in enumerate(names, 1)),
        models=(),
        tables=(Table("next_page", (), (), Action("predict", delta=1)),),
        guards=Guards(degree_pages=1),
        budget=Budget(1, 1),
    )
    X = inputs(program, random_contexts(N_TRAIN, 1))
    y = 500 + X @ np.arange(1, FEATURES + 1) * 400 // (PAGES * FEATURES)
    fitted = DecisionTreeRegressor(max_depth=DEPTH, random_state=0)
    fitted.fit(X, y)
    arrays = fitted.tree_
    tree = lower_tree(
        "m",
        names,
        feature=arrays.feature,
        threshold=arrays.threshold,
        left=arrays.children_left,
        right=arrays.children_right,
        value=np.rint(arrays.value[:, 0, 0]).astype(np.int64),
    )
    table = replace(program.tables[0], default_action=Action("infer", model="m"))
    return replace(program, models=(tree,), tables=(table,)), program, fitted


def inputs(program: Program, contexts: np.ndarray) -> np.ndarray:
    """Return the features at each event, int64 (n_events, n_features)."""
    packed = pack(program)
    state, X = packed.new_state(), np.zeros((len(contexts), len(program.features)), np.int64)
    for row, x in zip(contexts, X, strict=True):
        observe(packed.params, state, row, x)
    return X


def bench_tree() -> None:
    program, leaf, fitted = tree_program()
    contexts = random_contexts(BATCH_EVENTS, 3)
    X = inputs(program, contexts)
    expected = np.rint(fitted.predict(X)).astype(np.int64)
    assert (decide_all(program, contexts)[1][:, 0] - contexts[:, 0] == expected).all()
    with KernelVm(program) as vm:
        assert (vm.decide(contexts).pages[:, 0] - contexts[:, 0] == expected).all()
        info, load_ms = vm.info, vm.load_ns / 1e6
    print(f"BPF: {info.instructions} instructions, {info.verified} verified, loaded in {load_ms:.1f} ms")
    mean_depth = float(fitted.decision_path(X).sum() / len(X) - 1)
    with tempfile.TemporaryDirectory() as folder:
        timed = {
            "BPF": kernel_ns(program, contexts, leaf),
            "Numba VM": numba_ns(program, contexts, leaf),
            f"the same walk in C, gcc -O2, {len(X)} rows": walk_in_c(program.models[0], X, Path(folder)),
            **peers(fitted, X, expected, Path(folder)),
        }
        rows = medians(timed)
    title = f"a tree of depth {DEPTH} (mean {mean_depth:.1f}), {fitted.tree_.n_leaves} leaves"
    show(f"{title}, {FEATURES} features", rows, "BPF")
    whole = {"BPF": kernel_ns(program, contexts), "Numba VM": numba_ns(program, contexts)}
    show(f"the whole decision with it: registers, {FEATURES} features, 1 page", medians(whole), "BPF")


def walk_in_c(model: Model, X: np.ndarray, folder: Path) -> Timed:
    """Time what this machine can do: the same steps over the same blocks by a C compiler, row after row."""
    words: list[int] = []
    _, tree = pack_models(words, [model], model.inputs)[model.name]
    params, out, want = np.array(words, np.int64), np.zeros(len(X), np.int64), answers(model, X)
    source, library = folder / "walk.c", folder / "walk.so"
    source.write_text(WALK_C)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    walk = ctypes.CDLL(str(library)).walk
    pointers = [each.ctypes.data_as(ctypes.c_void_p) for each in (params, X, out)]
    sizes = [ctypes.c_long(n) for n in (tree, *X.shape)]

    def run() -> None:
        walk(*pointers, *sizes)

    run()
    assert (out == want).all()
    return lambda: cpu_ns(run) / len(X)


def peers(
    fitted: DecisionTreeRegressor, X: np.ndarray, expected: np.ndarray, folder: Path
) -> dict[str, Timed]:
    """Return how others predict the same tree on the same rows, one thread, checked to predict the same."""
    import lightgbm
    import treelite

    rows32, rows64 = X.astype(np.float32), X.astype(np.float64)
    forest = RandomForestRegressor(n_estimators=1).fit(rows32[:9], expected[:9])
    forest.estimators_ = [fitted]  # treelite takes forests only
    model = treelite.sklearn.import_model(forest)
    # LightGBM cannot take over a tree: it fits one of the same size to the same rows.
    options = {
        "num_leaves": 2**DEPTH,
        "max_depth": DEPTH,
        "min_data_in_leaf": 1,
        "verbose": -1,
        "num_threads": 1,
    }
    boosted = lightgbm.train(options, lightgbm.Dataset(rows64, np.arange(len(X)) % 997), num_boost_round=1)
    runs: dict[str, Callable[[], np.ndarray]] = {
        "scikit-learn": lambda: fitted.predict(rows32),
        "treelite GTIL": lambda: treelite.gtil.predict(model, rows32, nthread=1).reshape(-1),
        "tl2cgen": tl2cgen_run(model, rows32, folder),
        "m2cgen, gcc -O2": m2cgen_run(fitted, rows64, folder),
    }
    for name, run in runs.items():
        assert (np.rint(run()).astype(np.int64) == expected).all(), name
    runs["LightGBM"] = lambda: boosted.predict(rows64, num_threads=1)
    timed: dict[str, Timed] = {
        f"{name}, {len(X)} rows": (lambda run=run: cpu_ns(run) / len(X)) for name, run in runs.items()
    }
    timed["scikit-learn, 1 row"] = lambda: (
        cpu_ns(lambda: [fitted.predict(rows32[:1]) for _ in range(50)]) / 50
    )
    timed["LightGBM, 1 row"] = lambda: (
        cpu_ns(lambda: [boosted.predict(rows64[:1], num_threads=1) for _ in range(50)]) / 50
    )
    return timed


def tl2cgen_run(model: object, rows: np.ndarray, folder: Path) -> Callable[[], np.ndarray]:
    import tl2cgen

    library = folder / "tl2cgen.so"
    tl2cgen.export_lib(model, toolchain="gcc", libpath=library, params={}, verbose=False)
    predictor, matrix = tl2cgen.Predictor(library, nthread=1, verbose=False), tl2cgen.DMatrix(rows)
    return lambda: predictor.predict(matrix).reshape(-1)


def m2cgen_run(fitted: DecisionTreeRegressor, rows: np.ndarray, folder: Path) -> Callable[[], np.ndarray]:
    import m2cgen

    loop = "void all(double *x, long n, double *y) { for (long i = 0; i < n; i++) y[i] = score(x + %d * i); }"
    source, library = folder / "m2.c", folder / "m2.so"
    source.write_text(m2cgen.export_to_c(fitted) + loop % rows.shape[1])
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    out, function = np.zeros(len(rows)), ctypes.CDLL(str(library)).all

    def run() -> np.ndarray:
        function(
            ctypes.c_void_p(rows.ctypes.data), ctypes.c_long(len(rows)), ctypes.c_void_p(out.ctypes.data)
        )
        return out

    return run


# ----------------------------------------------------------------------------------------------- forests


def bench_forest() -> None:
    import lightgbm

    _, empty, _ = tree_program()
    X = inputs(empty, random_contexts(N_TRAIN, 1))
    y = (X @ np.arange(1, FEATURES + 1) * 8 // (PAGES * FEATURES)) % N_CLASSES + 1
    bagged = RandomForestClassifier(n_estimators=N_TREES, max_depth=DEPTH, n_jobs=1, random_state=0)
    options = {"num_leaves": 2**DEPTH, "max_depth": DEPTH, "min_child_samples": 1}
    boosted = lightgbm.LGBMClassifier(
        n_estimators=N_TREES // N_CLASSES, **options, n_jobs=1, verbose=-1, random_state=0
    )
    names = tuple(f.name for f in empty.features)
    rows = inputs(empty, random_contexts(BATCH_EVENTS, 3))
    rows32, rows64 = rows.astype(np.float32), rows.astype(np.float64)
    bagged.fit(X.astype(np.float32), y)
    boosted.fit(X.astype(np.float64), y)
    forest = lower_random_forest("m", names, bagged, 0)
    compare_models("a random forest", empty, forest, bagged.predict(rows32), {
        f"scikit-learn, {len(rows)} rows": lambda: cpu_ns(lambda: bagged.predict(rows32)) / len(rows),
        "scikit-learn, 1 row": lambda: cpu_ns(lambda: bagged.predict(rows32[:1])),
    })  # fmt: skip
    booster = boosted.booster_
    expected = boosted.classes_[booster.predict(rows64).argmax(axis=1)]
    compare_models("boosted trees", empty, lower_boosted("m", names, boosted), expected, {
        f"LightGBM, {len(rows)} rows": lambda: (
            cpu_ns(lambda: booster.predict(rows64, num_threads=1)) / len(rows)
        ),
        "LightGBM, 1 row": lambda: cpu_ns(lambda: booster.predict(rows64[:1], num_threads=1)),
    })  # fmt: skip


def bench_network() -> None:
    _, empty, _ = tree_program()
    X = inputs(empty, random_contexts(N_TRAIN, 1))
    y = (X @ np.arange(1, FEATURES + 1) * 4 // (PAGES * FEATURES)) % 2 + 1
    shifts = choose_shifts(X)
    samples = shifted_inputs(X, shifts)
    fitted = MLPClassifier(LAYERS, max_iter=15, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted.fit(samples / INPUT_SCALE, y)
    network = lower_mlp("m", tuple(f.name for f in empty.features), shifts, fitted, samples)
    rows = shifted_inputs(inputs(empty, random_contexts(BATCH_EVENTS, 3)), shifts) / INPUT_SCALE
    compare_models("a network", empty, network, fitted.predict(rows), {
        f"scikit-learn, {len(rows)} rows": lambda: cpu_ns(lambda: fitted.predict(rows)) / len(rows),
        "scikit-learn, 1 row": lambda: cpu_ns(lambda: fitted.predict(rows[:1])),
    })  # fmt: skip


def compare_models(
    what: str, empty: Program, model: Model, expected: np.ndarray, others: dict[str, Timed]
) -> None:
    """Time a program that infers with `model`, net of `empty`, beside others that predict the same rows."""
    table = replace(empty.tables[0], default_action=Action("infer", model=model.name))
    program = replace(empty, models=(model,), tables=(table,))
    contexts = random_contexts(BATCH_EVENTS, 3)
    decided = decide_all(program, contexts)[1][:, 0]
    with KernelVm(program) as vm:
        assert (vm.decide(contexts).pages[:, 0] == decided).all()
        info, load_ms = vm.info, vm.load_ns / 1e6
    differ = int((answers(model, inputs(empty, contexts)) != expected).sum())
    timed = {"BPF": kernel_ns(program, contexts, empty), "Numba VM": numba_ns(program, contexts, empty)}
    rows = medians({**timed, **others})
    loaded = f"{info.instructions} instructions, loaded in {load_ms:.1f} ms"
    print(f"BPF: {loaded}; lowering changed {differ} of {len(expected)} answers")
    show(f"{what}, {describe(model)}, {FEATURES} features", rows, "BPF")


def describe(model: Model) -> str:
    if isinstance(model, Forest):
        n_classes = len(model.classes)
        return (
            f"{len(model.trees)} trees of depth {model.depth}, {model.n_leaves} leaves, {n_classes} classes"
        )
    assert isinstance(model, Network)
    return f"layers of {', '.join(str(width) for width in model.widths)}, {model.n_weights} weights"


# ------------------------------------------------------------------------------- programs, swaps, faults


def bench_stencil() -> None:
    program = read_program(STENCIL)
    contexts = np.ascontiguousarray(swap_ins(TRACE, "50%")[-BATCH_EVENTS:])
    n_pages, _ = decide_all(program, contexts)
    rows = medians({"BPF": kernel_ns(program, contexts), "Numba VM": numba_ns(program, contexts)})
    features, depth = len(program.features), program.models[0].depth
    title = f"bench/stencil.rmt.json: {features} features, depth {depth}"
    show(f"{title}, {n_pages.mean():.1f} pages a decision", rows, "BPF")
    one = replace(program, guards=replace(program.guards, degree_pages=1))
    rows = medians({"BPF": kernel_ns(one, contexts), "Numba VM": numba_ns(one, contexts)})
    show("the same, at most 1 page a decision", rows, "BPF")
    strides = np.ones((BATCH_EVENTS, 6), np.int64)
    strides[:, 0] = PAGES + 3 * np.arange(BATCH_EVENTS)
    n_pages, _ = decide_all(program, strides)
    rows = medians({"BPF": kernel_ns(program, strides), "Numba VM": numba_ns(program, strides)})
    show(f"the same at a stride, {n_pages.mean():.1f} pages a decision", rows, "BPF")


def bench_swap() -> None:
    program = read_program(STENCIL)
    contexts = np.ascontiguousarray(swap_ins(TRACE, "50%")[-BATCH_EVENTS:])
    stopping, swaps = threading.Event(), []

    def swap() -> None:
        version = 1
        while not stopping.is_set():
            version += 1
            vm.replace(program, version)
            swaps.append(version)

    with KernelVm(program) as vm:
        alone = median(vm.time_ns(contexts, KERNEL_RUNS) for _ in range(ROUNDS))
        swapper = threading.Thread(target=swap)
        swapper.start()
        began = time.monotonic()
        busy = median(vm.time_ns(contexts, KERNEL_RUNS) for _ in range(ROUNDS))
        rate = len(swaps) / (time.monotonic() - began)
        stopping.set()
        swapper.join()
    rows = {"alone": alone, f"while replaced {rate:.0f} times a second": busy}
    show("bench/stencil.rmt.json, all of a test run", rows, "alone")


def bench_faults() -> None:
    from kdtool.collect.launch import Launched
    from kdtool.collect.limited import check_memory, own_cgroup, run_in
    from kdtool.collect.terminal import stop_on_signals
    from kdtool.deploy import FaultDecisions

    program, memory_bytes = read_program(STENCIL), 32 << 20
    check_memory(memory_bytes)
    ns: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        command = (f"{folder}/strides", "16384", "7", "16000")
        subprocess.run(["gcc", "-O1", "-o", command[0], ROOT / "tests/programs/strides.c"], check=True)
        statistics = count_run_time()
        for _ in range(5):
            with (
                own_cgroup(memory_bytes, with_events=True) as own,
                FaultDecisions(own.events, program) as live,
                stop_on_signals() as stop,
                Launched(command, own) as launched,
            ):
                live.enable()
                run_in(own, launched, stop)
                minor, major = live.info
                counters = live.counters
                ns.append((major.run_ns / major.runs, minor.run_ns / minor.runs))
        os.close(statistics)
        print(f"{major.runs} major and {minor.runs} minor faults; {counters.decisions} decisions of pages")
    rows = {"a major fault: a decision": median(n for n, _ in ns), "a minor fault": median(n for _, n in ns)}
    show(
        "bench/stencil.rmt.json at page faults (BPF statistics, their own cost included)",
        rows,
        "a minor fault",
    )


if __name__ == "__main__":
    main()

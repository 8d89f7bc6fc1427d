"""The BPF back end, in the running kernel: it decides as the two others do, and loads whatever is proved."""

import os
import signal
from dataclasses import replace

import executors
import needs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_PROGRAMS, trees

from kdtool.errors import CapabilityError, ProgramError
from kdtool.kernel import bpf_loops
from kdtool.kernel.bpf import SOCKET_FILTER, load_program
from kdtool.kernel.bpf_asm import R0, Assembler
from kdtool.kernel.bpf_loops import load_looping_program
from kdtool.rmt import (
    LIMITS,
    Action,
    Budget,
    Conv1d,
    Dense,
    Entry,
    Feature,
    Forest,
    Guards,
    MatchField,
    Network,
    Program,
    Register,
    ScoreTree,
    Table,
    Tree,
    stride_program,
    worst_case,
)
from kdtool.rmt.bpf import Layout, pack_policy, shape_of
from kdtool.verify import verify_program
from kdtool.verify.equivalence import decide_all
from kdtool.verify.kernelvm import BATCH_EVENTS, KernelVm

bpf = [pytest.mark.root, pytest.mark.beside, needs.bpf]
LOAD_NS = 50_000_000
LOADS = 20
"""Tries: other work on the machine makes a load take longer."""
PROGRAMS, EVENTS = 500, 1000
EXTREME_NAMES = [
    "widest", "deepest", "largest tree", "most entries", "most models", "largest forest", "most trees",
    "most classes", "deepest forest", "MLP 16-32-16-4", "widest network", "longest network", "convolutions",
    "most networks",
]  # fmt: skip


class TestInTheKernel:
    pytestmark = bpf

    @settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ANY_PROGRAMS, st.integers(0, 2**32))
    def test_all_three_executors_decide_and_count_alike(self, program, seed):
        contexts = executors.random_contexts(seed, EVENTS, program.hook)
        decided = executors.kernel_counted(program, contexts)
        assert decided == executors.reference_counted(program, contexts)
        assert decided == executors.numba_counted(program, contexts)

    @settings(max_examples=50, deadline=None)
    @given(trees(["d1", "d2", "s2"]), st.integers(0, 2**32))
    def test_a_tree_alone_is_walked_alike(self, tree, seed):
        features = (
            Feature("d1", "delta", "process", 1),
            Feature("d2", "delta", "process", 2),
            Feature("s2", "span", "process", 2),
        )
        table = Table("t", (), (), Action("infer", model="model"))
        program = replace(stride_program(), features=features, models=(tree,), tables=(table,))
        contexts = executors.random_contexts(seed, 200)
        assert executors.kernel(program, contexts) == executors.reference(program, contexts)

    @pytest.mark.parametrize("case", EXTREME_NAMES)
    def test_what_the_verifier_proves_the_kernel_loads_in_50_ms(self, case):
        program = EXTREMES[case]()
        program = replace(program, budget=worst_case(program))
        assert verify_program(program).verdict == "proved"
        load_ns = []
        while len(load_ns) < LOADS and (not load_ns or load_ns[-1] >= LOAD_NS):
            with KernelVm(program) as vm:
                load_ns.append(vm.load_ns)
                info = vm.info
        assert load_ns[-1] < LOAD_NS, (load_ns, info)

    @pytest.mark.parametrize("case", EXTREME_NAMES)
    def test_at_the_limits_of_the_language_it_decides_alike(self, case):
        program = EXTREMES[case]()
        contexts = executors.random_contexts(5, 300)
        decided = executors.kernel(program, contexts)
        assert decided == executors.numba(program, contexts)
        assert decided[:40] == executors.reference(program, contexts[:40])
        assert max(map(len, decided)) > 1

    def test_events_beyond_a_batch_go_on_with_the_same_registers(self):
        contexts = executors.random_contexts(3, BATCH_EVENTS + 100)
        program = stride_program()
        assert executors.kernel(program, contexts) == executors.reference(program, contexts)

    def test_signals_interrupt_a_run_and_no_event_is_lost_or_taken_twice(self):
        program = EXTREMES["deepest"]()
        contexts = executors.random_contexts(9, BATCH_EVENTS)
        ticks = []
        before = signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
        try:
            with KernelVm(program) as vm:
                signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
                decided = [vm.decide(contexts) for _ in range(5)]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert len(ticks) > 5
        n_pages, pages = decide_all(program, np.tile(contexts, (5, 1)))
        assert (np.concatenate([each.n_pages for each in decided]) == n_pages).all()
        counted = np.arange(pages.shape[1]) < n_pages[:, None]
        assert (np.concatenate([each.pages for each in decided])[counted] == pages[counted]).all()

    def test_closing_twice_closes_nothing_of_others(self):
        vm = KernelVm(stride_program())
        vm.close()
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(12)]
        vm.close()
        for fd in others:
            os.close(fd)

    def test_a_reset_empties_the_registers(self):
        contexts = executors.random_contexts(4, 50)
        with KernelVm(stride_program()) as vm:
            first = vm.decide(contexts).to_lists()
            vm.reset()
            assert vm.decide(contexts).to_lists() == first

    def test_a_program_loads_though_signals_come(self):
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        try:
            # One in each of the first loads, then seldom: a load takes 50 ms and more beside other work.
            signal.setitimer(signal.ITIMER_REAL, 0.004, 0.2)
            for _ in range(10):
                KernelVm(EXTREMES["widest"]()).close()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_a_program_too_large_to_verify_is_told(self):
        asm = Assembler()
        for _ in range(1_000_001):
            asm.alu("mov", R0, 0)
        asm.exit()
        with pytest.raises(RuntimeError, match="the BPF verifier refused the program"):
            load_program(SOCKET_FILTER, asm.assemble())

    def test_what_the_kernels_verifier_refuses_is_told(self):
        asm = Assembler()
        asm.load(R0, R0, 0)
        asm.exit()
        with pytest.raises(RuntimeError, match="R0 !read_ok"):
            load_program(SOCKET_FILTER, asm.assemble())


@pytest.mark.root
@needs.bpf
def test_where_loops_work_a_refused_program_is_still_a_bug():
    asm = Assembler()
    asm.load(R0, R0, 0)
    asm.exit()
    with pytest.raises(RuntimeError, match="R0 !read_ok"):
        load_looping_program(SOCKET_FILTER, asm.assemble())


def test_a_kernel_without_may_goto_is_told_from_a_bug(monkeypatch):
    def refuse(kind, code):
        raise RuntimeError("the BPF verifier refused the program: unknown opcode e5")

    monkeypatch.setattr(bpf_loops, "load_program", refuse)
    with pytest.raises(CapabilityError, match=r"no loops by may_goto: use Linux 6\.9 or later"):
        load_looping_program(SOCKET_FILTER, b"")


def chain(name, inputs, depth):
    """A tree whose last leaf is `depth` comparisons deep; every third leaf leaves it to the next table."""
    splits = range(depth)
    feature = [word for d in splits for word in (d % len(inputs), -1)] + [-1]
    threshold = [word for d in splits for word in (d - depth // 2, 0)] + [0]
    left = [word for d in splits for word in (2 * d + 1, -1)] + [-1]
    right = [word for d in splits for word in (2 * d + 2, -1)] + [-1]
    value = [word for d in splits for word in (0, d if d % 3 else 0)] + [-3]
    return Tree(name, inputs, *(tuple(column) for column in (feature, threshold, left, right, value)))


def full(name, inputs, depth):
    """A complete tree with random thresholds; half of its leaves leave it to the next table."""
    rng = np.random.default_rng(depth)
    n_splits, n = 2**depth - 1, 2 ** (depth + 1) - 1
    feature = [int(f) for f in rng.integers(0, len(inputs), n_splits)] + [-1] * (n - n_splits)
    threshold = [int(t) for t in rng.integers(-2000, 2000, n_splits)] + [0] * (n - n_splits)
    left = [2 * i + 1 for i in range(n_splits)] + [-1] * (n - n_splits)
    right = [2 * i + 2 for i in range(n_splits)] + [-1] * (n - n_splits)
    value = [0] * n_splits + [int(v * (v % 2)) for v in rng.integers(1, 1000, n - n_splits)]
    return Tree(name, inputs, *(tuple(column) for column in (feature, threshold, left, right, value)))


def big_program(n_registers, n_features, n_tables, n_fields, n_entries, models, degree):
    registers = tuple(
        Register(f"r{i}", ("pid", "ip", "tid", "region"), LIMITS.register_size, LIMITS.history)
        for i in range(n_registers)
    )
    lags = [1 + (LIMITS.history - 2 - i) % (LIMITS.history - 1) for i in range(n_features)]
    ops = ("delta", "span", "run")
    features = tuple(
        Feature(f"f{i}", ops[i // n_registers % 3], f"r{i % n_registers}", lag) for i, lag in enumerate(lags)
    )
    inputs = tuple(f.name for f in features)
    made = tuple(make(f"m{i}", inputs) for i, make in enumerate(models))
    fields = tuple(MatchField(name, "RANGE") for name in inputs[:n_fields])
    tables = tuple(
        Table(
            f"t{t}",
            fields,
            tuple(
                Entry(((3 * e, 3 * e + 1),) * n_fields, e % 7 + 1, action)
                for e in range(n_entries)
                for action in [Action("infer", model="m0") if e % 2 else Action("predict", delta=e + 1)]
            ),
            Action("infer", model=made[t % len(made)].name),
        )
        for t in range(n_tables)
    )
    return Program("big", "mm.swapin", registers, features, made, tables, Guards(degree), Budget(1, 1))


def full_forest(name, inputs, n_trees, depth, n_classes, per_leaf):
    """Complete trees with random thresholds, each leaf scoring some classes at random."""
    rng = np.random.default_rng(n_trees)
    shape = full("tree", inputs, depth)
    n, n_splits = len(shape.feature), 2**depth - 1
    first = tuple([0] * (n_splits + 1) + [per_leaf * (i + 1) for i in range(n - n_splits)])
    trees_ = []
    for _ in range(n_trees):
        threshold = tuple(rng.integers(-2000, 2000, n_splits).tolist()) + shape.threshold[n_splits:]
        picked = np.argsort(rng.random((n - n_splits, n_classes)), axis=1)[:, :per_leaf]
        scored = tuple(np.sort(picked, axis=1).reshape(-1).tolist())
        score = tuple(rng.integers(-9999, 9999, len(scored)).tolist())
        trees_.append(ScoreTree(shape.feature, threshold, shape.left, shape.right, first, scored, score))
    classes = tuple(range(n_classes))
    return Forest(name, inputs, classes, (0,) * n_classes, tuple(trees_))


def dense(rng, n_inputs, n_outputs, *, last=False):
    """A layer of random weights whose values do not all end at the clamps."""
    weights = tuple(tuple(row) for row in rng.integers(-128, 128, (n_outputs, n_inputs)).tolist())
    biases = tuple(rng.integers(-5000, 5000, n_outputs).tolist())
    return Dense(weights, biases, *((0, 0) if last else (2**30 + 12345, 38)))


def full_network(name, inputs, widths):
    """Dense layers of these widths."""
    rng = np.random.default_rng(sum(widths))
    sizes = [len(inputs), *widths]
    made = [dense(rng, *sizes[i : i + 2], last=i == len(widths) - 1) for i in range(len(widths))]
    classes = tuple(range(widths[-1]))
    return Network(name, inputs, (2,) * len(inputs), tuple(made), classes)


def convolving_network(name, inputs):
    """Two convolutions, the second with a stride, and a dense layer."""
    rng = np.random.default_rng(1)

    def rows(n, m):
        return tuple(tuple(row) for row in rng.integers(-128, 128, (n, m)).tolist())

    first = Conv1d(1, 1, rows(10, 5), (7,) * 10, 2**30, 37)
    second = Conv1d(10, 2, rows(9, 30), (-7,) * 9, 2**30, 38)
    width = second.n_outputs(first.n_outputs(len(inputs)))
    last = dense(rng, width, 16, last=True)
    return Network(name, inputs, (1,) * len(inputs), (first, second, last), tuple(range(16)))


EXTREMES = {
    "widest": lambda: big_program(8, 64, 8, 64, 5, [lambda n, x: chain(n, x, 32)], 64),
    "deepest": lambda: big_program(1, 64, 1, 0, 0, [lambda n, x: chain(n, x, 32)], 64),
    "largest tree": lambda: big_program(1, 8, 1, 0, 0, [lambda n, x: full(n, x, 15)], 8),
    "most entries": lambda: big_program(1, 2, 1, 2, 8192, [lambda n, x: full(n, x, 4)], 4),
    "largest forest": lambda: big_program(1, 8, 1, 0, 0, [lambda n, x: full_forest(n, x, 64, 12, 4, 4)], 4),
    "most trees": lambda: big_program(
        1, 8, 1, 0, 0, [lambda n, x: full_forest(n, x, LIMITS.forest_trees, 6, 8, 1)], 4
    ),
    "most classes": lambda: big_program(
        2, 8, 8, 1, 3, [lambda n, x: full_forest(n, x, 8, 4, LIMITS.forest_classes, 64)] * 8, 2
    ),
    "deepest forest": lambda: big_program(
        1, 8, 1, 0, 0, [lambda n, x: full_forest(n, x, 2, LIMITS.forest_depth, 8, 1)], 4
    ),
    "MLP 16-32-16-4": lambda: big_program(1, 16, 1, 0, 0, [lambda n, x: full_network(n, x, [32, 16, 4])], 16),
    "widest network": lambda: big_program(
        1, 64, 1, 0, 0, [lambda n, x: full_network(n, x, [256, 128, 64])], 2
    ),
    "longest network": lambda: big_program(1, 64, 1, 0, 0, [lambda n, x: full_network(n, x, [64] * 8)], 4),
    "convolutions": lambda: big_program(1, 64, 1, 0, 0, [convolving_network], 4),
    "most networks": lambda: big_program(
        2, 32, 8, 1, 3, [lambda n, x: full_network(n, x, [32, 16, 4])] * 8, 4
    ),
    "most models": lambda: big_program(2, 8, 8, 1, 3, [lambda n, x: full(n, x, 12)] * 8, 16),
}


def test_the_extremes_are_all_tried():
    assert sorted(EXTREME_NAMES) == sorted(EXTREMES)


def test_a_policy_larger_than_a_map_is_refused_with_the_limit():
    shape = shape_of(EXTREMES["widest"]())
    tables = tuple(replace(table, entries=65_536) for table in shape.tables)
    with pytest.raises(ProgramError, match=r"entries and models take .* bytes, .* at most 268435456"):
        Layout(replace(shape, tables=tables))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, guards=Guards(5)), "5 pages a decision, .* room for 4"),
        (
            lambda p: replace(p, models=(chain("next_delta", ("d1",), 9),)),
            "544 bytes of tree nodes, .* room for 224",
        ),
        (
            lambda p: replace(p, models=(one_leaf_forest(3),)),
            "1 forests, the code .* room for 0",
        ),
        (lambda p: replace(p, tables=(with_entries(p, 2),)), "2 entries in table next_page"),
        (
            lambda p: replace(p, features=p.features[::-1]),
            "other counters, registers, features or match",
        ),
    ],
)
def test_a_program_that_has_no_room_in_the_code_is_refused(change, message):
    program = stride_program()
    layout = Layout(shape_of(program, replace(program, models=(chain("next_delta", ("d1",), 4),))))
    with pytest.raises(ProgramError, match=message):
        pack_policy(layout, change(program), 2)


def test_code_that_computes_no_feature_cannot_follow_one():
    program, follower = (
        replace(stride_program(), models=(), tables=(Table("t", (), (), action),))
        for action in (Action("predict", delta=1), Action("follow", feature="d1"))
    )
    with pytest.raises(ProgramError, match=r"1 features that only table t looks at, .* has room for 0"):
        pack_policy(Layout(shape_of(program)), follower, 2)
    assert pack_policy(Layout(shape_of(program, follower)), follower, 2)


def one_leaf_forest(n_classes):
    classes = tuple(range(n_classes))
    return Forest(
        "f",
        ("d1",),
        classes,
        classes,
        (ScoreTree((-1,), (0,), (-1,), (-1,), (0, 1), (n_classes - 1,), (1,)),),
    )


def test_forests_have_room_for_the_largest_of_all_versions():
    small, large = (replace(stride_program(), models=(one_leaf_forest(n),)) for n in (2, 5))
    inferring = Table("next_page", stride_program().tables[0].match_fields, (), Action("infer", model="f"))
    small, large = (replace(p, tables=(inferring,)) for p in (small, large))
    layout = Layout(shape_of(small, large))
    assert layout.shape.forests.classes == 5
    assert len(pack_policy(layout, small, 1)) == len(pack_policy(layout, large, 2)) == layout.policy_bytes
    with pytest.raises(ProgramError, match=r"has 5 classes in a forest, .* room for 2"):
        pack_policy(Layout(shape_of(small)), large, 1)


def with_entries(program, n):
    table = program.tables[0]
    return replace(table, entries=table.entries * n)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda p: replace(p, tables=p.tables * 2), "number of tables"),
        (lambda p: replace(p, registers=(replace(p.registers[0], size=32),)), "registers"),
        (lambda p: replace(p, features=p.features[:1]), "features"),
        (lambda p: replace(p, tables=(replace(p.tables[0], match_fields=()),)), "match fields"),
    ],
)
def test_programs_of_two_shapes_are_told_apart(other, what):
    with pytest.raises(ProgramError, match=f"differs from 'stride-3' in its {what}"):
        shape_of(stride_program(), other(stride_program()))


def test_a_policy_is_as_long_as_its_layout_says():
    program = stride_program()
    layout = Layout(shape_of(program, stride_program(degree_pages=9)))
    assert len(pack_policy(layout, program, 1)) == layout.policy_bytes


def test_a_jump_that_is_too_far_is_refused():
    asm = Assembler()
    asm.jump("end")
    for _ in range(40_000):
        asm.alu("mov", R0, 0)
    asm.label("end")
    with pytest.raises(ProgramError, match="a jump over 40000 BPF instructions, allowed are 32767"):
        asm.assemble()

"""Networks: their file format refuses what it must, what is claimed of them holds, lowering loses little."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from builders import refusal_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neural_network import MLPClassifier
from strategies import VALUES, networks

from kdtool.errors import ProgramError
from kdtool.learners.mlp import lower_mlp
from kdtool.learners.nextpage import lowering_loss
from kdtool.rmt import (
    LIMITS,
    Action,
    Conv1d,
    Dense,
    Network,
    Table,
    from_document,
    program_to_tables,
    stride_program,
    to_document,
)
from kdtool.rmt.batch import answers
from kdtool.rmt.inference import round_shift, run_network
from kdtool.rmt.lower_network import INPUT_SCALE, FloatLayer, choose_shifts, lower_network, shifted_inputs

NETWORK = Network(
    name="n",
    inputs=("d1", "s2"),
    input_shifts=(0, -3),
    layers=(
        Conv1d(1, 1, ((3,), (-2,)), (5, -1), 3, 1),
        Dense(((1, 2, 3, 4), (2, -1, 0, 1)), (0, 1), 0, 0),
    ),
    classes=(0, 7),
)


def layer(number, key, value):
    return lambda n: n["layers"][number].__setitem__(key, value)


# Each change to a good network, and what the refusal must say.
BAD = {
    "no layer": (lambda n: n.__setitem__("layers", []), "layers: 0 elements, allowed are 1 to 8"),
    "too many layers": (
        lambda n: n.__setitem__("layers", n["layers"] * 5),
        "10 elements, allowed are",
    ),
    "a shift too few": (lambda n: n["input_shifts"].pop(), "input_shifts: 1 elements, allowed are 2"),
    "a shift too far left": (lambda n: n["input_shifts"].__setitem__(0, -8), "-8 is not in [-7, 31]"),
    "a shift too far right": (lambda n: n["input_shifts"].__setitem__(0, 32), "32 is not in [-7, 31]"),
    "a class too few": (lambda n: n["classes"].pop(), "classes: 1 elements, allowed are 2"),
    "an answer too large": (lambda n: n["classes"].__setitem__(0, 2**31), "is not in"),
    "a missing key": (lambda n: n["layers"][1].pop("biases"), "missing key 'biases'"),
    "an unknown key": (layer(1, "channels", 1), "unknown key 'channels'"),
    "no weights": (layer(1, "weights", []), "weights: 0 elements"),
    "an empty row": (layer(1, "weights", [[], []]), "weights[0]: 0 elements, allowed are 1 to 4"),
    "rows of two lengths": (
        layer(0, "weights", [[3], [-2, 1]]),
        "weights[1]: 2 elements, allowed",
    ),
    "a row too short": (layer(1, "weights", [[1, 2, 3], [1, 2, 3]]), "rows of 3 weights do not fit"),
    "a weight too large": (layer(0, "weights", [[128], [0]]), "128 is not in [-128, 127]"),
    "a weight too small": (layer(0, "weights", [[-129], [0]]), "-129 is not in [-128, 127]"),
    "a bias too few": (layer(1, "biases", [1]), "biases: 1 elements, allowed are 2"),
    "a bias too large": (layer(1, "biases", [0, 2**31]), "is not in"),
    "a last multiplier": (layer(1, "multiplier", 1), "1 is not in [0, 0]"),
    "a last shift": (layer(1, "shift", 1), "1 is not in [0, 0]"),
    "no multiplier": (layer(0, "multiplier", 0), "0 is not in [1, 2147483647]"),
    "no shift": (layer(0, "shift", 0), "0 is not in [1, 62]"),
    "a shift too long": (layer(0, "shift", 63), "63 is not in [1, 62]"),
    "no channel": (layer(0, "channels", 0), "0 is not in [1, 2]"),
    "half a position": (layer(0, "channels", 2), "rows of 1 weights do not fit"),
    "no stride": (layer(0, "stride", 0), "0 is not in [1, 2]"),
}


def document_with_network():
    return to_document(replace(stride_program(), models=(*stride_program().models, NETWORK)))


@pytest.mark.parametrize("case", BAD)
def test_a_bad_network_is_refused_with_the_place(case):
    change, message = BAD[case]
    assert message in refusal_of(NETWORK, change)


@pytest.mark.parametrize(
    ("limit", "least"), [("network_values", 8), ("network_weights", 10), ("forest_classes", 2)]
)
def test_the_limits_of_a_network_are_for_all_its_layers_together(monkeypatch, limit, least):
    monkeypatch.setattr("kdtool.rmt.networkcodec.LIMITS", replace(LIMITS, **{limit: least}))
    assert from_document(document_with_network()).models[1] == NETWORK
    monkeypatch.setattr("kdtool.rmt.networkcodec.LIMITS", replace(LIMITS, **{limit: least - 1}))
    with pytest.raises(ProgramError, match=r"more than|allowed are"):
        from_document(document_with_network())


@settings(max_examples=200, deadline=None)
@given(networks(["a", "b", "c"]), st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=20))
def test_many_answers_at_once_are_those_of_the_reference(network, points):
    expected = [run_network(network, list(point))[0] for point in points]
    assert answers(network, np.array(points, np.int64)).tolist() == expected


@given(st.integers(-(2**62), 2**62), st.integers(1, 62))
def test_a_shift_rounds_to_the_nearest_half_to_even(value, bits):
    rounded = round_shift(value, bits)
    error = abs(value - (rounded << bits))
    assert error <= 1 << (bits - 1)
    if error == 1 << (bits - 1):
        assert rounded % 2 == 0


def test_the_steps_of_a_network_are_its_inputs_and_sums_and_one_for_eight_products():
    assert run_network(NETWORK, [1, 2])[1] == 2 + 4 * (1 + 1) + 2 * (1 + 1)
    wide = Network("n", ("a",) * 17, (0,) * 17, (Dense(((1,) * 17,), (0,), 0, 0),), (3,))
    assert run_network(wide, [1] * 17)[1] == 17 + (1 + 3)


def test_a_network_is_not_built_as_a_table():
    table = Table("t", (), (), Action("infer", model="n"))
    program = replace(stride_program(), models=(NETWORK,), tables=(table,))
    with pytest.raises(ProgramError, match=r"model 'n' is a Network, .*: give --target bpf or train with"):
        program_to_tables(program)


def test_inputs_are_shifted_as_the_program_shifts_them():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(-reach, reach + 1, 500) for reach in (1, 8, 127, 200, 1000, 2**31 - 1)])
    shifts = choose_shifts(X)
    assert shifts == (-6, -3, 0, 1, 3, 24)
    expected = [
        [min(max(round_shift(value, shift), -128), 127) for value, shift in zip(row, shifts, strict=True)]
        for row in X.tolist()
    ]
    assert shifted_inputs(X, shifts).tolist() == expected


@pytest.mark.parametrize("n_classes", [1, 2, 4])
@pytest.mark.parametrize("hidden", [(16,), (24, 12)])
def test_a_lowered_network_mostly_answers_as_the_float_one(hidden, n_classes):
    rng = np.random.default_rng(0)
    X = rng.integers(-300, 300, (4000, 4))
    y = (np.abs(X[:, 0]) > X[:, 1]) * 2 + (X[:, 2] + X[:, 3] > 50)
    y = y % n_classes * 3 - 4
    shifts = choose_shifts(X)
    samples = shifted_inputs(X, shifts)
    model = MLPClassifier(hidden, max_iter=200, tol=1e-3, random_state=0).fit(samples / INPUT_SCALE, y)
    network = lower_mlp("n", ("a", "b", "c", "d"), shifts, model, samples)
    expected = model.predict(samples / INPUT_SCALE)
    assert len(set(expected.tolist())) == n_classes
    assert (expected == y).mean() > 0.95
    assert lowering_loss(network, X, expected)["lowered_differently"] <= 4000 * 0.02
    assert all(abs(end) < 2**31 for ends in network.sum_bounds() for end in ends)


def test_weights_round_half_to_even_and_scales_come_from_samples():
    weights = np.array([[1.27, 0.005, 0.015, -0.005, -0.015]])
    layers = [FloatLayer(weights, np.zeros(5)), FloatLayer(np.eye(5)[:, :2], np.array([0.0, 2**-6]))]
    samples = np.array([[64], [-128], [32]])
    network = lower_network("n", ("a",), (0,), layers, (3, 4), samples)
    assert [row[0] for row in network.layers[0].weights] == [127, 0, 2, 0, -2]
    # The largest value is 1.27 at sample 64: a hidden step is 0.01, and 0.01 is the weights' step, too.
    assert network.layers[0].multiplier / 2 ** network.layers[0].shift == pytest.approx(1 / 64, rel=1e-8)
    assert network.layers[1].biases == (0, round(2**-6 / (0.01 / 127)))


def test_a_bias_without_room_is_refused():
    layer = FloatLayer(np.ones((1, 1)), np.full(1, 1e9))
    with pytest.raises(ProgramError, match="layer 0 has a bias of"):
        lower_network("n", ("a",), (0,), [layer], (3,), np.ones((1, 1), int))


def test_who_has_no_network_does_not_wait_for_its_code():
    script = (
        "import sys\n"
        "from kdtool.rmt import pack, stride_program\n"
        "from kdtool.rmt.numba_vm import decide\n"
        "pack(stride_program())\n"
        "print('kdtool.rmt.numba_network' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"

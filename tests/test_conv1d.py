"""The convolution's trainer: gradients are those of its loss, it learns what windows show, lowered too."""

import numpy as np
import pytest

from kdtool.learners import quantnet
from kdtool.learners.conv1d import fit_convolution
from kdtool.learners.nextpage import lowering_loss
from kdtool.learners.quantnet import best_classes, new_layer, train_network
from kdtool.rmt import Conv1d, Dense
from kdtool.rmt.batch import answers
from kdtool.rmt.lower_network import INPUT_SCALE, FloatLayer, lower_network

INPUTS = tuple(f"d{lag}" for lag in range(1, 9))
SETTING = {"filters": 8, "kernel": 2, "hidden_units": 16, "steps": 2500}


def motif(n_samples, seed):
    """Return histories of small differences, and 7 where 3, -2 stand side by side, wherever, else -4."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-3, 4, (n_samples, len(INPUTS)))
    chosen = rng.random(n_samples) < 0.5
    at = rng.integers(0, len(INPUTS) - 1, n_samples)
    X[chosen, at[chosen]], X[chosen, at[chosen] + 1] = 3, -2
    seen = ((X[:, :-1] == 3) & (X[:, 1:] == -2)).any(axis=1)
    return X, np.where(seen, 7, -4)


def loss(layers, values, y):
    for layer in layers[:-1]:
        values = np.maximum(layer.sums(values), 0)
    scores = layers[-1].sums(values)
    scores -= scores.max(axis=1, keepdims=True)
    return -(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))[np.arange(len(y)), y].mean()


@pytest.mark.parametrize(("channels", "stride"), [(1, 1), (1, 2), (2, 1)])
def test_gradients_are_those_of_the_loss(monkeypatch, channels, stride):
    monkeypatch.setattr(quantnet, "_quantised", lambda values: values)
    rng = np.random.default_rng(3)
    first = new_layer(rng, 4, 3, channels, stride)
    second = new_layer(rng, first.sums(np.zeros((1, 8))).shape[1], 4)
    layers = [first, second]
    layers = [layer._replace(biases=rng.normal(0, 0.1, layer.biases.shape)) for layer in layers]
    values, y = rng.normal(0, 1, (9, 8)), rng.integers(0, 4, 9)

    gradients = quantnet._gradients(layers, values, y)

    parameters = [each for layer in layers for each in (layer.weights, layer.biases)]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for place in np.ndindex(parameter.shape):
            kept, ends = parameter[place], []
            for step in (1e-6, -1e-6):
                parameter[place] = kept + step
                ends.append(loss(layers, values, y))
            parameter[place] = kept
            assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize(("channels", "stride"), [(0, 1), (1, 1), (1, 3), (2, 1), (2, 2)])
def test_sums_of_floats_are_over_the_windows_of_integers(channels, stride):
    rng = np.random.default_rng(1)
    n_weights = 4 if channels else 8
    weights = rng.integers(-9, 9, (n_weights, 3))
    rows, biases = tuple(map(tuple, weights.T.tolist())), (5, -6, 7)
    lowered = Conv1d(channels, stride, rows, biases, 1, 1) if channels else Dense(rows, biases, 1, 1)
    x = rng.integers(-9, 9, 8)

    sums = FloatLayer(weights.astype(float), np.array(biases, float), channels, stride).sums(x[None] * 1.0)

    by_hand = [
        biases[s.unit] + int(weights[:, s.unit] @ x[s.first : s.first + n_weights]) for s in lowered.sums(8)
    ]
    assert sums.tolist() == [by_hand]


def test_a_pattern_is_learned_wherever_it_stands_and_lowering_keeps_it():
    X, y = motif(6000, 0)
    network, expected = fit_convolution(INPUTS, X, y, SETTING, seed=1)

    assert [type(layer) for layer in network.layers] == [Conv1d, Dense, Dense]
    assert network.classes == (-4, 7)
    new, truth = motif(2000, 5)
    assert (answers(network, new) == truth).mean() > 0.97
    assert lowering_loss(network, X, expected)["lowered_differently"] <= 6000 * 0.01
    assert all(abs(end) < 2**31 for ends in network.sum_bounds() for end in ends)


def test_the_same_seed_gives_the_same_network_and_another_another():
    X, y = motif(800, 2)
    few = {**SETTING, "steps": 50}
    first, again, other = (fit_convolution(INPUTS, X, y, few, seed=seed)[0] for seed in (4, 4, 5))
    assert first == again != other


def test_one_class_is_the_answer_to_everything():
    X, _ = motif(100, 3)
    network, expected = fit_convolution(INPUTS, X, np.full(100, 9), {**SETTING, "steps": 20}, seed=0)
    assert set(answers(network, X).tolist()) == set(expected.tolist()) == {9}


def test_training_by_rounded_weights_loses_less_when_they_are_few_steps(monkeypatch):
    """With 3 steps to each side in place of 127, what was trained through the rounding survives it."""
    X, y = motif(4000, 6)
    numbers, values = (y == 7).astype(np.int64), X / INPUT_SCALE * 16
    rounded = quantnet._quantised

    def coarse(each):
        step = np.abs(each).max() / 3 or 1.0
        return np.rint(each / step) * step

    def accuracy(training):
        monkeypatch.setattr(quantnet, "_quantised", training)
        rng = np.random.default_rng(0)
        layers = [new_layer(rng, 3, 8, channels=1), new_layer(rng, 48, 2)]
        layers = train_network(layers, values, numbers, 1200, rng)
        layers = [layer._replace(weights=coarse(layer.weights)) for layer in layers]
        return (best_classes(layers, values) == numbers).mean()

    assert accuracy(coarse) > accuracy(rounded) + 0.02


def test_a_convolution_is_lowered_by_the_scales_of_samples():
    first = FloatLayer(np.array([[1.0], [-0.5]]), np.zeros(1), channels=1)
    last = FloatLayer(np.array([[1.0, -1.0], [0.0, 0.0]]), np.zeros(2))
    samples = np.array([[64, 0, 0], [0, 64, 0], [0, 0, 64]])
    network = lower_network("n", ("a", "b", "c"), (0, 0, 0), [first, last], (3, 4), samples)
    conv, dense = network.layers
    assert (conv.channels, conv.stride, conv.weights) == (1, 1, ((127, -64),))  # 63.5 is even at 64
    assert dense.weights == ((127, 0), (-127, 0))
    assert conv.multiplier / 2**conv.shift == pytest.approx(1 / 64, rel=1e-8)

"""A one-dimensional convolution over the last differences that predicts the next one."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdtool.features import Dataset, FeatureSet
from kdtool.learners.nextpage import frequent_deltas, lowering_loss, next_page_program
from kdtool.learners.quantnet import best_classes, new_layer, train_network
from kdtool.rmt import Network, Program
from kdtool.rmt.lower_network import INPUT_SCALE, FloatLayer, choose_shifts, lower_network, shifted_inputs

__all__ = ["Conv1dLearner", "fit_convolution"]

MAX_CLASSES = 32
NAME = "next_delta"


class Conv1dLearner:
    """Filters that slide over the last differences, a hidden layer, and the next difference as a class.

    Idea: what a filter has learned of a few neighbouring differences holds wherever in the history they
    stand. Trained by backpropagation through the rounding to int8 (quantnet.py). Deltas that occur rarely are
    one class, "no prediction".
    State of the result: one register, the values of two layers. Cost: a step for eight weights.
    References: Waibel et al., Phoneme Recognition Using Time-Delay Neural Networks, 1989, and quantnet.py.
    """

    name = "conv1d"

    def candidates(self) -> list[dict[str, int]]:
        """Return few wide filters and more narrow ones."""
        return [
            {"filters": 8, "kernel": 5, "hidden_units": 24, "steps": 2000},
            {"filters": 12, "kernel": 3, "hidden_units": 32, "steps": 2000},
        ]

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Fit on all of `dataset`; see Learner."""
        inputs = tuple(f.name for f in features.features if f.op == "delta")
        X = dataset.X[:, [dataset.feature_names.index(name) for name in inputs]]
        network, expected = fit_convolution(inputs, X, frequent_deltas(dataset.y, MAX_CLASSES), setting, seed)
        program = next_page_program(f"conv1d-{features.name}", features, network, degree_pages, dataset)
        return replace(program, provenance=lowering_loss(network, X, expected))


def fit_convolution(
    inputs: tuple[str, ...],
    X: npt.NDArray[np.integer],
    y: npt.NDArray[np.integer],
    setting: dict[str, int],
    seed: int,
) -> tuple[Network, npt.NDArray[np.int64]]:
    """Return a network that answers y's values, and what its layers of floats answer to each row of X.

    X : of shape (n_samples, n_inputs), newest difference first; y : (n_samples,), differences in pages
    """
    rng = np.random.default_rng(seed)
    classes, numbers = np.unique(y.astype(np.int64), return_inverse=True)
    shifts = choose_shifts(X)
    samples = shifted_inputs(X, shifts)
    layers = _layers(len(inputs), len(classes), setting, rng)
    layers = train_network(layers, samples / INPUT_SCALE, numbers, setting["steps"], rng)
    network = lower_network(NAME, inputs, shifts, layers, classes.tolist(), samples)
    return network, classes[best_classes(layers, samples / INPUT_SCALE)]


def _layers(
    n_inputs: int, n_classes: int, setting: dict[str, int], rng: np.random.Generator
) -> list[FloatLayer]:
    filters, kernel, hidden = setting["filters"], setting["kernel"], setting["hidden_units"]
    return [
        new_layer(rng, kernel, filters, channels=1),
        new_layer(rng, (n_inputs - kernel + 1) * filters, hidden),
        new_layer(rng, hidden, n_classes),
    ]

"""A small neural network that predicts the next difference in pages."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from kdtool.features import Dataset, FeatureSet
from kdtool.learners.nextpage import frequent_deltas, lowering_loss, next_page_program
from kdtool.rmt import Network, Program
from kdtool.rmt.lower_network import INPUT_SCALE, FloatLayer, choose_shifts, lower_network, shifted_inputs

__all__ = ["MlpLearner", "lower_mlp"]

MAX_CLASSES = 32
NAME = "next_delta"


class MlpLearner:
    """scikit-learn's multilayer perceptron over the next delta as a class, lowered to int8.

    Idea: features are shifted and clamped to int8 before training, so that the network learns from what the
    program will see. Deltas that occur rarely are one class, "no prediction".
    State of the result: one register, the values of two layers. Cost: a step a weight.
    References: Rumelhart et al., Learning representations by back-propagating errors, 1986; Jacob et al.,
    Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018.
    """

    name = "mlp"

    def candidates(self) -> list[dict[str, int]]:
        """Return one hidden layer and two."""
        return [
            {"hidden_units": 32, "hidden_layers": 1, "max_iter": 30},
            {"hidden_units": 24, "hidden_layers": 2, "max_iter": 30},
        ]

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Fit on all of `dataset`; see Learner."""
        shifts = choose_shifts(dataset.X)
        samples = shifted_inputs(dataset.X, shifts)
        model = MLPClassifier(
            hidden_layer_sizes=(setting["hidden_units"],) * setting["hidden_layers"],
            max_iter=setting["max_iter"],
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # replay judges, not the loss
            model.fit(samples / INPUT_SCALE, frequent_deltas(dataset.y, MAX_CLASSES))
        network = lower_mlp(NAME, dataset.feature_names, shifts, model, samples)
        program = next_page_program(f"mlp-{features.name}", features, network, degree_pages, dataset)
        expected = model.predict(samples / INPUT_SCALE).astype(np.int64)
        return replace(program, provenance=lowering_loss(network, dataset.X, expected))


def lower_mlp(
    name: str, inputs: tuple[str, ...], shifts: tuple[int, ...], model: Any, samples: npt.NDArray[np.int64]
) -> Network:
    """Lower a fitted MLPClassifier with ReLU, whose classes are differences in pages.

    samples : (n_samples, n_inputs), the int8 inputs that it was trained on, times INPUT_SCALE
    With two classes it has one output, the second class's, against 0; with one class that is the answer.
    """
    layers = [FloatLayer(*each) for each in zip(model.coefs_, model.intercepts_, strict=True)]
    weights, biases = layers[-1].weights, layers[-1].biases
    n_classes = len(model.classes_)
    if n_classes == 2:
        both = np.column_stack([np.zeros(len(weights)), weights])
        layers[-1] = FloatLayer(both, np.array([0, biases[0]]))
    elif n_classes == 1:
        layers[-1] = FloatLayer(np.zeros((len(weights), 1)), np.zeros(1))
    return lower_network(name, inputs, shifts, layers, model.classes_.tolist(), samples)

"""Networks in program files, checked before anything is made of them."""

from kdtool.rmt.fields import Node
from kdtool.rmt.networks import INT8_MAX, INT8_MIN, Conv1d, Dense, Layer, Network
from kdtool.rmt.program import LIMITS, VALUE_MAX, VALUE_MIN, Feature

__all__ = ["read_network"]

LEFT_BITS, RIGHT_BITS = 7, 31
"""How far an input is shifted at most: its 32 bits stay inside 64, and more than 31 bits leave nothing."""
SCALE_BITS = 62
"""A sum times a multiplier has 63 bits at most."""


def read_network(node: Node, features: tuple[Feature, ...]) -> Network:
    """Check a network over `features`, and build it; every ProgramError names the place."""
    node.keys("name", "inputs", "input_shifts", "layers", "classes")
    names = [f.name for f in features]
    inputs = tuple(item.text(names) for item in node["inputs"].items(LIMITS.features, 1))
    input_shifts = node["input_shifts"].integers(len(inputs), -LEFT_BITS, RIGHT_BITS)
    n_layers = sum(1 for _ in node["layers"].items(LIMITS.network_layers, 1))
    layers: list[Layer] = []
    width, values, weights = len(inputs), LIMITS.network_values - len(inputs), LIMITS.network_weights
    for number, item in enumerate(node["layers"].items(n_layers)):
        layer = _layer(item, width, weights, last=number == n_layers - 1)
        width = layer.n_outputs(width)
        values -= width
        weights -= len(layer.weights) * len(layer.weights[0])
        if width == 0:
            item.refuse(f"rows of {len(layer.weights[0])} weights do not fit onto the layer before")
        if values < 0:
            item.refuse(f"all layers have more than {LIMITS.network_values} values: use smaller layers")
        layers.append(layer)
    if width > LIMITS.forest_classes:
        node["layers"].refuse(f"the last has {width} values, allowed are {LIMITS.forest_classes}")
    classes = node["classes"].integers(width, VALUE_MIN, VALUE_MAX)
    return Network(node["name"].text(), inputs, input_shifts, tuple(layers), classes)


def _layer(node: Node, width: int, most_weights: int, *, last: bool) -> Layer:
    """Read a layer onto `width` values; its keys say which kind it is."""
    moving = isinstance(node.value, dict) and "stride" in node.value
    node.keys(*(["channels", "stride"] if moving else []), "weights", "biases", "multiplier", "shift")
    n_rows = sum(1 for _ in node["weights"].items(LIMITS.network_values, 1))
    rows = list(node["weights"].items(n_rows))
    n_columns = sum(1 for _ in rows[0].items(width, 1))
    if n_rows * n_columns > most_weights:
        node["weights"].refuse(f"all have more than {LIMITS.network_weights} weights: use smaller layers")
    weights = tuple(row.integers(n_columns, INT8_MIN, INT8_MAX) for row in rows)
    biases = node["biases"].integers(n_rows, VALUE_MIN, VALUE_MAX)
    multiplier = node["multiplier"].integer(*((0, 0) if last else (1, VALUE_MAX)))
    shift = node["shift"].integer(*((0, 0) if last else (1, SCALE_BITS)))
    if not moving:
        return Dense(weights, biases, multiplier, shift)
    channels, stride = node["channels"].integer(1, width), node["stride"].integer(1, width)
    return Conv1d(channels, stride, weights, biases, multiplier, shift)

"""Models as words of `params` (packed.py). What an action says of one is its kind and where it begins.

    tree    nodes of 5 words: feature, threshold, left, right, value
    forest  classes | trees | per class (base score, answer) | per tree its root: a tree whose leaf's value is
            where its scores begin: their number, then (class, score) each
    network address of its code (numba_network.py) | inputs | layers | widest layer's values | per input
            (feature, shift) | layers | per class its answer
            layer: units | weights of one | positions | step | multiplier | shift | biases | weights

A split names the program's feature, not the model's input. Children are counted from the root.
"""

from collections.abc import Iterable, Sequence

from kdtool.rmt.models import Forest, Model, ScoreTree, Tree
from kdtool.rmt.networks import Conv1d, Network

__all__ = ["INFER_FOREST", "INFER_NETWORK", "INFER_TREE", "NODE_WORDS", "model_words", "pack_models"]

NODE_WORDS = 5
INFER_TREE, INFER_FOREST, INFER_NETWORK = 3, 5, 6
"""Kinds of action, among those of packed.py."""


def model_words(models: Iterable[Model]) -> int:
    """Return the words of state that `models` need: a forest's sums, the values of two layers."""
    sums = (len(model.classes) for model in models if isinstance(model, Forest))
    values = (2 * max(model.widths) for model in models if isinstance(model, Network))
    return max([0, *sums, *values])


def pack_models(
    words: list[int], models: Iterable[Model], names: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Append each model to `words`; return its (kind, offset) by its name. `names` are the features'."""
    packed: dict[str, tuple[int, int]] = {}
    for model in models:
        source = [names.index(name) for name in model.inputs]
        if isinstance(model, Forest):
            packed[model.name] = INFER_FOREST, _pack_forest(words, model, source)
        elif isinstance(model, Network):
            packed[model.name] = INFER_NETWORK, _pack_network(words, model, source)
        else:
            packed[model.name] = INFER_TREE, _pack_nodes(words, model, source, model.value)
    return packed


def _pack_forest(words: list[int], forest: Forest, source: list[int]) -> int:
    roots = [_pack_score_tree(words, tree, source) for tree in forest.trees]
    at = len(words)
    words += [len(forest.classes), len(forest.trees)]
    words += [word for pair in zip(forest.base_scores, forest.classes, strict=True) for word in pair]
    words += roots
    return at


def _pack_score_tree(words: list[int], tree: ScoreTree, source: list[int]) -> int:
    rows = []
    for node in range(len(tree.feature)):
        rows.append(len(words))
        scores = tree.scores(node)
        if tree.feature[node] < 0:
            words += [len(scores), *(word for pair in scores for word in pair)]
    return _pack_nodes(words, tree, source, rows)


def _pack_nodes(words: list[int], tree: Tree | ScoreTree, source: list[int], value: Iterable[int]) -> int:
    at = len(words)
    columns = zip(tree.feature, tree.threshold, tree.left, tree.right, value, strict=True)
    for split, *rest in columns:
        words += [source[split] if split >= 0 else -1, *rest]
    return at


def _pack_network(words: list[int], network: Network, source: list[int]) -> int:
    # Whoever has no network does not wait for the code of one to be compiled.
    from kdtool.rmt.numba_network import ADDRESS

    at, widths = len(words), network.widths
    words += [ADDRESS, len(source), len(network.layers), max(widths)]
    words += [word for pair in zip(source, network.input_shifts, strict=True) for word in pair]
    for layer, n_outputs in zip(network.layers, widths[1:], strict=True):
        n_units = len(layer.weights)
        step = layer.channels * layer.stride if isinstance(layer, Conv1d) else 0
        words += [n_units, len(layer.weights[0]), n_outputs // n_units, step, layer.multiplier, layer.shift]
        words += layer.biases
        words += [weight for row in layer.weights for weight in row]
    words += network.classes
    return at

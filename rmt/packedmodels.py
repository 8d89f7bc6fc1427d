"""Models as words of `params` (packed.py). What an action says of one is its kind and where it begins.

    tree    steps of a walk | its blocks (blocks.py)
    forest  classes | trees | steps of a walk | scores of a leaf | per class (base score, answer) | per tree
            where its first block behind the entry lies: of a tree whose leaf's value is where its scores
            lie, the number of a class, from bit 8 on the score, and 0s up to the most that a leaf has
    network address of its code (numba_network.py) | inputs | layers | widest layer's values | per input
            (feature, shift) | layers | per class its answer
            layer: units | weights of one | positions | step | multiplier | shift | biases | weights

A split names the program's feature, not the model's input.
"""

from collections.abc import Iterable, Sequence

from kdtool.rmt.blocks import BLOCK_WORDS, NO_TREE, Place, tree_words, walk_steps
from kdtool.rmt.models import Forest, Model, ScoreTree, node_depths
from kdtool.rmt.networks import Conv1d, Network

__all__ = ["INFER_FOREST", "INFER_NETWORK", "INFER_TREE", "TREES_A_WALK", "model_words", "pack_models"]

TREES_A_WALK = 4
"""So many trees of a forest are walked at once."""
CLASS_BITS, LOW_32 = 8, 2**32 - 1
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
            packed[model.name] = INFER_TREE, len(words)
            steps = walk_steps(model.depth)
            words.append(steps)
            leaves = dict(enumerate(zip(model.value, node_depths(model), strict=True)))
            words += tree_words(model, Place(steps, source, leaves, len(words), 1))
    return packed


def _pack_forest(words: list[int], forest: Forest, source: list[int]) -> int:
    n_scores = max(tree.most_scores for tree in forest.trees)
    trees = forest.trees + (NO_TREE,) * (-len(forest.trees) % TREES_A_WALK)
    steps = walk_steps(forest.depth)
    roots = [_pack_score_tree(words, tree, source, n_scores, steps) for tree in trees]
    at = len(words)
    words += [len(forest.classes), len(trees), steps, n_scores]
    words += [word for pair in zip(forest.base_scores, forest.classes, strict=True) for word in pair]
    words += roots
    return at


def _pack_score_tree(words: list[int], tree: ScoreTree, source: list[int], n_scores: int, steps: int) -> int:
    leaves = {}
    for node, depth in enumerate(node_depths(tree)):
        if tree.feature[node] < 0:
            scores = [score << CLASS_BITS | c for c, score in tree.scores(node)]
            leaves[node] = len(words), depth + len(scores)
            words += scores + [0] * (n_scores - len(scores))
    entry = len(words)
    words += tree_words(tree, Place(steps, source, leaves, entry, 1))
    return entry + BLOCK_WORDS


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

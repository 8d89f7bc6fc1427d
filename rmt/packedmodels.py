"""Models as words of `params` (packed.py). What an action says of one is its kind and where it begins.

    tree    nodes of 5 words: feature, threshold, left, right, value
    forest  classes | trees | per class (base score, answer) | per tree its root: a tree whose leaf's value is
            where its scores begin: their number, then (class, score) each

A split names the program's feature, not the model's input. Children are counted from the root.
"""

from collections.abc import Iterable, Sequence

from kdtool.rmt.models import Forest, Model, ScoreTree, Tree

__all__ = ["INFER_FOREST", "INFER_TREE", "NODE_WORDS", "pack_models", "sum_words"]

NODE_WORDS = 5
INFER_TREE, INFER_FOREST = 3, 5
"""Kinds of action, among those of packed.py."""


def sum_words(models: Iterable[Model]) -> int:
    """Return the words of state in which a forest of `models` adds its scores up."""
    return max((len(model.classes) for model in models if isinstance(model, Forest)), default=0)


def pack_models(
    words: list[int], models: Iterable[Model], names: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Append each model to `words`; return its (kind, offset) by its name. `names` are the features'."""
    packed: dict[str, tuple[int, int]] = {}
    for model in models:
        source = [names.index(name) for name in model.inputs]
        if isinstance(model, Forest):
            packed[model.name] = INFER_FOREST, _pack_forest(words, model, source)
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

"""What a policy may know: integer, causal, bounded-state features, and the datasets built with them."""

from kdtool.features.dataset import Dataset, Events, build_dataset, write_dataset
from kdtool.features.labels import next_deltas
from kdtool.features.sets import FEATURE_SETS, FeatureSet, feature_set

__all__ = [
    "FEATURE_SETS",
    "Dataset",
    "Events",
    "FeatureSet",
    "build_dataset",
    "feature_set",
    "next_deltas",
    "write_dataset",
]

"""Datasets: the features of each event, as the VM computes them, and the label.

Built by running the same Numba kernels that decide in replay, so that a model is trained on exactly
what it will see.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from kdtool.features.labels import next_deltas
from kdtool.features.sets import FeatureSet
from kdtool.rmt import CONTEXT_FIELDS, Action, Budget, Guards, Program, Table, pack
from kdtool.rmt.jit import jit
from kdtool.rmt.numba_vm import observe

__all__ = ["Dataset", "Events", "build_dataset", "write_dataset"]


@dataclass(frozen=True)
class Events:
    """Events of a hook: int64 of shape (n_events, n_context_fields), columns as CONTEXT_FIELDS."""

    context: npt.NDArray[np.int64]

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """Return one context field of every event, shape (n_events,)."""
        return self.context[:, CONTEXT_FIELDS.index(name)]


@dataclass(frozen=True)
class Dataset:
    """X: int32 of shape (n_samples, n_features); y: int32 of shape (n_samples,), the next delta in pages."""

    feature_names: tuple[str, ...]
    X: npt.NDArray[np.int32]
    y: npt.NDArray[np.int32]


def build_dataset(events: Events, features: FeatureSet) -> Dataset:
    """Compute the features after every event and its label; events without a successor are left out."""
    program = _observer(features)
    packed = pack(program)
    X = np.zeros((len(events.context), len(program.features)), np.int64)
    _observe_all(packed.params, packed.new_state(), events.context, X)
    columns = [events.column(name) for name in features.key]
    _, stream = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    delta, known = next_deltas(stream.astype(np.int64), events.column("vpn"))
    names = tuple(feature.name for feature in program.features)
    return Dataset(names, X[known].astype(np.int32), delta[known].astype(np.int32))


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write `dataset` as Parquet: a column a feature, and `next_delta`."""
    columns = {name: dataset.X[:, i] for i, name in enumerate(dataset.feature_names)}
    pq.write_table(pa.table({**columns, "next_delta": dataset.y}), path, compression="zstd")


def _observer(features: FeatureSet) -> Program:
    """Return a program that has the features and decides nothing."""
    return Program(
        name="observer",
        hook="mm.swapin",
        registers=(features.register,),
        features=features.features,
        models=(),
        tables=(Table("nothing", (), (), Action("stop")),),
        guards=Guards(degree_pages=1),
        budget=Budget(steps=1, state_bytes=1),
    )


@jit()
def _observe_all(params, state, contexts, X):  # type: ignore[no-untyped-def]
    for i in range(len(contexts)):
        observe(params, state, contexts[i], X[i])

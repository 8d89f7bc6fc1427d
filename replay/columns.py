"""The columns of a trace's table, read one by one, as replay asks for them."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.replay.longarrays import new_array
from kdtool.traces import Trace, schema_of

__all__ = ["OneByOne"]


class OneByOne(Mapping[str, npt.NDArray[Any]]):
    """A table whose columns are read when they are asked for: memory never holds them all.

    Segments are decoded side by side, by a thread for each CPU: Arrow does that without the GIL.
    """

    def __init__(self, trace: Trace, table: str) -> None:
        self._trace, self._table = trace, table

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        column = new_array(self._trace.rows(self._table), _dtype(self._table, name))
        segments = self._trace.manifest.tables[self._table].segments
        ends = [0, *accumulate(segment.rows for segment in segments)]

        def read(segment: int) -> None:
            done = ends[segment]
            for batch in self._trace.batches(self._table, [name], segment=segment):
                part = batch[name]
                column[done : done + len(part)] = part
                done += len(part)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for _ in threads.map(read, range(len(segments))):
                pass
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(schema_of(self._table).names)

    def __len__(self) -> int:
        return len(schema_of(self._table).names)


def _dtype(table: str, name: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(schema_of(table).field(name).type.to_pandas_dtype())
    return dtype

"""The columns of a trace's table, read one by one, as replay asks for them."""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.replay.longarrays import new_array
from kdtool.traces import Trace, schema_of

__all__ = ["OneByOne"]

AHEAD = 2
"""So many columns are read ahead: what works on one may take longer than another takes to be read."""


class OneByOne(Mapping[str, npt.NDArray[Any]]):
    """A table whose columns are read when they are asked for: memory never holds them all.

    Segments are decoded side by side, by a thread for each CPU: Arrow does that without the GIL. Of `order`,
    those that come next are decoded while the caller works on the last one, AHEAD at a time.
    """

    def __init__(self, trace: Trace, table: str, order: Sequence[str] = ()) -> None:
        self._trace, self._table = trace, table
        self._next = deque(order)
        self._begun: dict[str, tuple[npt.NDArray[Any], list[Future[None]]]] = {}
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def __enter__(self) -> "OneByOne":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._begun:
            self._begin(name)
        column, parts = self._begun.pop(name)
        while self._next and len(self._begun) < AHEAD:
            self._begin(self._next[0])
        for part in parts:
            part.result()
        return column

    def _begin(self, name: str) -> None:
        if name in self._next:
            self._next.remove(name)
        column = new_array(self._trace.rows(self._table), _dtype(self._table, name))
        segments = self._trace.manifest.tables[self._table].segments
        begins = accumulate((segment.rows for segment in segments), initial=0)
        parts = [
            self._threads.submit(self._read, name, i, column[begin:])
            for i, begin in zip(range(len(segments)), begins, strict=False)
        ]
        self._begun[name] = column, parts

    def _read(self, name: str, segment: int, rows: npt.NDArray[Any]) -> None:
        """Read a segment into the first of `rows`."""
        done = 0
        for batch in self._trace.batches(self._table, [name], segment=segment):
            part = batch[name]
            rows[done : done + len(part)] = part
            done += len(part)

    def __iter__(self) -> Iterator[str]:
        return iter(schema_of(self._table).names)

    def __len__(self) -> int:
        return len(schema_of(self._table).names)


def _dtype(table: str, name: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(schema_of(table).field(name).type.to_pandas_dtype())
    return dtype

"""A peer agrees: the LRU of libCacheSim misses exactly what ours does."""

import os

import numpy as np
import pytest
from builders import ssd, workload, write_refs

from kdtool.replay.curve import miss_curve
from kdtool.replay.run import replay_none
from kdtool.traces.exporters import export_trace

libcachesim = pytest.importorskip("libcachesim", reason="libcachesim is not installed")


def peer_misses(file, n_refs, pages):
    """Return how many of the requests in an oracleGeneral file their LRU of `pages` objects misses."""
    reader = libcachesim.TraceReader(
        os.fspath(file),
        libcachesim.TraceType.ORACLE_GENERAL_TRACE,
        libcachesim.ReaderInitParam(ignore_obj_size=True),
    )
    miss_ratio, _ = libcachesim.LRU(cache_size=pages).process_trace(reader)
    return round(miss_ratio * n_refs)


def references(kind, seed):
    rng = np.random.default_rng(seed)
    n, n_pages = 20_000, 1500
    if kind == "uniform":
        return rng.integers(0, n_pages, n)
    if kind == "skewed":
        return (rng.random(n) ** 4 * n_pages).astype(int)
    runs = rng.integers(0, n_pages, n // 50)
    return (runs[:, None] + np.arange(50) * rng.choice([1, 3, 7], (len(runs), 1))).ravel()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["uniform", "skewed", "runs"])
def test_lru_misses_are_those_of_libcachesim(kind, seed, tmp_path):
    vpns = references(kind, seed)
    file = tmp_path / "refs.oracleGeneral"
    export_trace("oracle-general", write_refs(tmp_path / "t.kdt", vpns).path, file)
    w = workload(vpns)
    curve = miss_curve(w)
    for pages in (2, 10, 100, 500, 1000, 1499):
        result = replay_none(w, pages, ssd(), "lru")[1]
        theirs = peer_misses(file, len(vpns), pages)
        assert result.cold_faults + result.major_faults == theirs, pages
        assert curve.cold_faults + curve.major_faults(pages) == theirs, pages

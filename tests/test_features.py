"""Features are causal, and datasets hold what the VM computes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.errors import ParameterError
from kdtool.features import FEATURE_SETS, Events, build_dataset, feature_set, next_deltas, write_dataset
from kdtool.rmt.program import CONTEXT_FIELDS

ROWS = st.lists(
    st.tuples(st.integers(0, 500), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2)),
    min_size=2,
    max_size=60,
)


def events(rows):
    full = [(vpn, pid, tid, ip, vpn >> 13, 1) for vpn, pid, tid, ip in rows]
    return Events(np.array(full, np.int64))


@pytest.mark.parametrize("features", FEATURE_SETS, ids=lambda f: f.name)
@settings(max_examples=50, deadline=None)
@given(rows=ROWS, cut=st.integers(1, 60))
def test_what_comes_later_changes_no_feature(features, rows, cut):
    whole, part = build_dataset(events(rows), features), build_dataset(events(rows[:cut]), features)
    # Only events with a successor are samples: compare those that both have, in order.
    prefix_known = known(rows[:cut], features)
    whole_known = known(rows, features)
    kept = np.flatnonzero(whole_known)
    shared = np.isin(kept, np.flatnonzero(prefix_known))
    assert whole.X[shared].tolist() == part.X.tolist()
    assert whole.y[shared].tolist() == part.y.tolist()


def known(rows, features):
    columns = [events(rows).column(name) for name in features.key]
    _, stream = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return next_deltas(stream.astype(np.int64), events(rows).column("vpn"))[1]


@pytest.mark.parametrize("features", FEATURE_SETS, ids=lambda f: f.name)
def test_no_feature_is_an_address(features):
    rows = [(10 * i, 1, 1, 1) for i in range(40)]
    moved = [(vpn + (1 << 35), pid, tid, ip) for vpn, pid, tid, ip in rows]
    assert (
        build_dataset(events(rows), features).X.tolist() == build_dataset(events(moved), features).X.tolist()
    )


def test_a_stride_gives_the_features_one_expects(tmp_path):
    data = build_dataset(events([(7 * i, 1, 1, 1) for i in range(20)]), feature_set("process"))
    last = dict(zip(data.feature_names, data.X[-1].tolist(), strict=True))
    assert (last["d1"], last["d8"], last["s2"], last["s16"], last["s24"], last["r8"]) == (7, 7, 14, 112, 0, 8)
    assert data.y.tolist() == [7] * 19
    assert data.X[:, data.feature_names.index("r32")].tolist() == [*range(19)]
    write_dataset(data, tmp_path / "d.parquet")
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.column_names == [*data.feature_names, "next_delta"]
    assert table["s2"].to_pylist() == data.X[:, data.feature_names.index("s2")].tolist()


def test_every_key_is_a_context_field_and_unknown_sets_are_named():
    assert all(set(features.key) <= set(CONTEXT_FIELDS) for features in FEATURE_SETS)
    with pytest.raises(ParameterError, match="did you mean 'process'"):
        feature_set("proces")

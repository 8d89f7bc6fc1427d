"""Masks of the BPF code: each index that a policy of the corpus leads to lies in its region as it is."""

import struct
from collections import Counter

import pytest
from conformance_cases import read_cases

from kdtool.rmt.blocks import BLOCK_WORDS, NODE
from kdtool.rmt.bpf import Layout, pack_policy, shape_of
from kdtool.rmt.bpf.layout import ROW_TARGET
from kdtool.verify.checks import bpf
from kdtool.verify.policyindexes import policy_indexes

PLACES = {
    "blocks": lambda layout: layout.blocks + 8 * (BLOCK_WORDS + NODE),
    "forest trees": lambda layout: layout.forests + 8,
    "sums": lambda layout: layout.scores + 8 * layout.shape.forests.leaf_scores,
    "rows": lambda layout: layout.networks + 16,
    "values": lambda layout: layout.rows + ROW_TARGET,
    "answers": lambda layout: layout.networks + 40,
}
"""Where a policy has an index into a region, or the end of several."""


def packed(program):
    layout = Layout(shape_of(program))
    return layout, pack_policy(layout, program, 1)


def test_no_mask_changes_an_index_that_a_program_of_the_corpus_comes_to():
    seen = Counter()
    for case in read_cases():
        for each in policy_indexes(*packed(case.program)):
            assert not len(each.stray), each
            seen[each.region] += len(each.offsets)

    assert {region for region, n in seen.items() if n} == {
        "x", "counters", "blocks", "forests", "forest trees", "scores", "sums",
        "networks", "rows", "values", "weights", "answers",
    }  # fmt: skip


@pytest.mark.parametrize("region", PLACES)
def test_an_index_that_a_mask_would_change_is_found(region, monkeypatch):
    program, mask = next(
        (case.program, each.mask)
        for case in read_cases()
        for each in policy_indexes(*packed(case.program))
        if each.region == region and len(each.offsets)
    )
    layout, value = packed(program)
    at, changed = PLACES[region](layout), bytearray(value)
    (index,) = struct.unpack_from("<I", value, at)
    struct.pack_into("<I", changed, at, index + 2 * (mask + 8))
    monkeypatch.setattr(bpf, "pack_policy", lambda *_: bytes(changed))

    (finding,) = [each for each in bpf.check_bpf(program) if "indexes" in each.message]

    assert finding.verdict == "refuted" and f"all indexes of {region} " in finding.message, finding

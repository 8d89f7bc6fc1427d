"""Every policy's counts on one small program: any change of engine, memory or policy shows here.

Where a change is meant, the counts that the failure prints are the file's new content.
"""

from pathlib import Path

import numpy as np
from builders import ssd, workload

from kdtool.replay import POLICIES, ProgramPolicy, replay, run_shadow
from kdtool.rmt import stride_program

FILE = Path(__file__).parent / "golden" / "replay-counts.txt"
KEYS = (
    "major_faults", "minor_faults", "late_hits", "prefetch_issued", "prefetch_used", "prefetch_wasted",
    "pollution_faults", "stall_ns", "runtime_ns",
)  # fmt: skip


def program():
    """Fill 700 pages; walk them by strides, in fixed disorder, in a loop beside hot pages; store to some."""
    disorder = [i * i * 7 % 701 for i in range(900)]
    loop = np.stack([np.arange(800) * 13 % 60, 300 + np.arange(800) % 400], axis=1).ravel()
    parts = [
        np.arange(700),
        np.arange(0, 700, 3),
        np.arange(699, 0, -5),
        disorder,
        np.arange(1, 700, 3),
        loop,
    ]
    vpns = np.concatenate(parts)
    n = np.arange(len(vpns))
    return workload(vpns, kinds=n % 7 == 0, ips=n % 3 * 16, step_insns=30_000)


def counted():
    """Return the table of every policy under both reclaims."""
    w, device = program(), ssd()
    rows = [("policy", "reclaim", *KEYS)]
    for reclaim in ("linux", "lru"):
        shadow = run_shadow(w, 250, device, reclaim)
        for policy in (*POLICIES, ProgramPolicy(stride_program())):
            result = replay(w, policy, shadow, device)
            rows.append((policy.name, reclaim, *(str(getattr(result, key)) for key in KEYS)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(padded) + "\n"


def test_every_policy_counts_what_it_counted():
    found = counted()
    assert FILE.read_text() == found, f"{FILE} would be:\n{found}"

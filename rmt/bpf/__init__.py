"""The BPF back end: a program's shape becomes code, its tables and trees become data that the code walks.

It says what is to be emitted, to any assembler (emitter.py); encoding and loading are done by the rooms that
speak to the kernel.
"""

from kdtool.rmt.bpf.decision import emit_decision
from kdtool.rmt.bpf.emitter import Emitter
from kdtool.rmt.bpf.fault import (
    ASKED_BYTES,
    ASKED_SLOTS,
    RING_DATA,
    RING_READ,
    RING_WRITTEN,
    SHARED_BYTES,
    SHARED_COUNTERS,
    FaultWrapper,
    emit_fault,
)
from kdtool.rmt.bpf.layout import RECORD_WORDS, Layout
from kdtool.rmt.bpf.policy import pack_policy
from kdtool.rmt.bpf.shape import Shape, TableShape, shape_of
from kdtool.rmt.bpf.wrappers import decision_words, emit_batch, emit_packet, emit_policy

__all__ = [
    "ASKED_BYTES",
    "ASKED_SLOTS",
    "RECORD_WORDS",
    "RING_DATA",
    "RING_READ",
    "RING_WRITTEN",
    "SHARED_BYTES",
    "SHARED_COUNTERS",
    "Emitter",
    "FaultWrapper",
    "Layout",
    "Shape",
    "TableShape",
    "decision_words",
    "emit_batch",
    "emit_decision",
    "emit_fault",
    "emit_packet",
    "emit_policy",
    "pack_policy",
    "shape_of",
]

"""What is safe: cost and value bounds, tables, agreement of table and model, and building what is proved."""

from kdtool.verify.build import build_tables, format_table
from kdtool.verify.build_bpf import build_bpf
from kdtool.verify.checks import CHECKS, agreement
from kdtool.verify.equivalence import Difference, compare_decisions
from kdtool.verify.finding import Check, Finding, Report
from kdtool.verify.intervals import value_intervals
from kdtool.verify.program import verify_program

__all__ = [
    "CHECKS",
    "Check",
    "Difference",
    "Finding",
    "Report",
    "agreement",
    "build_bpf",
    "build_tables",
    "compare_decisions",
    "format_table",
    "value_intervals",
    "verify_program",
]

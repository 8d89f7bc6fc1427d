"""The checks, one file each. A new one is a file and a line in CHECKS."""

from kdtool.verify.checks.agreement import agreement, check_agreement
from kdtool.verify.checks.bpf import check_bpf
from kdtool.verify.checks.classes import check_classes
from kdtool.verify.checks.cost import check_cost
from kdtool.verify.checks.form import check_form
from kdtool.verify.checks.guards import check_guards
from kdtool.verify.checks.intervals import check_intervals
from kdtool.verify.checks.reached import check_reached
from kdtool.verify.checks.tables import check_table, check_tables
from kdtool.verify.finding import Check

__all__ = ["CHECKS", "agreement", "check_table"]

CHECKS: tuple[Check, ...] = (
    check_form,
    check_cost,
    check_bpf,
    check_intervals,
    check_classes,
    check_guards,
    check_tables,
    check_reached,
    check_agreement,
)

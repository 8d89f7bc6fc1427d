"""Run every check over a program."""

from kdtool.rmt import Program
from kdtool.verify.checks import CHECKS
from kdtool.verify.finding import Finding, Report

__all__ = ["verify_program"]


def verify_program(program: Program) -> Report:
    """Return all findings. A program that is not well-formed gets no further than its form.

    >>> from kdtool.rmt import stride_program
    >>> verify_program(stride_program()).verdict
    'proved'
    """
    findings: list[Finding] = []
    for check in CHECKS:
        findings += check(program)
        if any(f.check == "form" and f.verdict == "refuted" for f in findings):
            break
    return Report(tuple(findings))

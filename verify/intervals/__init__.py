"""What every value of a program can be, by abstract interpretation: intervals, by the names of `rmt.Vm`."""

from kdtool.verify.intervals.interval import Interval
from kdtool.verify.intervals.program import Walk, value_intervals, walk_program

__all__ = ["Interval", "Walk", "value_intervals", "walk_program"]

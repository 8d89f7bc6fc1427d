"""What is in a trace: `kdtool info`."""

from kdtool.traces.info.describe import describe

__all__ = ["describe"]

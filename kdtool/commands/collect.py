"""Temporary."""

from kdtool.collect.cli import register

__all__ = ["register"]

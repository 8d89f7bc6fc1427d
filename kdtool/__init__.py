"""kdtool: learn operating-system policies from traces. The links beside this file are the rooms."""

__all__ = ["__version__"]

__version__ = "0.1.0"

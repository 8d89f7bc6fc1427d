"""Every error that a user can cause or meet, and how it is worded.

    KdtoolError                 one line: what was given, what is allowed, what to do; exit 1
    ├── TraceError              a trace is missing, altered, unbalanced or of another version
    ├── ProgramError            a program is malformed, altered, of another version or not proved
    ├── CapabilityError         this machine or user lacks something; the message names the fix
    ├── CommandError            the recorded command could not be started or failed
    └── ParameterError          a value outside what is allowed

The command line prints `kdtool: error: <message>` and exits 1; a library user catches KdtoolError.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CapabilityError",
    "CommandError",
    "KdtoolError",
    "ParameterError",
    "ProgramError",
    "TraceError",
    "unknown_name",
]


class KdtoolError(Exception):
    """An expected error. `str(error)` is the one line shown to the user."""


class TraceError(KdtoolError):
    """A trace that cannot be read, or must not be."""


class ProgramError(KdtoolError):
    """A program that cannot be read, or must not be run."""


class CapabilityError(KdtoolError):
    """Something that this machine, kernel or user does not have."""


class CommandError(KdtoolError):
    """The workload's command could not be started, or failed."""


class ParameterError(KdtoolError):
    """A parameter outside its allowed values."""


def unknown_name(what: str, given: str, known: Iterable[str]) -> ParameterError:
    """Return the error for a name that is not among `known`, with the closest match.

    >>> print(unknown_name("policy", "linux-vna", ["none", "linux-vma"]))
    unknown policy 'linux-vna': did you mean 'linux-vma'? (known: linux-vma, none)
    """
    names = sorted(known)
    close = get_close_matches(given, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return ParameterError(f"unknown {what} '{given}': {hint}(known: {', '.join(names)})")

"""References: every page that a command touches, its children included, by running it under qemu-user.

Idea: a plugin in qemu-user sees each load, store and code block of the program, and each buffer that the
kernel touches for it, and feeds one ordered, exactly reduced stream (`pgtrace.c`, `sad.h`) that `reftrace.py`
reads.
Cost: 27.6 s for the 0.78 s of convolution.py and 16.5 s for the 0.62 s of resize.py (2-CPU EPYC VM).
Kernel counterpart: the accessed bit, which Linux only samples.
Differs: no page is missed and none is sampled; the CPU is qemu's (AVX2 at most), times are not the machine's.
Not seen: a process that leaves the tree (a daemon already running), and programs not for x86-64.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool.collect import reftrace
from kdtool.collect.base import Problem, Progress, Request, Scope
from kdtool.collect.compiled import build
from kdtool.errors import CapabilityError, CommandError, ParameterError
from kdtool.traces import Reduction, Trace, TraceWriter
from kdtool.traces.spool import DiskError

__all__ = ["References", "recorded_by_this_version", "told_tunables"]

QEMU = "qemu-x86_64"
LINKER = "/lib64/ld-linux-x86-64.so.2"
"""By its ABI's name. It lists what it would take for tunables since glibc 2.33."""
COPYING = tuple(
    f"glibc.cpu.x86_{name}"
    for name in (
        "rep_movsb_threshold", "rep_stosb_threshold", "non_temporal_threshold", "data_cache_size",
        "shared_cache_size",
    )
)  # fmt: skip
PACKAGES = "qemu-user gcc libc6-dev"
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the program's limit of file sizes (ulimit -f), which holds for its records too",
    errno.EACCES: "the program became another user and closed all files: let that user write there",
}
ELF_X86_64 = (b"\x7fELF\x02\x01", 62)


def recorded_by_this_version(trace: Trace) -> bool:
    """Tell whether the plugin that would record now recorded `trace`: what another saw may differ.

    Raises CapabilityError or CommandError where the plugin cannot be compiled.
    """
    recorded = trace.manifest.collector.get("sources", {}).get(References.name, {})
    return bool(recorded.get("plugin_sha256") == build(reftrace.SOURCES, PACKAGES)[1])


class References:
    """The collector `refs`: tables `refs`, `vmas`, `forks`, `waits` and `zeros`, clock `insns`."""

    name = "refs"
    tables = ("refs", "vmas", "forks", "waits", "zeros")
    clock = "insns"

    def unavailable(self) -> Problem | None:
        """Return what is missing: qemu-user or gcc."""
        for program in (QEMU, "gcc"):
            if shutil.which(program) is None:
                return Problem(f"{program} is not installed", f"apt-get install {PACKAGES}")
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "Tracer":
        """Compile the plugin unless that was done, and make its spool.

        Raises CapabilityError, CommandError or ParameterError.
        """
        _check_request(scope.request)
        problem = self.unavailable()
        if problem is not None:
            raise CapabilityError(f"refs: {problem.reason}: {problem.fix}")
        return Tracer(scope.request, writer)

    def recover(self, kept: Path, writer: TraceWriter) -> None:
        """Append what the plugin had recorded when the recorder was killed; it records no more."""
        spool = reftrace.Spool.left_in(kept)
        spool.stop()
        reftrace.write_rows(spool, writer)


class Tracer:
    """The source of one recording of references: the emulator's command line, and what its plugin left."""

    def __init__(self, request: Request, writer: TraceWriter) -> None:
        self._program = resolve_command(request.command)
        self._plugin, self._digest = build(reftrace.SOURCES, PACKAGES)
        self._writer = writer
        folder = (writer.spool / References.name).resolve()  # the program may change its directory
        self._options = f"{self._plugin},state={folder}/state,spool={folder}/records,self={self._plugin}"
        if self._options.count(",") > 3:
            raise ParameterError(f"{self._options}: qemu takes no path with a comma: choose other folders")
        self._spool = reftrace.Spool.make(folder, request.k)
        self.reduction = Reduction("sad", request.k)
        self.environment: Mapping[str, str] = {}
        self._told: list[str] = []

    def emulate(
        self, command: Sequence[str], environment: dict[str, str]
    ) -> tuple[Sequence[str], dict[str, str]]:
        """Return qemu's command line, and the environment without the LD_ variables of the program.

        The program's C library is told how large the host's caches are, and from what size on it copies by
        string instructions: it goes by the CPU that it is shown, qemu's otherwise. Others copy the end of a
        block before its middle, and so come to pages in another order than without qemu.
        """
        linker, rest = _linker_variables(environment)
        tunables = told_tunables(environment.get("GLIBC_TUNABLES", ""))
        self._told = ["-E", f"GLIBC_TUNABLES={tunables}"] if tunables else []
        qemu = [shutil.which(QEMU) or QEMU, "-plugin", self._options, "-0", self._program[0]]
        return [*qemu, *linker, *self._told, *self._program[1:]], rest

    def start(self, pids: Sequence[int]) -> None:
        """Nothing: the plugin counts from the program's first instruction on."""

    def check(self) -> None:
        """Raise when the plugin could not write its records; those from before are kept."""
        self._writer.spooled = self._spool.emitted
        with self._writer.keeping_what_is_there():
            if error := self._spool.count("error"):
                remedy = REMEDIES.get(error, "record into another folder")
                raise DiskError(f"{self._writer.path}: cannot be written ({os.strerror(error)}): {remedy}")

    def progress(self) -> Progress:
        """Return the references counted so far, before reduction."""
        return Progress(self._spool.count("refs"), self._spool.count("lost"))

    def finish(self) -> None:
        """Record no more, and append all that was recorded to its tables."""
        self.check()
        self._spool.stop()
        with self._writer.keeping_what_is_there():
            reftrace.write_rows(self._spool, self._writer)

    def facts(self) -> dict[str, Any]:
        """Return the emulator, the plugin and its counters."""
        version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True)
        return {
            "events": ["refs"],
            "qemu": version.stdout.splitlines()[0],
            "plugin_sha256": self._digest,
            "glibc_tunables": "".join(self._told[1:]).removeprefix("GLIBC_TUNABLES="),
            "insns": self._spool.count("insns"),
            "refs_counted": self._spool.count("refs"),
            "processes": self._spool.count("processes"),
            "untraced_execs": self._spool.count("untraced"),
            "killed_while_recording": self._spool.count("broken"),
            "names_lost": self._spool.count("names_lost"),
            "pages_not_looked_at": self._spool.count("unread"),
        }

    def close(self) -> None:
        """Nothing: the spool goes with the trace's."""


def resolve_command(command: tuple[str, ...]) -> list[str]:
    """Return [argv0, program, arguments ...] with PATH and `#!` lines resolved.

    Raises
    ------
    CommandError
        Not found, not executable, or not for x86-64.

    >>> resolve_command(("no-such-command",))
    Traceback (most recent call last):
    kdtool.errors.CommandError: no-such-command: command not found: give a program on PATH or a path to one
    """
    found = shutil.which(command[0])
    if found is None:
        raise CommandError(f"{command[0]}: command not found: give a program on PATH or a path to one")
    argv0, program, arguments = command[0], found, list(command[1:])
    for _ in range(5):
        with open(program, "rb") as file:
            head = file.read(256)
        if not head.startswith(b"#!"):
            break
        words = head[2:].split(b"\n", 1)[0].strip().decode(errors="surrogateescape").split(None, 1)
        arguments = [*words[1:], program, *arguments]
        argv0 = program = words[0] if words else ""
        if not os.access(program, os.X_OK):
            raise CommandError(f"{command[0]}: its interpreter {program!r} cannot be executed")
    if not (head[:6] == ELF_X86_64[0] and int.from_bytes(head[18:20], "little") == ELF_X86_64[1]):
        raise CommandError(f"{program}: not an x86-64 ELF program: references are recorded of those only")
    return [argv0, program, *arguments]


def _check_request(request: Request) -> None:
    if not 0 <= request.k <= reftrace.MAX_K:
        raise ParameterError(f"k = {request.k} pages, allowed: 0 (unreduced) to {reftrace.MAX_K}")


def _linker_variables(environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return qemu's options for the program's own LD_ variables, and the environment of qemu without them.

    As for_guest_only() in pgexec.h: a value with a comma cannot be an option of qemu and stays.
    """
    own = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT")
    moved = {name: environment[name] for name in own if "," not in environment.get(name, ",")}
    options = [word for name, value in moved.items() for word in ("-E", f"{name}={value}")]
    return options, {name: value for name, value in environment.items() if name not in moved}


def told_tunables(given: str) -> str:
    """Return the tunables of COPYING as this host has them, and those that are given; "" for none.

    With them in GLIBC_TUNABLES a program has the environment that it is recorded in, which decides, by its
    length, where in a page what it allocates begins.
    """
    linker = Path(LINKER)
    if not linker.exists() or "," in given:  # no option of qemu may have a comma
        return ""
    listed = subprocess.run([linker, "--list-tunables"], capture_output=True, text=True, check=False)
    own = dict(line.split(": ", 1) for line in listed.stdout.splitlines() if ": " in line)
    known = [f"{name}={own[name].split()[0]}" for name in COPYING if name in own and f"{name}=" not in given]
    return ":".join([*known, *([given] if given else [])])

"""References: every page that a command touches, its children included, by running it under qemu-user.

Idea: a plugin in qemu-user sees each load, store and code block of the program, and each buffer that the
kernel touches for it, and feeds one ordered, exactly reduced stream (`pgtrace.c`, `sad.h`) that `reftrace.py`
reads.
Cost: 27.6 s for the 0.78 s of convolution.py and 16.5 s for the 0.62 s of resize.py (2-CPU EPYC VM).
Kernel counterpart: the accessed bit, which Linux only samples.
Differs: no page is missed and none is sampled; the CPU is qemu's (AVX2 at most), times are not the machine's.
Not seen: a process that leaves the tree (a daemon already running), and programs not for x86-64.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kdtool.collect import reftrace
from kdtool.collect.base import Problem, Request
from kdtool.collect.terminal import lend_terminal
from kdtool.errors import CapabilityError, CommandError, ParameterError
from kdtool.kernel.host import host_facts
from kdtool.traces import Manifest, Reduction, Trace, TraceWriter

__all__ = ["References"]

QEMU = "qemu-x86_64"
MAX_K = 1 << 20
ELF_X86_64 = (b"\x7fELF\x02\x01", 62)
GRACE_S = 5.0
"""Seconds that a command gets between SIGINT or SIGTERM and SIGKILL."""
POLL_S = 0.01


class References:
    """The collector `refs`: tables `refs` and `vmas`, clock `insns`."""

    name = "refs"
    tables = ("refs", "vmas")

    def unavailable(self) -> Problem | None:
        """Return what is missing: qemu-user or gcc."""
        for program in (QEMU, "gcc"):
            if shutil.which(program) is None:
                return Problem(f"{program} is not installed", "apt-get install qemu-user gcc libc6-dev")
        return None

    def record(self, request: Request) -> Trace:
        """Run the command under the tracer and seal its references.

        The trace is sealed whatever the command returns: `workload["exit_code"]` holds it (negative: the
        signal). Ctrl-C ends the command and seals with state `interrupted`.
        """
        _check_request(request)
        problem = self.unavailable()
        if problem is not None:
            raise CapabilityError(f"refs: {problem.reason}: {problem.fix}")
        program = resolve_command(request.command)
        plugin, digest = reftrace.build_plugin()
        with TraceWriter(request.output) as writer, _spool_folder(request.output) as folder:
            spool = reftrace.Spool(Path(folder), request.k)
            run = _run(request, program, plugin, spool)
            n_refs = reftrace.write_rows(spool, writer)
            return writer.seal(_manifest(request, run, spool, n_refs, digest))


@dataclass(frozen=True)
class Run:
    """How the command ended: state of the trace, exit code (negative: signal) and wall-clock time.

    `ended_by` is command (by itself), duration or signal (Ctrl-C), as in recordings of faults.
    """

    state: str
    ended_by: str
    exit_code: int
    wall_ns: int


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
    if not request.command:
        raise ParameterError("refs: records a command, it cannot attach to a cgroup: give -- COMMAND")
    if request.memory_bytes is not None or request.cgroup is not None:
        raise ParameterError(
            "refs: references do not depend on memory: leave out --memory and --cgroup; give memory to replay"
        )
    if not 0 <= request.k <= MAX_K:
        raise ParameterError(f"k = {request.k} pages, allowed: 0 (unreduced) to {MAX_K}")


def _spool_folder(output: Path) -> "tempfile.TemporaryDirectory[str]":
    """Return a folder beside the trace: the records may need more room than /tmp has."""
    return tempfile.TemporaryDirectory(prefix=".kdtool-refs-", dir=output.parent.resolve())


def _run(request: Request, program: list[str], plugin: Path, spool: reftrace.Spool) -> Run:
    options = f"{plugin},state={spool.state_path},spool={spool.records_path},self={plugin}"
    if options.count(",") > 3:
        raise ParameterError(f"{options}: qemu takes no path with a comma: choose other folders")
    qemu = [shutil.which(QEMU) or QEMU, "-plugin", options, "-0", program[0]]
    linker, environment = _linker_variables()
    stdout = sys.stderr.fileno() if request.quiet_stdout else None
    start_ns = time.monotonic_ns()
    process = subprocess.Popen(
        [*qemu, *linker, *program[1:]], stdout=stdout, env=environment, process_group=0
    )
    deadline = None if request.duration_s is None else time.monotonic() + request.duration_s
    state, ended_by = "complete", "command"
    with lend_terminal(process.pid):
        try:
            if not _wait(process, deadline):
                ended_by = "duration"
                _end(process, signal.SIGTERM, spool)
        except KeyboardInterrupt:
            state, ended_by = "interrupted", "signal"
            _end(process, signal.SIGINT, spool)
    exit_code = process.wait()
    if exit_code == -signal.SIGINT:  # Ctrl-C went to the command, which had the terminal
        state, ended_by = "interrupted", "signal"
    return Run(state, ended_by, exit_code, time.monotonic_ns() - start_ns)


def _linker_variables() -> tuple[list[str], dict[str, str]]:
    """Return qemu's options for the program's own LD_ variables, and the environment of qemu without them.

    As for_guest_only() in pgexec.h: a value with a comma cannot be an option of qemu and stays.
    """
    own = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT")
    moved = {name: os.environ[name] for name in own if "," not in os.environ.get(name, ",")}
    options = [word for name, value in moved.items() for word in ("-E", f"{name}={value}")]
    return options, {name: value for name, value in os.environ.items() if name not in moved}


def _wait(process: "subprocess.Popen[bytes]", deadline: float | None) -> bool:
    """Wait until the command and all that is left of its process group have ended."""
    while process.poll() is None or _group_lives(process.pid):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _end(process: "subprocess.Popen[bytes]", first: signal.Signals, spool: reftrace.Spool) -> None:
    """Ask the process group to end; what is left after the grace stops being recorded and is killed."""
    for number in (first, signal.SIGKILL):
        if number == signal.SIGKILL:
            spool.stop()
        if _group_lives(process.pid):
            os.killpg(process.pid, number)
        if _wait(process, time.monotonic() + GRACE_S):
            return


def _manifest(request: Request, run: Run, spool: reftrace.Spool, n_refs: int, digest: str) -> Manifest:
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True)
    collector = {
        "name": "refs",
        "version": "1",
        "events": ["refs"],
        "qemu": version.stdout.splitlines()[0],
        "plugin_sha256": digest,
        "overhead": {"wall_ns": run.wall_ns},
    }
    workload = {
        "exit_code": run.exit_code,
        "ended_by": run.ended_by,
        "wall_ns": run.wall_ns,
        "insns": spool.count("insns"),
        "refs_counted": spool.count("refs"),
        "refs_retained": n_refs,
        "processes": spool.count("processes"),
        "untraced_execs": spool.count("untraced"),
        "killed_while_recording": spool.count("broken"),
        "names_lost": spool.count("names_lost"),
    }
    return Manifest(
        state=run.state,
        clock="insns",
        command=list(request.command),
        collector=collector,
        host=host_facts(),
        workload=workload,
        reduction=Reduction("sad", request.k),
    )

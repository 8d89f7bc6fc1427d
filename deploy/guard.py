"""Puts back what a killed agent left: another process, started by it for nobody else.

    python -I -S .../deploy/guard.py PAGE_CLUSTER CLAIM LIMIT PATTERN ...

Run as a file, with the standard library alone, it takes 30 ms of a CPU to start; with all that kdtool.deploy
imports it took 0.7 s, while the workload ran. Waits until its standard input closes. If the agent did not say
`done` first, it was killed: vm.page-cluster becomes PAGE_CLUSTER again (`-`: it was not changed), which
others may change only after that (CLAIM, a descriptor, see kernel/host.py), and the
cgroups that it made, those that a PATTERN of names fits then, are removed once the command in them has ended
by itself; it goes on under its limit until then, LIMIT bytes (`-`: none), which is written again: the agent
may have been making room (room.py). Patterns, since it has to stand by before there is any.
"""

import glob
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

__all__ = ["guarded", "main"]

LOOK_S = 0.1
PAGE_CLUSTER = Path("/proc/sys/vm/page-cluster")
READY = b"ready\n"
LIMIT_V1 = "memory.limit_in_bytes"
"""The limit of v2 is not touched."""


@contextmanager
def guarded(
    page_cluster: int | None, cgroups: Sequence[str], limit_bytes: int | None = None
) -> Iterator[None]:
    """Have a guard stand by for the block; a `page_cluster` is claimed and set for it and put back after it.

    cgroups : patterns (glob) of the directories of cgroups that are made in the block
    limit_bytes : the memory limit of those
    """
    from kdtool.errors import CapabilityError  # the guard itself does without
    from kdtool.kernel.host import page_cluster_claim, read_page_cluster, write_page_cluster

    with nullcontext() if page_cluster is None else page_cluster_claim() as claim:
        before = read_page_cluster()
        changed = ("-", "-") if claim is None else (str(before), str(claim))
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *changed, str(limit_bytes or "-"), *cgroups],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=() if claim is None else (claim,),
            start_new_session=True,  # Ctrl-C is not for it
        )
        try:
            assert guard.stdout is not None, "a pipe was asked for"
            if guard.stdout.readline() != READY:
                raise CapabilityError(
                    f"the agent's guard does not start: try {sys.executable} -I -S {__file__}"
                )
            if page_cluster is not None:
                write_page_cluster(page_cluster)
            yield
        finally:
            if page_cluster is not None:
                write_page_cluster(before)
            guard.communicate(b"done")


def main(arguments: Sequence[str]) -> int:
    """Wait, then put back."""
    page_cluster, claim, limit, *patterns = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    if sys.stdin.buffer.read() == b"done":
        return 0
    if page_cluster != "-":
        PAGE_CLUSTER.write_text(page_cluster)
        os.close(int(claim))
    left = [Path(name) for pattern in patterns for name in glob.glob(pattern)]
    if limit != "-":
        _put_limit_back(limit, left)
    while left := [path for path in left if path.exists()]:
        for path in left:
            with suppress(OSError):  # something lives in it still
                os.rmdir(path)
        time.sleep(LOOK_S)
    return 0


def _put_limit_back(limit: str, cgroups: Sequence[Path]) -> None:
    for file in (path / LIMIT_V1 for path in cgroups):
        with suppress(OSError), file.open("r+") as opened:  # of another hierarchy, or gone by now
            opened.write(limit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

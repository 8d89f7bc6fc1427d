"""Puts the machine back when a bench has ended, however it ended: started by machine.py, for nobody else.

    python -m bench.fidelity.guard PID SWAP_FILE PAGE_CLUSTER

Waits until its standard input closes. Then the swap file of the process PID is taken down; if that process
did not say `done` first, it was killed: what it left running in its cgroups is killed and vm.page-cluster
becomes PAGE_CLUSTER again, which the guard, still starting, might read too late.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from kdtool.kernel.cgroup import PREFIX, find_layout, reap_stale
from kdtool.kernel.host import write_page_cluster

SWAP = Path(__file__).resolve().parent.parent.parent / "scripts" / "swap"
EMPTY_S = 10.0


def main() -> int:
    """Wait, then put everything back; return scripts/swap's exit code."""
    pid, file, page_cluster = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() != b"done":
        end_left_over(pid)
        write_page_cluster(int(page_cluster))
    down = [sys.executable, SWAP, "down", "--file", file]
    return subprocess.run(down, stdout=subprocess.DEVNULL, check=False).returncode


def end_left_over(pid: str) -> None:
    """Kill what the killed bench was running, in the cgroups that bear its pid, and remove them."""
    layout = find_layout()
    assert layout.memory is not None, "the bench had a memory cgroup"
    root = layout.memory.root
    deadline = time.monotonic() + EMPTY_S
    while (left := list(root.glob(f"{PREFIX}{pid}-*"))) and time.monotonic() < deadline:
        for path in left:
            with suppress(OSError):  # a process of it has just ended, or is ending: next round
                for word in (path / "cgroup.procs").read_text().split():
                    os.kill(int(word), signal.SIGKILL)
                path.rmdir()
        time.sleep(0.05)
    reap_stale(layout)


if __name__ == "__main__":
    sys.exit(main())

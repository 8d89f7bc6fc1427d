"""The terminal and the signals of a recording: who reads the one, and what the others end."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "lend_terminal", "stop_on_signals"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether a signal asked us to end, and which came first."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def request(self, number: int, frame: FrameType | None) -> None:
        """Take note; the loops of the recording look at it, so that nothing ends half done."""
        if self.number is None:
            self.number = number


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a request inside the block (in the main thread only)."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, stop.request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def lend_terminal(group: int) -> Iterator[None]:
    """Make the process group the foreground of our terminal, if we have one, so that it may read it."""
    if not _in_foreground():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # it would stop us
    os.tcsetpgrp(0, group)
    os.killpg(group, signal.SIGCONT)  # it may have been stopped for reading too early
    try:
        yield
    finally:
        os.tcsetpgrp(0, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_foreground() -> bool:
    """Tell whether standard input is the terminal of our session and our process group its foreground."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError as error:
        # ENOTTY: no terminal, or that of another session (setsid, the first process of a container or a
        # console). EBADF: it is closed.
        if error.errno not in (errno.ENOTTY, errno.EBADF):
            raise
        return False

"""The terminal and the signals of a recording: who reads the one, and what the others end.

    foreground   ours --lend--> the command's --Ctrl-Z, it stops--> ours, and we stop: the shell's
                                              <--fg: lent again, and continued---

The command leads a process group of its own, so we do for it what a shell does for its jobs.
"""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Stop", "Terminal", "lend_terminal", "stop_on_signals"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""How a terminal stops whom it does not serve. Who is stopped by SIGSTOP waits for another's SIGCONT."""


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


class Terminal:
    """Standard input's terminal, if it is ours, and the command, whose process group may read it."""

    def __init__(self, command: int) -> None:
        self._command = command
        self._is_ours = _foreground() is not None
        self._lent = False

    def lend(self) -> None:
        """Make the command's group the foreground, if we are that, so that it may read."""
        if _foreground() == os.getpgrp():
            self._lent = _set_foreground(self._command)

    def take_back(self) -> None:
        """Be the foreground again, if we lent it; where the terminal was closed there is none any more."""
        if self._lent:
            _set_foreground(os.getpgrp())
        self._lent = False

    def follow(self) -> None:
        """Stop ourselves if the terminal has stopped the command; when a shell has us go on, both do.

        Without a shell, which would continue us, the kernel does not let SIGTSTP stop us: all go on at once.
        """
        if not self._is_ours or not self._is_stopped():
            return
        if self._lent or _foreground() != os.getpgrp():
            self.take_back()
            os.killpg(os.getpgrp(), signal.SIGTSTP)  # those as well that share a pipeline with us
        self.lend()
        with suppress(ProcessLookupError):  # it has been killed meanwhile
            os.killpg(self._command, signal.SIGCONT)

    def _is_stopped(self) -> bool:
        try:
            found = os.waitid(os.P_PID, self._command, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # it has ended
            return False
        return found is not None and found.si_status in STOPPING


@contextmanager
def lend_terminal(group: int) -> Iterator[Terminal]:
    """Lend our terminal, if we have one, to the process group that our child of that number leads."""
    terminal = Terminal(group)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # taking it back would stop us
    try:
        terminal.lend()
        yield terminal
    finally:
        terminal.take_back()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _foreground() -> int | None:
    """Return the foreground process group of standard input's terminal, None if that is not our session's."""
    try:
        return os.tcgetpgrp(0)
    except OSError as error:
        # ENOTTY: no terminal, or that of another session (setsid, the first process of a container or a
        # console). EBADF: it is closed. EIO: it is gone.
        if error.errno not in (errno.ENOTTY, errno.EBADF, errno.EIO):
            raise
        return None


def _set_foreground(group: int) -> bool:
    """Make a group the terminal's foreground; False where the terminal is gone, or the group has ended."""
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        return False
    return True

"""What is built is written whole under its final name, or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from kdtool.errors import ProgramError

__all__ = ["write_whole"]


def write_whole(target: Path, content: bytes) -> None:
    """Write `content` through a temporary name beside `target`; folders that are missing are made.

    Raises ProgramError when it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        raise ProgramError(
            f"{target}: cannot be written: {error.strerror}: give another folder by -o"
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink()

"""The guest's file system: an archive in the kernel's format that becomes its root in memory.

newc of cpio(5): a header of 13 hexadecimal numbers, the name, the content, each padded to 4 bytes
(Documentation/driver-api/early-userspace/buffer-format.rst, v6.18).
"""

import gzip
from collections.abc import Mapping

__all__ = ["pack"]

FOLDER_MODE, FILE_MODE, DEVICE_MODE = 0o040755, 0o100755, 0o020600
CONSOLE = (5, 1)
"""/dev/console, major and minor: the kernel opens it for init before devtmpfs is mounted."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return a gzipped archive of executable files by path, with their folders and /dev/console.

    >>> import gzip
    >>> gzip.decompress(pack({"init": b"x"})).count(b"070701")
    4
    """
    folders = {"dev"} | {name[:at] for name in files for at, sign in enumerate(name) if sign == "/"}
    entries = [_entry(folder, FOLDER_MODE, b"") for folder in sorted(folders)]
    entries.append(_entry("dev/console", DEVICE_MODE, b"", CONSOLE))
    entries += [_entry(name, FILE_MODE, content) for name, content in files.items()]
    entries.append(_entry("TRAILER!!!", 0, b""))
    return gzip.compress(b"".join(entries), compresslevel=1, mtime=0)


def _entry(name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    encoded = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 4)

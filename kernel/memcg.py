"""The memory side of a cgroup: its limit, and what the kernel counted in it. v1 and v2 differ in names.

Unit: bytes and events. A limit is rounded down to whole pages by the kernel; read it back.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import CapabilityError

__all__ = ["Charges", "MemoryCgroup"]

NO_LIMIT_V1 = (1 << 63) - 4096
FILES = {
    1: {
        "limit": "memory.limit_in_bytes",
        "usage": "memory.usage_in_bytes",
        "peak": "memory.max_usage_in_bytes",
    },
    2: {"limit": "memory.max", "usage": "memory.current", "peak": "memory.peak"},
}
KERNEL_PARTS_V2 = ("kernel_stack", "pagetables", "percpu", "vmalloc", "slab")
"""What `kernel` of a v2 memory.stat adds up, on kernels that do not say it (before v5.18)."""


@dataclass(frozen=True)
class Charges:
    """What the bytes charged to a cgroup are, at one moment.

    usage_bytes : all of them, those included that a CPU holds charged and not yet used
    anonymous_bytes : mapped anonymous pages
    file_bytes : page cache, shared memory included
    kernel_bytes : page tables, stacks, slab and other kernel memory
    """

    usage_bytes: int
    anonymous_bytes: int
    file_bytes: int
    kernel_bytes: int


class MemoryCgroup:
    """The memory files of the cgroup directory `path` in a hierarchy of `version` 1 or 2."""

    def __init__(self, path: Path, version: int) -> None:
        self.path, self.version = path, version

    @property
    def is_on(self) -> bool:
        """Return whether its memory is accounted: of v2, the controller may be off where it lies."""
        return self._file("limit").exists()

    def set_limit(self, memory_bytes: int) -> None:
        """Limit it; CapabilityError when the kernel refuses (others' use of it is above, or no right)."""
        file = self._file("limit")
        try:
            file.write_text(str(memory_bytes))
        except OSError as error:
            raise CapabilityError(
                f"{file}: {memory_bytes} bytes refused: {error.strerror}: run as root, or give more"
            ) from None

    @property
    def limit_bytes(self) -> int | None:
        """Return the limit, None when there is none."""
        text = self._file("limit").read_text().strip()
        return None if text == "max" or int(text) >= NO_LIMIT_V1 else int(text)

    @property
    def usage_bytes(self) -> int:
        """Return the bytes charged to it now."""
        return int(self._file("usage").read_text())

    @property
    def peak_bytes(self) -> int | None:
        """Return the most bytes ever charged to it; None on kernels whose v2 does not say."""
        file = self._file("peak")
        return int(file.read_text()) if file.exists() else None

    @property
    def limit_hits(self) -> int:
        """Return how often a charge met the limit (v1 failcnt, v2 `max` events)."""
        if self.version == 1:
            return int((self.path / "memory.failcnt").read_text())
        return _pairs(self.path / "memory.events")["max"]

    @property
    def oom_kills(self) -> int:
        """Return how many processes the kernel killed for its limit."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return _pairs(self.path / name)["oom_kill"]

    def stat(self) -> dict[str, int]:
        """Return memory.stat of the cgroup and those below it, under the names that the kernel uses."""
        return _pairs(self.path / "memory.stat")

    def refresh(self) -> None:
        """Have the kernel bring its statistics of the cgroup up to date, by which it reclaims."""
        (self.path / "memory.stat").read_bytes()

    def reclaim_files(self) -> tuple[tuple[Path, int], tuple[Path, int]]:
        """Return where the use is read, and where `reclaim_texts` go; each with flags for open(2)."""
        file = self.path / "memory.reclaim" if self.version == 2 else self._file("limit")
        return (self._file("usage"), os.O_RDONLY | os.O_CLOEXEC), (file, os.O_WRONLY | os.O_CLOEXEC)

    def reclaim_texts(self, n_bytes: int) -> tuple[bytes, bytes]:
        """Return what to write so that the kernel reclaims `n_bytes` (v2), or until they are free (v1).

        v1 has but a limit for that: it is lowered by as much, and what it was is written next.
        """
        if self.version == 2:
            return str(n_bytes).encode(), b""
        limit = self.limit_bytes
        assert limit is not None, "who has no limit need not reclaim"
        return str(limit - n_bytes).encode(), str(limit).encode()

    def charges(self) -> Charges:
        """Return what is charged to it now, by kind; the kernel brings its statistics up to date for that."""
        stat = self.stat()
        if self.version == 1:
            # A kernel without the file does not charge its own memory to a cgroup.
            kernel = self.path / "memory.kmem.usage_in_bytes"
            own = int(kernel.read_text()) if kernel.exists() else 0
            return Charges(self.usage_bytes, stat["total_rss"], stat["total_cache"], own)
        own = stat["kernel"] if "kernel" in stat else sum(stat.get(name, 0) for name in KERNEL_PARTS_V2)
        return Charges(self.usage_bytes, stat["anon"], stat["file"], own)

    def facts(self) -> dict[str, Any]:
        """Return limit, use and counters for a manifest."""
        return {
            "version": self.version,
            "limit_bytes": self.limit_bytes,
            "usage_bytes": self.usage_bytes,
            "peak_bytes": self.peak_bytes,
            "limit_hits": self.limit_hits,
            "oom_kills": self.oom_kills,
        }

    def _file(self, what: str) -> Path:
        return self.path / FILES[self.version][what]


def _pairs(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}

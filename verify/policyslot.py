"""The slot that a running BPF program reads its policy from: a map of maps, with one frozen map in it.

policies [0] --> policy (version 7, frozen)        put(program, 8): a new map is filled and frozen, and takes
                                                    the slot in one step; the kernel frees the old one when
                                                    no decision uses it any more
"""

import os
import struct

from kdtool.kernel.bpf import ARRAY, ARRAY_OF_MAPS, RDONLY_PROG, create_map, freeze_map, update_map
from kdtool.rmt import Program
from kdtool.rmt.bpf import Layout, pack_policy

__all__ = ["PolicySlot"]


class PolicySlot:
    """Holds the policy of a program that was made for `layout`. Only proved programs belong here.

    Raises ProgramError when `program` has no room in the layout, CapabilityError when BPF is refused.
    """

    def __init__(self, layout: Layout, program: Program, version: int) -> None:
        self._layout = layout
        self.fd = -1
        inner = self._make(program, version)
        try:
            self.fd = create_map(ARRAY_OF_MAPS, 4, 4, 1, inner_fd=inner)
            update_map(self.fd, 0, struct.pack("<I", inner))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(inner)

    def put(self, program: Program, version: int) -> None:
        """Replace the policy: each decision that begins after this goes by `program`.

        Raises as the constructor does; the old policy stays then.
        """
        inner = self._make(program, version)
        try:
            update_map(self.fd, 0, struct.pack("<I", inner))
        finally:
            os.close(inner)

    def close(self) -> None:
        """Let go of the map; programs that use it keep it. A second time does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def _make(self, program: Program, version: int) -> int:
        value = pack_policy(self._layout, program, version)
        inner = create_map(ARRAY, 4, len(value), 1, RDONLY_PROG)
        try:
            update_map(inner, 0, value)
            freeze_map(inner)
        except BaseException:
            os.close(inner)
            raise
        return inner

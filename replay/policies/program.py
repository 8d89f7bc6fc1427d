"""A learned (or hand-written) RMT program as a policy: the Numba VM decides, as it will be deployed."""

from kdtool.replay.policies.base import Decide, Prepared, Setting
from kdtool.rmt import Program, pack, program_sha256, require_hook
from kdtool.rmt.numba_vm import decide

__all__ = ["ProgramPolicy"]


class ProgramPolicy:
    """Run `program` at every event of its hook."""

    def __init__(self, program: Program) -> None:
        require_hook(program.name, program.hook, "mm.swapin", "replay")
        self.program = program
        self.name = program.name
        self.version = program_sha256(program)[:12]
        self.degree_pages = program.guards.degree_pages

    @property
    def decide(self) -> Decide:
        """Return the Numba VM."""
        result: Decide = decide
        return result

    def prepare(self, setting: Setting) -> Prepared:
        """Return the packed program and zeroed registers."""
        packed = pack(self.program)
        return Prepared(packed.params, packed.new_state())

"""BPF: what the program costs in the kernel, from its code: instructions, and the bytes of its maps."""

from kdtool.errors import ProgramError
from kdtool.rmt import Program
from kdtool.rmt.bpf import Layout, pack_policy, shape_of
from kdtool.verify.finding import Finding, proved, refuted
from kdtool.verify.packetcode import packet_code
from kdtool.verify.policyindexes import policy_indexes

__all__ = ["check_bpf"]

MAX_INSTRUCTIONS = 1_000_000
"""BPF_COMPLEXITY_LIMIT_INSNS in include/linux/bpf_verifier.h."""


def check_bpf(program: Program) -> list[Finding]:
    """Assemble the program; what it may do there follows from the other checks and the kernel's verifier."""
    try:
        layout = Layout(shape_of(program))
        n_instructions = len(packet_code(layout).assemble()) // 8
    except ProgramError as error:
        return [refuted("bpf", "the program does not fit into the kernel", str(error))]
    size_bytes = layout.policy_bytes + layout.state_bytes + layout.scratch_bytes + layout.counter_bytes
    if n_instructions > MAX_INSTRUCTIONS:
        allowed = f"BPF instructions: at most {MAX_INSTRUCTIONS} are allowed"
        return [refuted("bpf", allowed, str(n_instructions))]
    size = f"{n_instructions} BPF instructions, {MAX_INSTRUCTIONS} allowed; {size_bytes} bytes of maps"
    return [proved("bpf", size), _check_masks(layout, program)]


def _check_masks(layout: Layout, program: Program) -> Finding:
    n_indexes = 0
    for each in policy_indexes(layout, pack_policy(layout, program, 1)):
        if len(each.stray):
            where = f"byte {each.stray[0]} of {each.end}, mask {each.mask:#x}"
            return refuted("bpf", f"all indexes of {each.region} lie there, and no mask changes one", where)
        n_indexes += len(each.offsets)
    return proved(
        "bpf", f"{n_indexes} indexes of the packed program lie in their regions: no mask changes one"
    )

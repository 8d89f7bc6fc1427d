"""Building for the kernel: a verified program becomes an ELF object that libbpf and bpftool load.

NAME.bpf.o   program `decide` (xdp) | .rodata: the policy | .bss: scratch, registers, counters
"""

from pathlib import Path

from kdtool.errors import ProgramError
from kdtool.kernel.bpf_object import Place, make_object
from kdtool.rmt import Program, require_hook
from kdtool.rmt.bpf import Layout, pack_policy, shape_of
from kdtool.verify.build import require_proof, swap_ins
from kdtool.verify.finding import Finding, proved
from kdtool.verify.kernelvm import KernelVm
from kdtool.verify.packetcode import packet_code
from kdtool.verify.wholefile import write_whole

__all__ = ["build_bpf", "check_load", "compare_in_kernel"]


def build_bpf(program: Program, folder: Path) -> Path:
    """Verify `program` and write it as `NAME.bpf.o` into `folder`; return the file.

    Raises ProgramError when it is not proved, or the file cannot be written.
    """
    require_proof(program)
    layout = Layout(shape_of(program))
    code = packet_code(layout)
    places = {
        "policy": Place(read_only=True, offset=0),
        "scratch": Place(read_only=False, offset=0),
        "state": Place(read_only=False, offset=layout.scratch_bytes),
        "counters": Place(read_only=False, offset=layout.scratch_bytes + layout.state_bytes),
    }
    content = make_object(
        "xdp",
        "decide",
        code.assemble(),
        code.map_uses,
        places,
        rodata=pack_policy(layout, program, version=1),
        bss_bytes=layout.scratch_bytes + layout.state_bytes + layout.counter_bytes,
    )
    target = folder / f"{program.name}.bpf.o"
    write_whole(target, content)
    return target


def check_load(program: Program) -> Finding:
    """Load a proved program into this kernel, for a moment; say what it cost the kernel to verify it.

    Raises CapabilityError where BPF is refused.
    """
    with KernelVm(program) as vm:
        info, load_ms = vm.info, vm.load_ns / 1e6
    return proved(
        "load",
        f"this kernel's verifier followed {info.verified} instructions and loaded it in {load_ms:.1f} ms",
    )


def compare_in_kernel(program: Program, trace: Path, memory: str) -> int:
    """Decide at every swap-in of a trace in the kernel and in the Numba VM; return how many were compared.

    Raises ProgramError at the first difference, and for a program of another hook than mm.swapin;
    CapabilityError where BPF is refused.
    """
    from kdtool.verify.equivalence import decide_all

    require_hook(program.name, program.hook, "mm.swapin", "a trace of references")
    contexts = swap_ins(trace, memory)
    n_pages, pages = decide_all(program, contexts)
    with KernelVm(program) as vm:
        decided = vm.decide(contexts)
    for row, decision in enumerate(decided.to_lists()):
        expected = pages[row, : n_pages[row]].tolist()
        if decision != expected:
            raise ProgramError(
                f"event {row} of {trace}: the kernel decides {decision}, the VM {expected}: a bug"
            )
    return len(contexts)

"""Does replay predict what a distribution's kernel does? python -m bench.guest, from the project's root.

Fetches a kernel of Debian's, boots it in an emulated machine (qemu-system-x86_64, no KVM) and runs programs
there in a cgroup v2 leaf with a memory limit, with the multi-generational LRU and with the two lists. Records
the same programs' page references on the host, replays them, and prints both. Nothing of it needs root; see
docs/fidelity.md. What was measured is kept in the work folder.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from bench.guest.cells import make_guest_cells, print_cells
from bench.guest.machine import boot
from bench.guest.package import Kernel, fetch_kernel
from bench.guest.runs import GUEST_SETTINGS, parse_console, run_lines
from bench.guest.workloads import PROGRAMS, GuestProgram, choose, record_program
from kdtool.errors import KdtoolError
from kdtool.fidelity.show import PLAIN_COLUMNS

PACKAGE, SUITE = "linux-image-6.18.15+deb13-cloud-amd64", "trixie-backports"
"""The kernel that replay's rules are taken from, v6.18, as Debian ships it."""


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _parse_arguments()
    try:
        _run(arguments)
    except KdtoolError as error:
        print(f"guest: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse_arguments() -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.guest", description=summary, epilog=rest)
    add = parser.add_argument
    names = ", ".join(program.name for program in PROGRAMS)
    settings = [setting.name for setting in GUEST_SETTINGS]
    add("--work", type=Path, default=Path("guest-work"), help="folder for what takes long to get")
    add("--package", default=PACKAGE, help=f"of the kernel ({PACKAGE})")
    add("--suite", default=SUITE, help=f"of Debian's that has it ({SUITE})")
    add("--programs", nargs="*", metavar="NAME", help=f"which of {names}; all when not given")
    add("--limits", nargs="+", type=int, default=[75, 50], metavar="PERCENT", help="of the footprint")
    add("--settings", nargs="+", default=settings, choices=settings, help="of the guest's kernel")
    add("--runs", type=int, default=3, help="of each cell in the guest (3)")
    add("--device", default="ssd", help="profile of the swap device for replay, a name or a JSON file")
    add("--k", type=int, default=256, help="reduction window of the recordings in pages (256)")
    arguments = parser.parse_args()
    if not all(0 < percent < 100 for percent in arguments.limits):
        parser.error("--limits: percentages from 1 to 99")
    return arguments


def _run(arguments: argparse.Namespace) -> None:
    kernel = fetch_kernel(arguments.package, arguments.suite, arguments.work)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS)
    cells = []
    for program in choose(arguments.programs):
        _, runs = parse_console(_console_of(program, kernel, arguments))
        trace = record_program(program, arguments.work, arguments.k)
        cells += make_guest_cells(program.name, runs, trace, arguments.device)
    console.print(f"Linux {kernel.release} in an emulated machine")
    print_cells(cells, console)


def _console_of(program: GuestProgram, kernel: Kernel, arguments: argparse.Namespace) -> str:
    """Return what the guest says of the program's runs, from the work folder when it was asked before."""
    settings = [setting for setting in GUEST_SETTINGS if setting.name in arguments.settings]
    lines = run_lines(program, settings, arguments.limits, arguments.runs)
    asked = arguments.work / f"{program.name}-{kernel.release}.runs"
    said = asked.with_suffix(".console")
    if said.exists() and asked.exists() and asked.read_text() == lines:
        return said.read_text()
    begin_s = time.monotonic()

    def heard(line: str) -> None:
        print(
            f"[{time.monotonic() - begin_s:6.0f} s] {program.name}: {line[:100]}", file=sys.stderr, flush=True
        )

    binary = program.binary(arguments.work)
    files = {f"bin/{binary.name}": binary.read_bytes(), "runs": lines.encode()}
    text = boot(kernel, files, arguments.work, heard)
    parse_console(text)  # what failed is not kept
    asked.write_text(lines)
    said.write_text(text)
    return text


if __name__ == "__main__":
    sys.exit(main())

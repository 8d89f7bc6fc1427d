"""Does a learned prefetcher make real programs faster? python -m bench.live, from the root of the project.

Learns from each program with one input, and runs it with another in half its memory: under Linux's own
readahead, and with the agent of `kdtool deploy`. As root, with qemu-user, gcc and tracefs; see
docs/deploy.md. What it measures is kept in the work folder: started again, it goes on.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.fidelity.machine import forbid_huge_pages
from bench.fidelity.matrix import Plan, measure_footprints, record_references
from bench.live.measure import VARIANTS, Say, choose_variants, learn, limit_of, measure
from bench.live.picture import plot_cells
from bench.live.replayed import predict_pair
from bench.live.soak import soak
from bench.live.store import LiveStore
from bench.live.workloads import PAIRS, choose_pairs
from kdtool.deploy.bpfsource import SOURCES
from kdtool.errors import KdtoolError
from kdtool.kernel.tracefs import find_tracefs
from kdtool.live.table import Cell, make_cells, print_cells
from kdtool.replay import load_device

PLAIN_COLUMNS = 132
K = 256
"""Reduction window of the recordings, in pages."""


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _parse_arguments()
    begin_s = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin_s:6.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        store = LiveStore(arguments.work, loop=arguments.loop)
        if arguments.soak is not None:
            print(json.dumps(soak(arguments.soak, arguments.source, store, arguments.swap_size, say)))
            return 0
        cells = _cells(arguments, store, say)
    except KdtoolError as error:
        print(f"live: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("live: interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    if arguments.plot is not None:
        plot_cells(cells, arguments.plot)
    if arguments.json:
        print(json.dumps({"cells": [cell.to_row() for cell in cells]}))
    else:
        print_cells(cells, Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS))
    return 0


def _cells(arguments: argparse.Namespace, store: LiveStore, say: Say) -> list[Cell]:
    """Measure what is missing, replay if that was asked for, and return the table's cells."""
    pairs, variants = choose_pairs(arguments.programs), choose_variants(arguments.variants)
    device = None if arguments.replay is None else load_device(arguments.replay)
    plan = Plan([pair.run for pair in pairs], [], [], 0, K, 600.0, arguments.swap_size)
    if not arguments.show_only:
        find_tracefs()  # looks at the disk need it, after minutes of recording
        forbid_huge_pages()
        record_references(replace(plan, programs=[pair.learn for pair in pairs]), store, say)
        for pair in pairs:
            learn(pair, store, arguments.degree, say)
        measure_footprints(plan, store, say)
        measure(
            pairs,
            variants,
            store,
            runs=arguments.runs,
            percent=arguments.limit,
            real_time=arguments.real_time,
            swap_size=arguments.swap_size,
            say=say,
        )
    predicted = {}
    if device is not None:
        record_references(plan, store, say)
        for pair in pairs:
            predicted[pair.name] = predict_pair(pair, variants, store, arguments.limit, device)
            say(f"{pair.name}: replayed")
    measured = {}
    for pair in pairs:
        limit = limit_of(pair, store, arguments.limit)
        measured[pair.name] = {v.name: store.runs(pair, v.name, limit) for v in variants}
    return make_cells(measured, [v.name for v in variants if v.policy is None], predicted)


def _parse_arguments() -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=summary, epilog=rest)
    add = parser.add_argument
    pairs = ", ".join(pair.name for pair in PAIRS)
    variants = ", ".join(variant.name for variant in VARIANTS)
    add("--work", type=Path, default=Path("live-work"), help="folder for what takes long to measure")
    add("--programs", nargs="*", metavar="NAME", help=f"which of {pairs}; all when not given")
    add("--variants", nargs="*", metavar="NAME", help=f"which of {variants}; all when not given")
    add("--limit", type=int, default=50, metavar="PERCENT", help="memory, of the footprint (50)")
    add("--runs", type=int, default=7, help="of each program and variant (7)")
    add(
        "--degree",
        type=int,
        metavar="PAGES",
        help="how far ahead programs look; what train finds, when not given",
    )
    add("--real-time", action="store_true", help="give the agent real-time priority: for a busy machine")
    add("--swap-size", default="1G", help="of the swap (1G)")
    add(
        "--loop", action="store_true", help="swap on a loop device, whose threads take CPU time for each page"
    )
    add("--show-only", action="store_true", help="print what was measured; measure nothing")
    add("--soak", type=float, metavar="SECONDS", help="only this: a full rate of faults for so long")
    add("--source", choices=SOURCES, default="auto", help="who decides in the soak (auto)")
    add(
        "--replay",
        metavar="DEVICE",
        help="what replay says beside what was measured, by the numbers of this device: best what kdtool "
        "calibrate wrote of such a swap",
    )
    add("--json", action="store_true", help="print one JSON document")
    add("--plot", type=Path, metavar="FILE.png", help="draw the run times")
    arguments = parser.parse_args()
    if not 0 < arguments.limit < 100 or arguments.runs < 1:
        parser.error("--limit: a percentage from 1 to 99; --runs: 1 or more")
    if arguments.soak is not None and not 1 <= arguments.soak <= 1e6:
        parser.error("--soak: from 1 to 1000000 seconds")
    return arguments


if __name__ == "__main__":
    sys.exit(main())

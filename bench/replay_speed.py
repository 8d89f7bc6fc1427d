"""How many accesses a second replay takes for `none`, on one core: python bench/replay_speed.py

Reference strings are random: Zipf over twice the memory, which misses, and uniform over pages that all fit.
"""

import time
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from kdtool.replay import load_device, run_shadow, workload_from_arrays

N_REFS = 10_000_000
MEMORY_PAGES = 100_000
RUNS = 5


def workload(vpns: np.ndarray, name: str):
    n = len(vpns)
    columns = {
        "pid": np.ones(n, np.int32),
        "tid": np.ones(n, np.int32),
        "vpn": vpns.astype(np.uint64),
        "ip": np.zeros(n, np.uint64),
        "kind": np.zeros(n, np.uint8),
        "insns": np.arange(1, n + 1, dtype=np.uint64) * 100,
    }
    return workload_from_arrays(name, "0" * 64, columns, None, k=0)


def main() -> None:
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 2 * MEMORY_PAGES + 1) ** 1.2
    pages = rng.permutation(2 * MEMORY_PAGES)
    zipf = pages[rng.choice(2 * MEMORY_PAGES, N_REFS, p=weights / weights.sum())]
    uniform = rng.integers(0, MEMORY_PAGES, N_REFS)
    table = Table(title=f"policy none, {N_REFS:,} accesses, {MEMORY_PAGES:,} resident pages")
    for column in ("references", "reclaim", "misses", "M accesses/s (median)", "range"):
        table.add_column(column)
    device = load_device("ssd")
    for w in (workload(uniform, "uniform, all resident"), workload(zipf, "zipf 1.2 over 200,000 pages")):
        for reclaim in ("linux", "lru"):
            missed = run_shadow(w, MEMORY_PAGES, device, reclaim).missed.sum()
            rates = []
            for _ in range(RUNS):
                began = time.perf_counter()
                run_shadow(w, MEMORY_PAGES, device, reclaim)
                rates.append(N_REFS / (time.perf_counter() - began) / 1e6)
            spread = f"{min(rates):.1f} to {max(rates):.1f}"
            table.add_row(w.name, reclaim, f"{missed / N_REFS:.2%}", f"{median(rates):.1f}", spread)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

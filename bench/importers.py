"""What importing takes: python bench/importers.py [--rows N] [FORMAT ...]

Makes a file of N rows (100 million) in each format, imports it by the command, and prints records a second
and the most memory that the command had. `perf` records so many page faults first: it needs perf and gcc.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

ROWS = 100_000_000
BLOCK = 1_000_000
PAGES = 1 << 20
MILLION = Path(__file__).parent.parent / "tests" / "programs" / "million.c"


def pages(rows: int) -> Iterator[np.ndarray]:
    """Yield random pages, a block at a time."""
    random = np.random.default_rng(1)
    for _ in range(rows // BLOCK):
        yield random.integers(0, PAGES, BLOCK)


def write_csv(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("vpn,tid,kind\n")
        for vpns in pages(rows):
            file.write("".join(f"{vpn},{vpn & 3},load\n" for vpn in vpns.tolist()))


def write_oracle(path: Path, rows: int) -> None:
    record = np.dtype([("time_s", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])
    with path.open("wb") as file:
        for number, vpns in enumerate(pages(rows)):
            block = np.zeros(BLOCK, record)
            block["time_s"], block["object"], block["size"], block["next"] = number, vpns, 4096, -1
            block.tofile(file)


def write_lackey(path: Path, rows: int) -> None:
    with path.open("w") as file:
        for vpns in pages(rows):
            file.write("".join(f" L {vpn << 12 | 8:08x},4\n" for vpn in vpns.tolist()))


def write_blkparse(path: Path, rows: int) -> None:
    """Write requests of four lines each, of a row each."""
    number = 0
    with path.open("w") as file:
        for vpns in pages(rows):
            lines = []
            for vpn in vpns[: BLOCK // 4].tolist():
                for step, action in enumerate("QGDC"):
                    s, ns = divmod(number * 2500 + step * 500, 10**9)
                    head = f"  8,0 {0:4} {number * 4 + step + 1:8} {s:5}.{ns:09} {1234:5}"
                    tail = "[0]" if action == "C" else "[fio]"
                    lines.append(f"{head}  {action}   R {vpn * 8} + 8 {tail}\n")
                number += 1
            file.write("".join(lines))


def write_perf(path: Path, rows: int) -> None:
    program = path.with_name("million")
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, MILLION], check=True)
    record = ["perf", "record", "-q", "-e", "page-faults", "-c", "1", "-d", "-m", "4096", "-o", path]
    subprocess.run([*record, program, str(rows)], check=True, stdout=subprocess.DEVNULL)


def write_nsight(path: Path, rows: int) -> None:
    """Write kernels of one stream, each with the names and the process of an export."""
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode = OFF")
        made.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT)")
        made.executemany(
            "INSERT INTO StringIds VALUES (?, ?)", [(i, f"kernel_{i}<float>") for i in range(64)]
        )
        made.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER, deviceId INTEGER, "
            "contextId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, "
            "demangledName INTEGER, shortName INTEGER, mangledName INTEGER)"
        )
        number = 0
        for vpns in pages(rows):
            block = [
                (at * 2000, at * 2000 + vpn % 1999, 0, 1, 7, at, 4242 << 24, vpn % 64, vpn % 64, None)
                for at, vpn in enumerate(vpns.tolist(), number)
            ]
            made.executemany(f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ({', '.join('?' * 10)})", block)
            number += len(block)
        made.commit()


def write_kineto(path: Path, rows: int) -> None:
    """Write kernels of one stream, as the profiler does, a line each."""
    number = 0
    with path.open("w") as file:
        file.write('{"schemaVersion": 1, "baseTimeNanoseconds": 1790857026000000000, "traceEvents": [\n')
        for vpns in pages(rows):
            file.write(
                "".join(
                    f'{{"ph": "X", "cat": "kernel", "name": "kernel_{vpn % 64}", "pid": 0, "tid": 7, '
                    f'"ts": {at * 2}.000, "dur": {vpn % 1999 / 1000:.3f}, '
                    f'"args": {{"device": 0, "stream": 7, '
                    f'"correlation": {at}}}}},\n'
                    for at, vpn in enumerate(vpns.tolist(), number)
                )
            )
            number += len(vpns)
        file.write('{"ph": "M", "name": "process_name", "pid": 0, "ts": 0, "args": {"name": "python"}}')
        file.write('], "traceName": "t"}\n')


FORMATS: dict[str, Callable[[Path, int], None]] = {
    "csv": write_csv,
    "oracle-general": write_oracle,
    "lackey": write_lackey,
    "blkparse": write_blkparse,
    "nsight": write_nsight,
    "kineto": write_kineto,
    "perf": write_perf,
}


def bench(form: str, rows: int, folder: Path) -> None:
    """Import one file and print what it took."""
    file = folder / f"input.{form}"
    FORMATS[form](file, rows)
    command = [sys.executable, "-m", "kdtool", "import", form, str(file), "-o", str(folder / f"{form}.kdt")]
    begin_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read().strip().partition(": ")[2]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took_s = time.perf_counter() - begin_s
    assert process.returncode == 0, said
    size_gb, peak_mib, rate = file.stat().st_size / 1e9, usage.ru_maxrss >> 10, rows / took_s / 1e6
    print(f"{form}: {size_gb:.2f} GB, {rate:.2f} M records/s, peak {peak_mib} MiB: {said}", flush=True)


def main() -> None:
    """Run the formats that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("format", nargs="*", choices=[*FORMATS, []], help="which; all when none is named")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of each file")
    arguments = parser.parse_args()
    for form in arguments.format or FORMATS:
        with tempfile.TemporaryDirectory(prefix="kdtool-bench-", dir="/var/tmp") as folder:
            bench(form, arguments.rows, Path(folder))


if __name__ == "__main__":
    main()

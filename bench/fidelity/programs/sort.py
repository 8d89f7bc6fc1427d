"""Sorting: random int64 sorted in place by NumPy's default (quicksort), then by its stable sort."""

import argparse

import numpy as np


def main() -> None:
    """Sort twice and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    values = np.random.default_rng(arguments.seed).integers(0, 1 << 62, arguments.rows)
    values.sort()
    total = int(values[:: 1 << 12].sum(dtype=np.uint64))
    values ^= values << 13  # disorders them again
    values.sort(kind="stable")
    total += int(values[:: 1 << 12].sum(dtype=np.uint64))
    print(f"checksum {total}")


if __name__ == "__main__":
    main()

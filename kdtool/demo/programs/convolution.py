"""Matrix convolution: the vertical pass of a separable filter, a block of columns at a time.

The matrix is stored by rows, so that a block of columns visits a page or two of every row: neither
sequential nor of one stride (a row of 5000 float64 is 9.77 pages long).
"""

import argparse

import numpy as np


def vertical_pass(matrix: np.ndarray, kernel: np.ndarray, block_columns: int) -> np.ndarray:
    """Return the mean of each filtered column; `matrix` is (rows, columns), `kernel` is (taps,)."""
    rows, columns = matrix.shape
    n_out = rows - len(kernel) + 1
    filtered = np.empty((n_out, block_columns))
    product = np.empty((n_out, block_columns))
    means = np.empty(columns)
    for start in range(0, columns, block_columns):
        panel = matrix[:, start : start + block_columns]
        width = panel.shape[1]
        filtered[:, :width] = 0.0
        for tap, weight in enumerate(kernel):
            np.multiply(panel[tap : tap + n_out], weight, out=product[:, :width])
            filtered[:, :width] += product[:, :width]
        means[start : start + width] = filtered[:, :width].mean(axis=0)
    return means


def main() -> None:
    """Filter a matrix of random numbers and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=5000)
    parser.add_argument("--block-columns", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    matrix = rng.random((arguments.rows, arguments.columns))
    kernel = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    means = vertical_pass(matrix, kernel, arguments.block_columns)
    print(f"checksum {means.sum():.6f}")


if __name__ == "__main__":
    main()

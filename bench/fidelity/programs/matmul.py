"""Matrix multiplication, a block at a time: C[i, j] += A[i, k] B[k, j], with NumPy's BLAS for each block."""

import argparse

import numpy as np


def main() -> None:
    """Multiply two random matrices and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    side, block = arguments.side, arguments.block
    rng = np.random.default_rng(arguments.seed)
    a, b = rng.random((side, side), np.float32), rng.random((side, side), np.float32)
    c = np.zeros((side, side), np.float32)
    for i in range(0, side, block):
        for j in range(0, side, block):
            for k in range(0, side, block):
                c[i : i + block, j : j + block] += (
                    a[i : i + block, k : k + block] @ b[k : k + block, j : j + block]
                )
    print(f"checksum {c.trace(dtype=np.float64):.0f}")


if __name__ == "__main__":
    main()

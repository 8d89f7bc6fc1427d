"""Matrix multiplication, a block at a time: C[i, j] += A[i, k] B[k, j], with NumPy's BLAS for each block.

A is flat and B is tall, C is small: as many pages as square matrices have, with an eighth of the products.
"""

import argparse

import numpy as np


def main() -> None:
    """Multiply two random matrices and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="rows of A and columns of B")
    parser.add_argument("--inner", type=int, default=65_536, help="columns of A and rows of B")
    parser.add_argument("--block", type=int, default=64, help="of the side")
    parser.add_argument("--inner-block", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    side, inner = arguments.side, arguments.inner
    block, inner_block = arguments.block, arguments.inner_block
    rng = np.random.default_rng(arguments.seed)
    a, b = rng.random((side, inner), np.float32), rng.random((inner, side), np.float32)
    c = np.zeros((side, side), np.float32)
    for i in range(0, side, block):
        for j in range(0, side, block):
            for k in range(0, inner, inner_block):
                c[i : i + block, j : j + block] += (
                    a[i : i + block, k : k + inner_block] @ b[k : k + inner_block, j : j + block]
                )
    print(f"checksum {c.trace(dtype=np.float64):.0f}")


if __name__ == "__main__":
    main()

"""PageRank by power iteration over a sparse graph in compressed sparse rows (CSR), with NumPy.

Like pages of the web in order of their addresses, a node is linked from its neighbours, and from one node
anywhere.
"""

import argparse

import numpy as np


def main() -> None:
    """Rank every node and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--degree", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", type=int, default=20_000, help="nodes handled at once")
    parser.add_argument("--near", type=int, default=2_000, help="how far the neighbours reach")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    nodes, degree, block = arguments.nodes, arguments.degree, arguments.block
    source = np.empty((nodes, degree), np.int32)  # of each node's incoming edges; all rows are of one length
    for start in range(0, nodes, block):
        part = source[start : start + block]
        part[:] = rng.integers(-arguments.near, arguments.near, part.shape, np.int32)
        part += np.arange(start, start + len(part), dtype=np.int32)[:, None]
        part %= nodes
        part[:, -1] = rng.integers(0, nodes, len(part))
    links = np.zeros(nodes)  # outgoing ones
    for start in range(0, nodes, block):
        links += np.bincount(source[start : start + block].ravel(), minlength=nodes)
    rank = np.full(nodes, 1 / nodes)
    for _ in range(arguments.rounds):
        share = rank / np.maximum(links, 1)
        new = np.empty(nodes)
        for start in range(0, nodes, block):
            new[start : start + block] = share[source[start : start + block]].sum(axis=1)
        rank = 0.15 / nodes + 0.85 * new / new.sum()
    print(f"checksum {rank.max() * nodes:.6f}")


if __name__ == "__main__":
    main()

"""A graph of Python objects: dicts that hold lists of other dicts, followed from one to the next."""

import argparse
import random


def main() -> None:
    """Build the graph, walk it and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=180_000)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--near", type=int, default=2_000, help="how far most links reach")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    n = arguments.nodes
    nodes = [{"number": i, "weight": rng.random(), "links": [], "seen": 0} for i in range(n)]
    for i, node in enumerate(nodes):
        near = [nodes[(i + rng.randrange(-arguments.near, arguments.near)) % n] for _ in range(5)]
        node["links"] = [*near, nodes[rng.randrange(n)]]
    node, total = nodes[0], 0.0
    for step in range(arguments.steps):
        node["seen"] += 1
        total += node["weight"]
        # One link in 64 leads anywhere, so that the walk stays near for a while.
        node = node["links"][5 if step % 64 == 0 else rng.randrange(5)]
    print(f"checksum {total:.6f} {sum(node['seen'] > 0 for node in nodes)}")


if __name__ == "__main__":
    main()

"""A graph of Python objects: dicts that hold lists of other dicts, followed from one to the next."""

import argparse
import gc
import random


def main() -> None:
    """Build the graph, walk it and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=180_000)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--near", type=int, default=300, help="how far links reach")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    n, reach = arguments.nodes, range(-arguments.near, arguments.near)
    nodes = [{"number": i, "weight": rng.random(), "links": [], "seen": 0} for i in range(n)]
    gc.freeze()  # they live to the end: the collector need not look at them again
    for i, node in enumerate(nodes):
        node["links"] = [nodes[(i + offset) % n] for offset in rng.choices(reach, k=5)]
    node, total = nodes[0], 0.0
    for step in range(arguments.steps):
        node["seen"] += 1
        total += node["weight"]
        # The walk stays near for a while, then begins elsewhere.
        node = rng.choice(node["links"]) if step % 512 else nodes[rng.randrange(n)]
    print(f"checksum {total:.6f} {sum(node['seen'] > 0 for node in nodes)}")


if __name__ == "__main__":
    main()

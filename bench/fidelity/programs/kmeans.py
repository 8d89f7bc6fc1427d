"""k-means by Lloyd's algorithm with NumPy, a chunk of points at a time."""

import argparse

import numpy as np


def main() -> None:
    """Cluster random points and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=24)
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    points = rng.random((arguments.points, arguments.columns))
    centers = points[: arguments.clusters].copy()
    labels = np.empty(arguments.points, np.int32)
    for _ in range(arguments.rounds):
        sums = np.zeros_like(centers)
        counts = np.zeros(arguments.clusters)
        for start in range(0, arguments.points, arguments.chunk):
            part = points[start : start + arguments.chunk]
            distances = (centers**2).sum(axis=1) - 2 * part @ centers.T
            label = labels[start : start + arguments.chunk] = distances.argmin(axis=1)
            counts += np.bincount(label, minlength=arguments.clusters)
            for cluster in range(arguments.clusters):
                sums[cluster] += part[label == cluster].sum(axis=0)
        centers = sums / np.maximum(counts, 1)[:, None]
    print(f"checksum {centers.sum():.6f} {int(labels.sum())}")


if __name__ == "__main__":
    main()

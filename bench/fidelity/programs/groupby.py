"""pandas: a table grouped by two keys, aggregated, and joined with its own means."""

import argparse

import numpy as np
import pandas as pd


def main() -> None:
    """Group, aggregate and join; print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--groups", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    table = pd.DataFrame(
        {
            "shop": rng.integers(0, arguments.groups, arguments.rows),
            "day": rng.integers(0, 30, arguments.rows),
            "price": rng.random(arguments.rows),
        }
    )
    by_day = table.groupby("day")["price"].agg(["sum", "mean", "max"])
    by_both = table.groupby(["shop", "day"])["price"].sum()
    means = table.groupby("shop")["price"].transform("mean")
    above = int((table["price"] > means).sum())
    print(f"checksum {by_day.to_numpy().sum():.6f} {by_both.max():.6f} {above}")


if __name__ == "__main__":
    main()

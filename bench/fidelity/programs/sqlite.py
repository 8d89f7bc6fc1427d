"""SQLite: a table in memory, filled, indexed, scanned, and looked up by its index at random."""

import argparse
import random
import sqlite3


def main() -> None:
    """Fill, scan and look up; print a checksum. In memory, so that its pages are anonymous."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--lookups", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA temp_store = MEMORY")  # else the index is sorted in a file
    database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, code INTEGER, price REAL, text TEXT)")
    rows = (
        (rng.getrandbits(31), rng.random(), f"{rng.getrandbits(960):0240x}") for _ in range(arguments.rows)
    )
    database.executemany("INSERT INTO item (code, price, text) VALUES (?, ?, ?)", rows)
    database.execute("CREATE INDEX item_code ON item (code)")
    (total,) = database.execute("SELECT sum(length(text)) FROM item WHERE price < 0.5").fetchone()
    query = "SELECT id, text FROM item WHERE code >= ? ORDER BY code LIMIT 1"
    for _ in range(arguments.lookups):
        found = database.execute(query, (rng.getrandbits(31),)).fetchone()
        total += found[0] if found else 0
    print(f"checksum {total}")


if __name__ == "__main__":
    main()

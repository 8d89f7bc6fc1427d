"""Four processes read an array that their parent made before it forked them, and fill arrays of their own.

To be given as --command.
"""

import multiprocessing

import numpy as np

PAGES, WORDS = 6000, 512
table = np.arange(PAGES * WORDS, dtype=np.int64)


def work(child: int) -> None:
    """Load from 24,000 random places of the table, store to 600, and add to all of an array four times."""
    random = np.random.default_rng(child)
    own = np.zeros(PAGES // 4 * WORDS, np.int64)
    for turn in range(4):
        where = random.integers(0, PAGES, 6000) * WORDS + random.integers(0, WORDS, 6000)
        own += int(table[where].sum()) + turn
        table[random.integers(0, PAGES, 150) * WORDS] += 1


def main() -> None:
    """Fork four children and wait for them."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=work, args=(child,)) for child in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print(int(table.sum() & 1023), [child.exitcode for child in children])


if __name__ == "__main__":
    main()

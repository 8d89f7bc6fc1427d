"""Two worker processes sum and sort blocks of numbers that are sent to them through pipes."""

import multiprocessing as mp

import numpy as np


def work(connection):
    kept = []
    while (block := connection.recv()) is not None:
        kept.append(np.sort(block))
        connection.send(float(sum(each[::512].sum() for each in kept)))


if __name__ == "__main__":
    context = mp.get_context("fork")
    pairs = [context.Pipe() for _ in range(2)]
    workers = [context.Process(target=work, args=(theirs,)) for _, theirs in pairs]
    for worker in workers:
        worker.start()
    data = np.random.default_rng(1).random(4_000_000)
    total = 0.0
    for start in range(0, len(data), 100_000):
        ours = pairs[start // 100_000 % 2][0]
        ours.send(data[start : start + 100_000])
        total += ours.recv()
    for ours, _ in pairs:
        ours.send(None)
    for worker in workers:
        worker.join()
    print(total > 0)

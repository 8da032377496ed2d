"""Seeded batches made by worker processes.

A row depends only on (seed, stage, step, row), never on the clock or on the number of workers, so the same command
gives the same batches. Worker `w` of `n` makes steps w, w + n, ...; the trainer reads the queues in turn.
"""
import multiprocessing as mp
import random

import numpy as np
from tokenizers import Tokenizer

from documents import IGNORE, KINDS, TEXT, Books, Encoder, render
from tokenizer import BOS, EOS

QUEUE_DEPTH = 3  # finished batches that wait per worker


def text_row(r, books, length):
    """BOS and a window of the books."""
    return [BOS, *books.ids(r, length - 1)], [IGNORE] + [TEXT] * (length - 1)


def repeated_row(r, books, length):
    """A piece of text twice: the simplest copying, for the first steps of training."""
    n = (length - 2) // 2
    ids = books.ids(r, n)
    if r.random() < 0.5:
        r.shuffle(ids)
    return [BOS, *ids, EOS, *ids], [IGNORE] + [IGNORE] * n + [IGNORE] + [TEXT] * n


def document_row(r, kind, encode, books, length):
    """A generated document and, in the room left behind it, book text. Tries again when the document is too long."""
    # Most documents fill the row; some are short, so that a long stage does not forget short ones.
    aim = length if r.random() < 0.7 else min(length, int(2 ** r.uniform(7.5, 15)))
    while True:
        ids, kinds = render(encode, KINDS[kind](r, encode, books, aim))
        if len(ids) <= length:
            break
        aim = int(aim * 0.93) - 4
    rest = length - len(ids)
    if rest:
        ids += [BOS, *books.ids(r, rest - 1)] if rest > 1 else [EOS]
        kinds += [IGNORE] + [TEXT] * (rest - 1)
    return ids, kinds


def row(r, mix, encode, books, length):
    """Exactly `length` ids and kinds, of a document kind drawn from `mix`, a dict of shares."""
    kind = r.choices(list(mix), weights=list(mix.values()))[0]
    if kind == "text":
        ids, kinds = text_row(r, books, length)
    elif kind == "repeated":
        ids, kinds = repeated_row(r, books, length)
    else:
        ids, kinds = document_row(r, kind, encode, books, length)
    ids, kinds = ids[:length], kinds[:length]
    pad = length - len(ids)
    return ids + [EOS] * pad, kinds + [IGNORE] * pad


def batch(seed, stage, step, encode, books):
    """ids uint16 and kinds uint8 of step `step`, both [rows, length + 1]."""
    length = stage["length"] + 1  # one more: inputs and targets are shifted by one
    rows = []
    for i in range(stage["tokens"] // stage["length"]):
        r = random.Random(f"{seed}/{stage['name']}/{step}/{i}")
        rows.append(row(r, stage["mix"], encode, books, length))
    return np.array([a for a, _ in rows], np.uint16), np.array([b for _, b in rows], np.uint8)


def work(queue, seed, stage, first, every, data):
    tokenizer = Tokenizer.from_file(f"{data}/tokenizer.json")
    encode, books = Encoder(tokenizer), Books(np.load(f"{data}/train.npy", mmap_mode="r"), tokenizer)
    for step in range(first, stage["steps"], every):
        queue.put(batch(seed, stage, step, encode, books))


class Batches:
    """Iterates over the batches of one stage from step `start` on, made by `workers` processes."""

    def __init__(self, seed, stage, data, workers, start=0):
        context = mp.get_context("fork")
        self.steps = range(start, stage["steps"])
        self.queues = [context.Queue(maxsize=QUEUE_DEPTH) for _ in range(workers)]
        self.processes = [
            context.Process(target=work, args=(queue, seed, stage, start + i, workers, data), daemon=True)
            for i, queue in enumerate(self.queues)
        ]
        for process in self.processes:
            process.start()

    def __iter__(self):
        for i in range(len(self.steps)):
            yield self.queues[i % len(self.queues)].get()

    def close(self):
        for process in self.processes:
            process.terminate()

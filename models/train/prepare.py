"""Turn a folder of Project Gutenberg texts into a tokenizer and two arrays of token ids.

    python prepare.py --texts gutenberg/ --exclude pg19-test-ids.tsv --out data/

`--texts` holds files named `<id>.txt`. Licence headers, footers and transcriber credits are cut off, ids in the
first column of `--exclude` are left out, and books are taken in a seeded order until `--megabytes` is reached.
Some whole books are held out for evaluate.py; no document generator ever sees them.

Writes tokenizer.json, train.npy and held.npy (uint16; every book is BOS, text, EOS) and manifest.json.
"""
import argparse
import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np

from tokenizer import BOS, EOS, train_tokenizer

START = re.compile(r"^\*\*\*\s*START OF (?:THIS|THE) PROJECT GUTENBERG.*$", re.M | re.I)
END = re.compile(r"^(?:\*\*\*\s*END OF (?:THIS|THE) PROJECT GUTENBERG|End of (?:the |this )?Project Gutenberg).*$", re.M | re.I)
CREDIT = re.compile(r"Produced by|Transcrib|Proofread|E-?text prepared|pgdp|http|Project Gutenberg", re.I)
SHORTEST_BOOK = 40_000  # characters; below this a text is mostly title page
HELD_OUT_BOOKS = 12
HELD_OUT_MIN, HELD_OUT_MAX = 200_000, 600_000  # characters: long enough for 32K tokens, none dominates


def strip_gutenberg(text):
    """The book without Gutenberg's header, footer and credit paragraphs; None where no header is found."""
    text = text.replace("\r\n", "\n")
    start = START.search(text)
    if not start:
        return None
    end = END.search(text, start.end())
    body = text[start.end() : end.start() if end else len(text)].strip("\n")
    paragraphs = body.split("\n\n")
    while paragraphs and (not paragraphs[0].strip() or CREDIT.search(paragraphs[0])):
        paragraphs.pop(0)
    body = "\n\n".join(paragraphs)
    body = "\n".join(line.rstrip() for line in body.split("\n"))
    return re.sub(r"\n{5,}", "\n\n\n\n", body).strip("\n") + "\n"


def choose_books(folder, excluded, megabytes, seed):
    """Yield (id, text) in a seeded order until `megabytes` of text are taken."""
    names = sorted(path.stem for path in Path(folder).glob("*.txt"))
    random.Random(seed).shuffle(names)
    taken = 0
    for name in names:
        if name in excluded or taken >= megabytes * 1e6:
            continue
        text = strip_gutenberg((Path(folder) / f"{name}.txt").read_text(encoding="utf-8", errors="replace"))
        # A replacement character means that the file was not UTF-8: leave such books out, not half of their letters.
        if text is None or len(text) < SHORTEST_BOOK or "\ufffd" in text:
            continue
        taken += len(text)
        yield name, text


def encode_books(tokenizer, texts):
    """One uint16 array: BOS, text, EOS for every book."""
    parts = []
    for i in range(0, len(texts), 16):
        for encoding in tokenizer.encode_batch(texts[i : i + 16], add_special_tokens=False):
            parts.append(np.array([BOS, *encoding.ids, EOS], dtype=np.uint16))
    return np.concatenate(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--exclude", help="file whose first column holds book ids to leave out")
    parser.add_argument("--out", default="data")
    parser.add_argument("--megabytes", type=float, default=140)
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args()

    excluded = set()
    if args.exclude:
        excluded = {line.split()[0] for line in Path(args.exclude).read_text().splitlines() if line.strip()}
    books = list(choose_books(args.texts, excluded, args.megabytes, args.seed))
    fit = [name for name, text in books if HELD_OUT_MIN <= len(text) <= HELD_OUT_MAX]
    held = set(fit[:HELD_OUT_BOOKS])
    train_texts = [text for name, text in books if name not in held]
    held_texts = [text for name, text in books if name in held]

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(train_texts)
    tokenizer.save(str(out / "tokenizer.json"))
    arrays = {"train": encode_books(tokenizer, train_texts), "held": encode_books(tokenizer, held_texts)}
    manifest = {"seed": args.seed, "held_out_ids": sorted(held), "train_ids": sorted(n for n, _ in books if n not in held)}
    for name, texts in (("train", train_texts), ("held", held_texts)):
        np.save(out / f"{name}.npy", arrays[name])
        size = sum(len(text.encode()) for text in texts)
        manifest[name] = {
            "books": len(texts),
            "bytes": size,
            "tokens": len(arrays[name]),
            "bytes_per_token": round(size / len(arrays[name]), 4),
            "sha256": hashlib.sha256(arrays[name].tobytes()).hexdigest(),
        }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps({name: manifest[name] for name in ("train", "held")}, indent=1))


if __name__ == "__main__":
    main()

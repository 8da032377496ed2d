"""Measure a checkpoint on held-out books and on the protocol's own prompts.

    python evaluate.py --model run/32k --data data/ --out evaluation.json

All haystacks come from held.npy, books that training never saw. An answer counts only when greedy decoding would give
it: with the right tokens fed, the most likely next token must be the right one at every step, and a non-digit after the
key. (That is greedy decoding without its loop.) Weights are used in fp16, as shipped.
"""
import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from documents import ANSWER, PROTOCOL_TAIL, Books, Encoder, KINDS, filler_density, filler_text, render
from model import Model, config_of, load_weights
from simulate import method_attention
from tokenizer import BOS
from wording import INTRO, KEY_LINE, KEY_QUESTION

FAR = 256  # tokens that stay visible where far attention is blocked


def load(folder, device, dtype):
    model = Model(config_of(folder), dtype=dtype).to(device)
    load_weights(model, load_file(f"{folder}/model.safetensors"))
    return model.eval().requires_grad_(False)


def passkey_prompt(r, encode, books, haystack, context, depth):
    """(ids, index of the first decode step, answer ids), at most `context` tokens with the answer."""
    key = r.randint(1, 50000)
    line = KEY_LINE.format(key=key)
    room = context - len(encode(f"{INTRO}\n\n{line}\n\n{KEY_QUESTION}")) - 16
    hay = filler_text(int(room * filler_density(encode))) if haystack == "filler" else books.text(r, room)
    while True:
        cut = int(len(hay) * depth)
        after = hay[: len(hay) - cut] if haystack == "filler" else hay[cut:]
        text = f"{INTRO}\n{hay[:cut]}\n{line}\n{after}\n{KEY_QUESTION}"
        head = [BOS, *encode(text[:-PROTOCOL_TAIL])]
        ids, answer = head + encode(text[-PROTOCOL_TAIL:]), encode(f" {key}.")
        over = len(ids) + len(answer) - context
        if over <= 0:
            return ids, len(head), answer
        hay = hay[: len(hay) - 4 * over]


def passkeys(seed, encode, books, haystack, context, samples):
    """The protocol's prompts: depth of sample i of N is floor(100 / N) * (i + 1) percent."""
    for i in range(samples):
        r = random.Random(f"{seed}/{haystack}/{context}/{i}")
        yield passkey_prompt(r, encode, books, haystack, context, (100 // samples) * (i + 1) / 100)


def is_right(model, digits, ids, first, answer, windows=None, method="full", budget=512):
    """Whether greedy decoding gives the key and then something that is no digit."""
    device = model.embedding.device
    row = torch.tensor([ids + answer[:-1]], device=device)
    attention = None if method == "full" else method_attention(method, first, budget, model.config.theta)
    if windows:
        pad = -row.shape[1] % FAR  # windows work on whole chunks; what follows the answer is not looked at
        row = torch.nn.functional.pad(row, (0, pad))
    hidden = model.hidden(row, windows, attention)[len(ids) - 1 : len(ids) + len(answer) - 1]
    guess = model.logits(hidden).argmax(-1).tolist()
    return guess[:-1] == answer[:-1] and guess[-1] not in digits


def passkey_table(model, encode, books, digits, args):
    table = {}
    for context in args.contexts:
        for haystack in ("filler", "book"):
            prompts = list(passkeys(args.seed, encode, books, haystack, context, args.samples))
            table[f"{haystack}/{context}"] = sum(is_right(model, digits, *p) for p in prompts) / args.samples
    return table


def method_table(model, encode, books, digits, args):
    """Methods at budgets, first two layers dense; and where retrieval lives: far attention blocked in some layers."""
    table, layers = {}, model.config.layers
    blocked = {
        "far attention blocked in layers 0-1": [FAR if i < 2 else None for i in range(layers)],
        "far attention blocked in layers >= 2": [None if i < 2 else FAR for i in range(layers)],
    }
    for context in args.method_contexts:
        for haystack in args.method_haystacks:
            prompts = list(passkeys(args.seed, encode, books, haystack, context, args.method_samples))
            for name, windows in blocked.items():
                table[f"{name}/{haystack}/{context}"] = sum(is_right(model, digits, *p, windows=windows) for p in prompts) / len(prompts)
            for method in ("full", "quest", "streaming", "h2o", "tova"):
                for budget in args.budgets if method == "quest" else args.budgets[-1:] if method != "full" else (0,):
                    right = sum(is_right(model, digits, *p, method=method, budget=budget) for p in prompts)
                    table[f"{method} {budget}/{haystack}/{context}"] = right / len(prompts)
    return table


def generated_table(model, encode, books, args):
    """Share of answers that are right in every token, by kind of document and length."""
    table = {}
    for kind in ("passkey", "facts", "longbench", "pairs", "quotation", "numbered"):
        for length in args.document_lengths:
            right = asked = 0
            for i in range(args.documents):
                r = random.Random(f"{args.seed}/{kind}/{length}/{i}")
                ids, kinds = render(encode, KINDS[kind](r, encode, books, length))
                hidden = model.hidden(torch.tensor([ids], device=model.embedding.device))
                kinds = np.array(kinds) == ANSWER
                where = np.flatnonzero(kinds)
                guess = model.logits(hidden[torch.from_numpy(where - 1).to(hidden.device)]).argmax(-1).tolist()
                hits = dict(zip(where.tolist(), (g == ids[w] for g, w in zip(guess, where))))
                starts = [w for w in where if not kinds[w - 1]]
                for start in starts:
                    end = start
                    while end < len(kinds) and kinds[end]:
                        end += 1
                    asked += 1
                    right += all(hits[w] for w in range(start, end))
            table[f"{kind}/{length}"] = round(right / asked, 4)
    return table


def book_loss(model, encode, tokenizer, texts):
    """Loss with contexts of different length on the same text: at most the first 32K tokens of every book."""
    table = {}
    for length in (1024, 8192, 32768):
        nats = tokens = size = 0
        for text in texts:
            ids = encode(text)[:32768]
            size += len(tokenizer.decode(ids).encode())
            for i in range(0, len(ids), length):
                chunk = torch.tensor(ids[i : i + length], device=model.embedding.device)
                row = torch.cat((torch.tensor([BOS], device=chunk.device), chunk[:-1]))[None]
                nats += model(row, chunk[None]).double().sum().item()
                tokens += len(chunk)
        table[str(length)] = {"nats_per_token": round(nats / tokens, 4), "bits_per_byte": round(nats / math.log(2) / size, 4)}
    table["bytes_per_token"] = round(size / tokens, 4)
    return table


def transformers_difference(folder, held):
    """Largest difference between this code's logits and transformers', both in fp32 on the CPU."""
    from transformers import AutoModelForCausalLM

    ids = torch.tensor(held[:512].astype("int64"))[None]
    ours = load(folder, "cpu", torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return (ours.logits(ours.hidden(ids)) - theirs(ids).logits[0]).abs().max().item()


def main():
    numbers = lambda text: [int(n) for n in text.split(",") if n]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", help="JSON file for the tables")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", nargs="*", default=[], help="more books to measure the loss on, such as PG-19's test split")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--contexts", type=numbers, default=[1024, 4096, 10240, 16384, 30720])
    parser.add_argument("--method-samples", type=int, default=50)
    parser.add_argument("--method-contexts", type=numbers, default=[10240, 30720])
    parser.add_argument("--method-haystacks", type=lambda t: t.split(","), default=["filler"])
    parser.add_argument("--budgets", type=numbers, default=[64, 256, 512])
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--document-lengths", type=numbers, default=[1024, 8192])
    parser.add_argument("--only", type=lambda t: t.split(","), default=["loss", "passkey", "documents", "methods", "transformers"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(f"{args.model}/tokenizer.json")
    args.reference = Tokenizer.from_file(f"{args.data}/tokenizer.json")
    held = np.load(f"{args.data}/held.npy")
    encode = Encoder(tokenizer)
    books = Books(held, args.reference)
    digits = {i for token, i in tokenizer.get_vocab().items() if token.isdigit()}
    model = load(args.model, args.device, getattr(torch, args.dtype))
    starts = np.flatnonzero(held == BOS)
    books_by_name = {"held out": [args.reference.decode(held[s + 1 : s + 1 + 32768].tolist()) for s in starts]}
    for path in args.texts:
        books_by_name[Path(path).stem] = [Path(path).read_text(encoding="utf-8")[:120_000]]
    tables, began = {}, time.time()
    work = {
        "loss": lambda: {name: book_loss(model, encode, tokenizer, texts) for name, texts in books_by_name.items()},
        "passkey": lambda: passkey_table(model, encode, books, digits, args),
        "documents": lambda: generated_table(model, encode, books, args),
        "methods": lambda: method_table(model, encode, books, digits, args),
        "transformers": lambda: transformers_difference(args.model, held),
    }
    for name in args.only:
        tables[name] = work[name]()
        print(name, json.dumps(tables[name], indent=1), f"t {time.time() - began:.0f}", flush=True)
        if args.out:
            with open(args.out, "w") as file:
                json.dump(tables, file, indent=1)


if __name__ == "__main__":
    main()

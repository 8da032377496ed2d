"""Train quest-tiny in stages that grow the context to 32K.

    python train.py --data data/ --out run/                     # all stages
    python train.py --data data/ --out run/ --stages 1k,4k      # some; a stage starts from the one before it

A stage reads the checkpoint of the stage before it from `--out`, starts fresh optimisers with a short warm-up, and
writes its own checkpoint as a Hugging Face folder `<out>/<stage>/`. A finished stage is not run again, so the same
command continues after an interruption; `--limit` stops between two steps and writes `<stage>.partial` to go on from.
Batches depend on the seed, the stage and the step only.
"""
import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from safetensors.torch import load_file, save_file

from batches import Batches
from documents import ANSWER, BOOK, PROMPT, TEXT
from model import Config, Model, huggingface_config, load_weights, to_huggingface
from muon import Muon
from stages import STAGES, WINDOW, WINDOWED_LAYERS
from tokenizer import TOKENIZER_CONFIG

MATRIX_RATE, VECTOR_RATE = 0.02, 3e-3  # peak learning rates: Muon; Adam (embedding and norms)
KIND_WEIGHT = {TEXT: 1.0, BOOK: 0.5, PROMPT: 0.02}  # in the language-modelling mean; answers have a mean of their own
ANSWER_WEIGHT = 1.0
_REST = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ATTENTION = {"cudnn": [SDPBackend.CUDNN_ATTENTION, *_REST], "flash": _REST}


def save(model, folder, data, step, log):
    """A Hugging Face folder: weights in fp16, config, tokenizer, and where training stood."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_huggingface(model), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(huggingface_config(model.config), indent=2) + "\n")
    (folder / "tokenizer.json").write_text(Path(data, "tokenizer.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    (folder / "training.json").write_text(json.dumps({"step": step, "log": log}, indent=1) + "\n")


class Optimisers:
    """Muon for the matrices in the blocks, Adam for the embedding and the norms."""

    def __init__(self, model):
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
        vectors = [model.embedding, model.norm, *(p for p in model.blocks.parameters() if p.ndim == 1)]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(vectors, betas=(0.9, 0.95), weight_decay=0.0, fused=vectors[0].is_cuda)

    def step(self, factor):
        for group in self.adam.param_groups:
            group["lr"] = VECTOR_RATE * factor
        self.muon.step(MATRIX_RATE * factor)
        self.adam.step()


def rate(stage, step, start):
    """Share of the peak rates: linear within the stage, after a warm-up from where the stage starts or resumes."""
    first, last = stage["rate"]
    return (first + (last - first) * step / stage["steps"]) * min(1, (step - start + 1) / stage["warmup"])


def run_stage(model, stage, args, start, deadline):
    """Train one stage from step `start`; returns the step reached and the log."""
    device = model.embedding.device
    weights = torch.zeros(5, device=device)
    for kind, weight in KIND_WEIGHT.items():
        weights[kind] = weight
    optimisers = Optimisers(model)
    batches = Batches(args.seed, stage, args.data, args.workers, start)
    windows = [WINDOW if i in WINDOWED_LAYERS else None for i in range(model.config.layers)]
    log, step, began, counted = [], start, time.time(), start
    for step, (ids, kinds) in enumerate(batches, start):
        ids = torch.from_numpy(ids.astype("int64")).to(device, non_blocking=True)
        kinds = torch.from_numpy(kinds).to(device, non_blocking=True)[:, 1:].flatten().long()
        windowed = random.Random(f"{args.seed}/{stage['name']}/{step}/window").random() < stage["windowed"]
        losses = model(ids[:, :-1], ids[:, 1:].contiguous(), windows if windowed else None)
        weight = weights[kinds]
        answer = (kinds == ANSWER).float()
        answer_loss = (losses * answer).sum() / answer.sum().clamp(min=1)
        ((losses * weight).sum() / weight.sum() + ANSWER_WEIGHT * answer_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimisers.step(rate(stage, step, start))
        model.zero_grad(set_to_none=True)
        if (step + 1) % args.report == 0 or step + 1 == stage["steps"]:
            text = (losses * (kinds == TEXT)).sum() / (kinds == TEXT).sum()
            speed = (time.time() - began) / (step + 1 - counted)
            log.append({"step": step + 1, "text": round(text.item(), 4), "answer": round(answer_loss.item(), 4),
                        "windowed": windowed, "seconds_per_step": round(speed, 4)})  # fmt: skip
            print(stage["name"], json.dumps(log[-1]), f"t {time.time() - args.began:.0f}", flush=True)
            began, counted = time.time(), step + 1
        if time.time() > deadline:
            break
    batches.close()
    return step + 1, log


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", default="run")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, in order")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--report", type=int, default=50, help="steps between two lines of the log")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which to stop and write a partial stage")
    parser.add_argument("--smoke", type=int, default=0, help="steps per stage, to try everything out")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--attention", choices=ATTENTION, default="cudnn", help="the kernels to prefer")
    args = parser.parse_args()
    args.began = time.time()

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = Model(Config()).to(args.device)
    if args.device == "cuda":
        model.compile()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True)
    names, out, previous = list(STAGES), Path(args.out), None
    for name in names:
        folder, partial = out / name, out / f"{name}.partial"
        if folder.exists():
            previous = folder
        if name not in args.stages.split(",") or folder.exists():
            continue
        stage = {"name": name, **STAGES[name]}
        if args.smoke:
            stage["steps"] = args.smoke
        origin = partial if partial.exists() else previous
        if origin:
            load_weights(model, load_file(origin / "model.safetensors"))
        start = json.loads((partial / "training.json").read_text())["step"] if partial.exists() else 0
        print(f"stage {name} from {origin} at step {start}", flush=True)
        with sdpa_kernel(ATTENTION[args.attention], set_priority=True):
            step, log = run_stage(model, stage, args, start, args.began + args.limit)
        done = step >= stage["steps"]
        save(model, folder if done else partial, args.data, step, log)
        if not done:
            print(f"stopped in {name} at step {step} of {stage['steps']}", flush=True)
            break
        previous = folder


if __name__ == "__main__":
    main()

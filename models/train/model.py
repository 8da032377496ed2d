"""The model as trained: LlamaForCausalLM's arithmetic in plain PyTorch, with an attention window per layer.

Tokens are kept flat, [rows * length, hidden], and every stage has the same number of tokens per step, so the two
compiled regions (before and after attention) and the loss are compiled once for all context lengths.
A window of `W` lets a token see itself and the W - 1 tokens before it. Layers 0 and 1 get one in most training steps:
that keeps retrieval out of them. The shipped checkpoint has no window anywhere.
"""
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int = 4096
    hidden: int = 320
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 576
    theta: float = 500_000.0
    eps: float = 1e-5
    context: int = 32768


class Block(nn.Module):
    """Weights of one decoder layer; the arithmetic is in the functions below."""

    def __init__(self, c: Config):
        super().__init__()
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        shapes = {"q": (q, c.hidden), "k": (kv, c.hidden), "v": (kv, c.hidden), "o": (c.hidden, q),
                  "gate": (c.ffn, c.hidden), "up": (c.ffn, c.hidden), "down": (c.hidden, c.ffn)}  # fmt: skip
        for name, (rows, columns) in shapes.items():
            std = columns**-0.5 * (0.5 if name not in ("o", "down") else 0.5 / math.sqrt(2 * c.layers))
            setattr(self, name, nn.Parameter(torch.randn(rows, columns) * std))
        self.norm_attention = nn.Parameter(torch.ones(c.hidden))
        self.norm_ffn = nn.Parameter(torch.ones(c.hidden))


def rms_norm(x, weight, eps, dtype):
    x = x.float()
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight).to(dtype)


def rotate(x, cos, sin):
    """RoPE on [n, heads, head_dim] with cos and sin [n, 1, head_dim / 2]; halves are paired as Llama does."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def before_attention(x, norm, q, k, v, cos, sin, eps, head_dim, dtype):
    """[n, hidden] -> q [n, heads, d], k and v [n, kv_heads, d]."""
    h = rms_norm(x, norm, eps, dtype)
    out = F.linear(h, torch.cat((q, k, v)).to(dtype))
    q, k, v = (t.unflatten(-1, (-1, head_dim)) for t in out.split((q.shape[0], k.shape[0], v.shape[0]), -1))
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def after_attention(x, attended, o, norm, gate, up, down, eps, dtype):
    """Output projection and SwiGLU with their residuals; attended is [n, heads * d]."""
    x = x + F.linear(attended, o.to(dtype))
    h = rms_norm(x, norm, eps, dtype)
    return x + F.linear(F.silu(F.linear(h, gate.to(dtype))) * F.linear(h, up.to(dtype)), down.to(dtype))


def token_losses(x, norm, embedding, targets, eps, dtype):
    """Cross entropy of every token, [n], fp32."""
    logits = F.linear(rms_norm(x, norm, eps, dtype), embedding.to(dtype))
    return F.cross_entropy(logits.float(), targets, reduction="none")


def full_attention(q, k, v, rows):
    """Causal attention over whole rows. q [n, H, d], k and v [n, G, d] -> [n, H * d]."""
    q, k, v = (t.unflatten(0, (rows, -1)).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def window_mask(rows, length, window, device, dtype):
    """Additive mask [rows * chunks, 1, window, 2 * window]: a chunk sees its own band and the end of the one before."""
    query = torch.arange(window, device=device)[:, None]
    key = torch.arange(2 * window, device=device)[None] - window
    band = (key <= query) & (query - key < window)
    chunk = torch.arange(rows * (length // window), device=device) % (length // window)
    seen = band[None] & ((key >= 0)[None] | (chunk > 0)[:, None, None])
    return torch.zeros(seen.shape, device=device, dtype=dtype).masked_fill_(~seen, float("-inf"))[:, None]


def window_attention(q, k, v, rows, window, mask):
    """Causal attention within `window` tokens, as chunks that see themselves and their predecessor."""

    def with_previous(t):
        t = t.unflatten(0, (rows, -1, window))  # [rows, chunks, window, G, d]
        previous = torch.cat((t[:, :1], t[:, :-1]), 1)  # the first chunk's is masked
        return torch.cat((previous, t), 2).flatten(0, 1).transpose(1, 2)

    group = q.shape[1] // k.shape[1]
    q = q.unflatten(0, (-1, window)).transpose(1, 2)
    k, v = (with_previous(t).repeat_interleave(group, 1) for t in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


class Model(nn.Module):
    def __init__(self, config: Config, dtype=torch.bfloat16):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embedding = nn.Parameter(torch.randn(config.vocab, config.hidden) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.hidden))
        self.before, self.after, self.losses = before_attention, after_attention, token_losses
        self.tables = {}

    def compile(self):
        self.before, self.after, self.losses = (torch.compile(f, dynamic=False) for f in (self.before, self.after, self.losses))

    def rope(self, rows, length):
        """cos and sin, [rows * length, 1, head_dim / 2], kept for the current shape."""
        key = ("rope", rows, length)
        if key not in self.tables:
            c, device = self.config, self.embedding.device
            frequency = c.theta ** -(torch.arange(0, c.head_dim, 2, device=device).float() / c.head_dim)
            angle = torch.outer(torch.arange(length, device=device).float(), frequency).repeat(rows, 1)[:, None]
            self.tables = {key: (angle.cos(), angle.sin())}
        return self.tables[key]

    def mask(self, rows, length, window):
        key = ("mask", rows, length, window)
        if key not in self.tables:
            self.tables[key] = window_mask(rows, length, window, self.embedding.device, self.dtype)
        return self.tables[key]

    def hidden(self, ids, windows=None, attention=None):
        """ids [rows, length] -> [rows * length, hidden]. `windows[l]` is layer l's window or None for all.
        `attention(layer, q, k, v)` replaces the model's own attention where it is given (simulate.py)."""
        rows, length = ids.shape
        c = self.config
        cos, sin = self.rope(rows, length)
        x = F.embedding(ids.flatten(), self.embedding)
        for i, b in enumerate(self.blocks):
            q, k, v = self.before(x, b.norm_attention, b.q, b.k, b.v, cos, sin, c.eps, c.head_dim, self.dtype)
            window = windows[i] if windows else None
            if attention:
                out = attention(i, q, k, v)
            elif window and window < length:
                out = window_attention(q, k, v, rows, window, self.mask(rows, length, window))
            else:
                out = full_attention(q, k, v, rows)
            x = self.after(x, out, b.o, b.norm_ffn, b.gate, b.up, b.down, c.eps, self.dtype)
        return x

    def logits(self, hidden):
        """Logits of rows of `hidden`, fp32."""
        h = rms_norm(hidden, self.norm, self.config.eps, self.dtype)
        return F.linear(h, self.embedding.to(self.dtype)).float()

    def forward(self, ids, targets, windows=None):
        """Loss of every token, [rows * length]."""
        x = self.hidden(ids, windows)
        return self.losses(x, self.norm, self.embedding, targets.flatten(), self.config.eps, self.dtype)


NAMES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    "norm_attention": "input_layernorm", "norm_ffn": "post_attention_layernorm",
}  # fmt: skip


def to_huggingface(model):
    """Weights under LlamaForCausalLM's names, fp16. The embedding is tied, so there is no lm_head."""
    out = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm}
    for i, block in enumerate(model.blocks):
        for name, full in NAMES.items():
            out[f"model.layers.{i}.{full}.weight"] = getattr(block, name)
    return {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in out.items()}


def load_weights(model, tensors):
    """The reverse of to_huggingface."""
    with torch.no_grad():
        model.embedding.copy_(tensors["model.embed_tokens.weight"])
        model.norm.copy_(tensors["model.norm.weight"])
        for i, block in enumerate(model.blocks):
            for name, full in NAMES.items():
                getattr(block, name).copy_(tensors[f"model.layers.{i}.{full}.weight"])


def huggingface_config(c: Config):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16",
        "vocab_size": c.vocab, "hidden_size": c.hidden, "intermediate_size": c.ffn, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
        "max_position_embeddings": c.context, "rope_parameters": {"rope_theta": c.theta, "rope_type": "default"},
        "rms_norm_eps": c.eps, "hidden_act": "silu", "initializer_range": 0.02, "attention_bias": False,
        "mlp_bias": False, "attention_dropout": 0.0, "pretraining_tp": 1, "tie_word_embeddings": True,
        "use_cache": True, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip


def config_of(folder):
    """The Config of a Hugging Face folder written by this project."""
    h = json.loads((Path(folder) / "config.json").read_text())
    theta = h.get("rope_theta") or h["rope_parameters"]["rope_theta"]
    return Config(h["vocab_size"], h["hidden_size"], h["num_hidden_layers"], h["num_attention_heads"],
                  h["num_key_value_heads"], h["head_dim"], h["intermediate_size"], theta, h["rms_norm_eps"])  # fmt: skip

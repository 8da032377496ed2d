"""Quest, StreamingLLM, H2O and TOVA for one teacher-forced prompt, in plain PyTorch.

All tokens are known, so a layer can be finished for all decode steps before the next one starts. The prompt up to
`first` is dense, and so are the first `skip` layers; queries from `first` on go through the method.
This is a check for training, kept apart from the product on purpose.
"""
import torch
import torch.nn.functional as F

from model import full_attention, rotate

PAGE, SINKS = 16, 4


def attend(q, k, v, seen):
    """q [t, H, d], k and v [n, G, d], seen [t, G or 1, n] -> [t, H * d]."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    if seen.shape[1] > 1:
        seen = seen.repeat_interleave(group, 1)
    logits = torch.einsum("thd,nhd->thn", q, k) * q.shape[-1] ** -0.5
    weights = logits.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("thn,nhd->thd", weights, v).flatten(1)


def quest(q, k, v, first, budget):
    """Pages by the upper bound of min and max, one list per KV head; the page being written is always attended."""
    n, heads, d = k.shape
    steps = torch.arange(first, n, device=k.device)
    pages = -(-n // PAGE)
    padded = F.pad(k, (0, 0, 0, 0, 0, pages * PAGE - n)).unflatten(0, (pages, PAGE))
    low, high = padded.amin(1), padded.amax(1)
    grouped = q.unflatten(1, (heads, -1))
    score = torch.einsum("tgid,pgd->tgip", grouped.clamp(min=0), high) + torch.einsum("tgid,pgd->tgip", grouped.clamp(max=0), low)
    page = torch.arange(pages, device=k.device)
    own = steps // PAGE
    score = score.amax(2).masked_fill(page >= own[:, None, None], float("-inf"))
    chosen = torch.zeros_like(score, dtype=torch.bool)
    chosen.scatter_(2, score.topk(min(budget // PAGE - 1, pages), 2).indices, True)
    chosen |= page == own[:, None, None]
    position = torch.arange(n, device=k.device)
    return attend(q, k, v, chosen.repeat_interleave(PAGE, 2)[..., :n] & (position <= steps[:, None, None]))


def streaming(q, k, v, first, budget, theta):
    """Sinks and a recent window; for the sinks the query is turned back to position budget - 1."""
    n, d = k.shape[0], q.shape[-1]
    steps, position = torch.arange(first, n, device=k.device), torch.arange(n, device=k.device)
    frequency = theta ** -(torch.arange(0, d, 2, device=k.device).float() / d)
    back = torch.outer((budget - 1 - steps).clamp(max=0).float(), frequency)[:, None]
    group = q.shape[1] // k.shape[1]
    keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    near = torch.einsum("thd,nhd->thn", q, keys)
    near[..., :SINKS] = torch.einsum("thd,nhd->thn", rotate(q, back.cos(), back.sin()), keys[:SINKS])
    age = steps[:, None] - position
    seen = (age >= 0) & ((age < budget - SINKS) | (position < SINKS))
    weights = (near * d**-0.5).masked_fill(~seen[:, None], float("-inf")).softmax(-1)
    return torch.einsum("thn,nhd->thd", weights, values).flatten(1)


def evict(q, k, v, first, budget, method):
    """H2O (a kept set per KV head, by accumulated weight) and TOVA (one kept set, by this step's mean weight)."""
    n, heads, d = k.shape
    kept = torch.arange(first, device=k.device).expand(heads, -1)
    total = torch.zeros(heads, n, device=k.device)
    lane = torch.arange(heads, device=k.device)[:, None]
    recent = budget - budget // 2 if method == "h2o" else 0
    out = []
    for step in range(first, n):
        kept = torch.cat((kept, torch.full((heads, 1), step, device=k.device)), 1)
        now = q[step - first].unflatten(0, (heads, -1))
        weights = (torch.einsum("gid,gmd->gim", now, k[kept, lane]) * d**-0.5).softmax(-1)
        out.append(torch.einsum("gim,gmd->gid", weights, v[kept, lane]).flatten())
        total.scatter_add_(1, kept, weights.sum(1))
        if kept.shape[1] > budget:
            score = total.gather(1, kept) if method == "h2o" else weights.mean((0, 1)).expand(heads, -1)
            old, new = kept[:, : kept.shape[1] - recent], kept[:, kept.shape[1] - recent :]
            best = score[:, : old.shape[1]].topk(budget - recent, 1).indices.sort(1).values
            kept = torch.cat((old.gather(1, best), new), 1)
    return torch.stack(out)


def method_attention(method, first, budget, theta, skip=2):
    """An `attention(layer, q, k, v)` for Model.hidden, for one row."""

    def attention(layer, q, k, v):
        out = full_attention(q, k, v, 1)
        if method == "full" or layer < skip or k.shape[0] <= budget:
            return out
        tail, keys, values = q[first:].float(), k.float(), v.float()
        if method == "quest":
            late = quest(tail, keys, values, first, budget)
        elif method == "streaming":
            late = streaming(tail, keys, values, first, budget, theta)
        else:
            late = evict(tail, keys, values, first, budget, method)
        out[first:] = late.to(out.dtype)
        return out

    return attention

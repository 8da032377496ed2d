"""Times what PyTorch and transformers do for the cases of `quest bench compare`: a request as JSON on standard input, one
JSON line per answer on standard output. The first line says what is installed."""

import json
import sys
import time


def median(times):
    return sorted(times)[len(times) // 2]


def noise_pct(times):
    return 50 * (max(times) - min(times)) / median(times)


def say(**line):
    print(json.dumps(line), flush=True)


def time_on_gpu(torch, copies, once, repeats=15):
    """Microseconds of `once(copy)`, captured over all copies as one CUDA graph, so that L2 holds none of them."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for copy in range(copies):
            once(copy)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for copy in range(copies):
            once(copy)
    times = []
    for i in range(repeats + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(1000 * begin.elapsed_time(end) / copies)
    return times


def time_on_cpu(copies, once, repeats=9):
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        once(i % copies)
        if i >= 2:
            times.append(1e6 * (time.perf_counter() - start))
    return times


def attention(torch, device, n_heads, n_kv_heads, context):
    """One query per head over a dense cache, by scaled_dot_product_attention."""
    kind = torch.float16 if device != "cpu" else torch.float32
    copy_bytes = 2 * n_kv_heads * context * 128 * (2 if device != "cpu" else 4)
    copies = max(1, min(8, int(400e6 / copy_bytes) + 1))
    make = lambda heads, tokens: torch.randn(1, heads, tokens, 128, device=device, dtype=kind)
    q = make(n_heads, 1)
    caches = [(make(n_kv_heads, context), make(n_kv_heads, context)) for _ in range(copies)]
    options = {"enable_gqa": True} if n_heads != n_kv_heads else {}

    def once(copy):
        k, v = caches[copy]
        torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)

    with torch.no_grad():
        return time_on_gpu(torch, copies, once) if device != "cpu" else time_on_cpu(copies, once)


def steps(torch, transformers, device, shape, context, count):
    """Milliseconds of dense decode steps of transformers' Llama with random weights and a static cache, and the prefill's seconds."""
    config = transformers.LlamaConfig(
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["nLayers"],
        num_attention_heads=shape["nHeads"],
        num_key_value_heads=shape["nKvHeads"],
        head_dim=shape["headDim"],
        vocab_size=shape["vocab"],
        max_position_embeddings=context + count + 64,
    )
    kind = torch.float16 if device != "cpu" else torch.float32
    torch.set_default_dtype(kind)
    with torch.device(device), torch.no_grad():
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
        cache = transformers.StaticCache(config=config, max_cache_len=context + count + 16)
        ids = (torch.arange(context) * 7919 + 13) % shape["vocab"]
        wait = torch.cuda.synchronize if device != "cpu" else lambda: None
        wait()
        start = time.perf_counter()
        chunk = 4096
        for at in range(0, context, chunk):
            part = ids[at : at + chunk].unsqueeze(0)
            out = model(part, past_key_values=cache, cache_position=torch.arange(at, at + part.shape[1]), logits_to_keep=1)
        wait()
        prefill = time.perf_counter() - start
        token = out.logits[:, -1:].argmax(-1)
        times = []
        for i in range(count + 3):
            wait()
            start = time.perf_counter()
            token = model(token, past_key_values=cache, cache_position=torch.tensor([context + i])).logits[:, -1:].argmax(-1)
            wait()
            if i >= 3:
                times.append(1000 * (time.perf_counter() - start))
    return times, prefill


def main():
    request = json.load(sys.stdin)
    import torch

    device = request["device"]
    if device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("this PyTorch sees no GPU")
    transformers = None
    if request["steps"]:
        try:
            import transformers
        except ImportError:
            pass
    say(torch=torch.__version__, transformers=transformers.__version__ if transformers else None)
    for one in request["attention"]:
        times = attention(torch, device, one["nHeads"], one["nKvHeads"], one["contextTokens"])
        say(**one, median=median(times), noise_pct=noise_pct(times))
    for one in request["steps"] if transformers else []:
        try:
            times, prefill = steps(torch, transformers, device, one["shape"], one["contextTokens"], one["count"])
            say(name=one["name"], contextTokens=one["contextTokens"], median=median(times), noise_pct=noise_pct(times), prefill_s=prefill)
        except Exception as error:  # versions differ in what they take; the other cases still count
            say(name=one["name"], contextTokens=one["contextTokens"], failed=str(error).split("\n")[0][:300])


main()

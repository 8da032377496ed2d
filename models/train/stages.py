"""The training plan. Every step of every stage has the same number of tokens."""

TOKENS = 131_072  # per step
WINDOW = 64  # tokens that a windowed layer sees
WINDOWED_LAYERS = (0, 1)  # the layers that the paper's setting leaves dense for every method

# `rate`: share of the peak learning rate at the stage's first and last step. `windowed`: share of steps in which
# layers 0 and 1 see only WINDOW tokens. Retrieval first appears in the early stages; there the window is never lifted,
# so it can only appear in the layers above.
STAGES = {
    "512": {
        "length": 512, "steps": 1000, "rate": (1.0, 1.0), "warmup": 100, "windowed": 1.0,
        "mix": {"text": 0.30, "repeated": 0.12, "passkey": 0.16, "facts": 0.14, "longbench": 0.04, "pairs": 0.22, "quotation": 0.02},
    },
    "1k": {
        "length": 1024, "steps": 3000, "rate": (1.0, 1.0), "warmup": 20, "windowed": 0.9,
        "mix": {"text": 0.42, "passkey": 0.20, "facts": 0.16, "longbench": 0.08, "pairs": 0.10, "quotation": 0.04},
    },
    "4k": {
        "length": 4096, "steps": 1200, "rate": (1.0, 0.6), "warmup": 20, "windowed": 0.7,
        "mix": {"text": 0.42, "passkey": 0.22, "facts": 0.18, "longbench": 0.08, "pairs": 0.06, "quotation": 0.04},
    },
    "8k": {
        "length": 8192, "steps": 2000, "rate": (0.8, 0.6), "warmup": 20, "windowed": 0.65,
        "mix": {"text": 0.42, "passkey": 0.16, "facts": 0.20, "longbench": 0.10, "pairs": 0.06, "quotation": 0.03, "numbered": 0.03},
    },
    "16k": {
        "length": 16384, "steps": 700, "rate": (0.6, 0.25), "warmup": 20, "windowed": 0.6,
        "mix": {"text": 0.38, "passkey": 0.22, "facts": 0.22, "longbench": 0.10, "pairs": 0.04, "quotation": 0.02, "numbered": 0.02},
    },
    "32k": {
        "length": 32768, "steps": 500, "rate": (0.25, 0.0), "warmup": 20, "windowed": 0.5,
        "mix": {"text": 0.38, "passkey": 0.24, "facts": 0.20, "longbench": 0.10, "pairs": 0.04, "quotation": 0.02, "numbered": 0.02},
    },
}  # fmt: skip
for stage in STAGES.values():
    stage["tokens"] = TOKENS

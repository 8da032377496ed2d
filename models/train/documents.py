"""Generated documents that ask for something far above: pass keys, labelled facts, key-value pairs, quotations.

A document is a list of (text, kind) parts. Kinds decide what a token weighs in the loss (train.py):
PROMPT tokens weigh almost nothing, BOOK tokens are language modelling, ANSWER tokens are what retrieval is trained on.
"""
import re
from functools import lru_cache

from tokenizer import BOS, EOS
from wording import FACTS, FILLER, INTRO, KEY_LINE, KEY_QUESTION, LONGBENCH, code, coined, digits, fact, letters, number

IGNORE, TEXT, BOOK, PROMPT, ANSWER = range(5)
PROTOCOL_TAIL = 400  # characters that the passkey protocol feeds as decode steps
PERIOD = FILLER + " "


class Encoder:
    """Text to ids without BOS. Repeated pieces (filler sentences) are looked up, not tokenised again."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        # " The grass" follows a full stop wherever it occurs, so cutting in front of it never changes the ids.
        self.piece = lru_cache(maxsize=4096)(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)

    def __call__(self, text):
        if "The grass is" not in text:
            return self.tokenizer.encode(text, add_special_tokens=False).ids if len(text) > 60 else self.piece(text)
        ids = []
        for piece in re.split(r"(?<=\.)(?= The grass)", text):
            ids += self.piece(piece)
        return ids


class Books:
    """Random windows of the token array, as ids or as text."""

    def __init__(self, tokens, tokenizer):
        self.tokens, self.tokenizer = tokens, tokenizer

    def ids(self, r, n):
        start = r.randrange(len(self.tokens) - n)
        return self.tokens[start : start + n].tolist()

    def text(self, r, n):
        """Text of about `n` tokens: as printed, or with every paragraph on one line."""
        text = self.tokenizer.decode(self.ids(r, n), skip_special_tokens=True).replace("\ufffd", "")
        return text if r.random() < 0.6 else re.sub(r"(?<!\n)\n *(?!\n)", " ", text)


def filler_text(n_chars):
    return (PERIOD * (n_chars // len(PERIOD) + 1))[:n_chars]


def render(encode, parts):
    """(ids, kinds) of a document: BOS, its parts, EOS. EOS is an answer when it ends one."""
    ids, kinds = [BOS], [IGNORE]
    for text, kind in parts:
        new = encode(text)
        ids += new
        kinds += [kind] * len(new)
    return ids + [EOS], kinds + [kinds[-1] if kinds[-1] == ANSWER else PROMPT]


def split_tail(text, kind, tail):
    """Two parts tokenised on their own, as a runner does that feeds the last `tail` characters as decode steps."""
    if tail <= 0 or tail >= len(text):
        return [(text, kind)]
    return [(text[:-tail], kind), (text[-tail:], kind)]


def passkey(r, encode, books, length):
    """The protocol's document of about `length` tokens, its haystack filler or book text, cut at any character."""
    key = str(r.randint(1, 50000)) if r.random() < 0.55 else digits(r, r.randint(1, 7)).lstrip("0") or "0"
    frame = f"{INTRO}\n\n{KEY_LINE.format(key=key)}\n\n{KEY_QUESTION}"
    room = max(8, length - len(encode(frame)) - 24)
    if r.random() < 0.5:
        kind, hay = PROMPT, filler_text(int(room * filler_density(encode)))
        cut = int(len(hay) * r.random())
        before, after = hay[:cut], hay[: len(hay) - cut]
    else:
        kind, hay = BOOK, books.text(r, room)
        cut = int(len(hay) * r.random())
        before, after = hay[:cut], hay[cut:]
    text = f"{INTRO}\n{before}\n{KEY_LINE.format(key=key)}\n{after}\n{KEY_QUESTION}"
    u = r.random()
    tail = PROTOCOL_TAIL if u < 0.75 else r.randint(40, 700) if u < 0.9 else 0
    return split_tail(text, kind, tail) + [(f" {key}.", ANSWER)]


@lru_cache(maxsize=2)
def filler_density(encode):
    """Characters of filler per token."""
    return len(PERIOD) * 8 / len(encode(PERIOD * 8))


def distinct_facts(r, n):
    """Facts that do not collide. Often few kinds, so that only the name tells a fact from its neighbours."""
    kinds = r.sample(range(len(FACTS)), r.choice((1, 2, 4, len(FACTS), len(FACTS))))
    found = {}
    for _ in range(3 * n):
        item = fact(r, r.choice(kinds))
        found.setdefault(item[4], item)
        if len(found) == n:
            break
    return list(found.values())


def scatter(r, hay, statements):
    """Put statements into a text at random places: on lines of their own, or between two words."""
    cuts = sorted(r.randrange(len(hay) + 1) for _ in statements)
    out, last = [], 0
    before, after = r.choice(((" ", " "), ("\n", "\n"), ("\n\n", "\n\n")))
    for cut, statement in zip(cuts, statements):
        if r.random() < 0.8:
            space = hay.find(" ", cut, cut + 40)
            cut = space if space >= 0 else cut
        cut = max(cut, last)
        out += [hay[last:cut], before + statement + after]
        last = cut
    return "".join([*out, hay[last:]])


def haystack(r, encode, books, room):
    if r.random() < 0.25:
        return PROMPT, filler_text(int(room * filler_density(encode)))
    return BOOK, books.text(r, room)


def facts(r, encode, books, length):
    """Many labelled facts in one text, many questions after it, asked plainly."""
    most = max(1, min(24, length // 110))
    items = distinct_facts(r, r.randint(1, most))
    room = max(16, length - 30 - 62 * len(items))
    kind, hay = haystack(r, encode, books, room)
    head = r.choice(("", INTRO + "\n", "Read the following text and answer the questions.\n\n"))
    parts = [(head + scatter(r, hay, [item[0] for item in items]) + "\n", kind)]
    r.shuffle(items)
    style = r.randrange(3)
    for i, (_, question, lead, answer, _) in enumerate(items):
        asked = (f"Question: {question}\nAnswer:", f"{question} {lead}", f"Question: {question} Answer:")[style]
        parts += [(("\n" if i else "") + asked, PROMPT), (f" {answer}.", ANSWER)]
    return parts


def passages(r, text):
    """The text in numbered passages, as the multi-document tasks give it."""
    n = r.randint(2, 8)
    size = len(text) // n + 1
    chunks = [text[i : i + size].strip() for i in range(0, len(text), size)]
    return "\n\n".join(f"Passage {i + 1}:\n{chunk}" for i, chunk in enumerate(chunks))


def longbench(r, encode, books, length):
    """One question in LongBench's wording; the other facts are distractors. The prompt's tail is tokenised apart."""
    task = r.choice(["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "triviaqa"])
    items = distinct_facts(r, r.randint(1, max(1, min(12, length // 160))))
    item = r.choice(items)
    question = item[1]
    examples = ""
    if task == "triviaqa":
        shots = [fact(r) for _ in range(r.randint(0, 2) if length >= 512 else 0)]
        examples = "\n\n".join(f"Passage:\n{s[0]}\nQuestion:\n{s[1]}\nAnswer:\n{s[3]}" for s in shots)
    frame = LONGBENCH[task].format(context=examples, input=question)
    room = max(16, length - len(encode(frame)) - 30 - 24 * len(items))
    kind, hay = haystack(r, encode, books, room)
    text = scatter(r, hay, [i[0] for i in items])
    if task == "hotpotqa" and r.random() < 0.6:
        text = passages(r, text)
    if task == "triviaqa":
        asked = f"Passage:\n{text}\nQuestion:\n{question}\nAnswer:" + r.choice(("", "\n"))
        prompt = LONGBENCH[task].format(context=examples, input=asked)
    else:
        prompt = LONGBENCH[task].format(context=text, input=question)
    tail = r.choice((0, 100, 100, r.randint(30, 160)))
    answer = item[3] if prompt.endswith("\n") else " " + item[3]
    return split_tail(prompt, kind, tail) + [(answer, ANSWER)]


def pairs(r, encode, books, length):
    """Dense associative recall: a table of keys and values, then many look-ups."""
    n = max(4, min(length // 34, 800))
    make_key = r.choice((lambda: f"{letters(r, 3)}-{digits(r, 2)}", lambda: coined(r) + digits(r, 1), lambda: digits(r, 5)))
    make_value = r.choice((lambda: digits(r, 4), lambda: digits(r, 4), lambda: number(r), lambda: code(r), lambda: coined(r)))
    table = {make_key(): make_value() for _ in range(n)}
    keys = list(table)
    line, asked = r.choice((
        ("{k}: {v}\n", "The value of {k} is"),
        ('"{k}": "{v}",\n', 'Key: "{k}"\nValue:'),
        ("The value of {k} is {v}.\n", "The value of {k} is"),
    ))
    parts = [("Memorize this table.\n" + "".join(line.format(k=k, v=table[k]) for k in keys), PROMPT)]
    for k in r.sample(keys, min(len(keys), max(4, length // 60), 60)):
        parts += [(asked.format(k=k), PROMPT), (f" {table[k]}.\n", ANSWER)]
    return parts


def numbered(r, encode, books, length):
    """Which numbered paragraph holds a statement, as LongBench's passage retrieval asks."""
    n = r.randint(2, max(2, min(30, length // 90)))
    items = distinct_facts(r, n)
    n = len(items)
    frame = LONGBENCH["passage_retrieval_en"].format(context="", input=items[0][0])
    each = max(4, (length - len(encode(frame)) - 30) // n - 34)
    texts = [f"{books.text(r, each).strip()} {item[0]}" for item in items]
    wanted = r.randrange(n)
    asked = items[wanted][0] if r.random() < 0.5 else f"The paragraph says: {items[wanted][0]}"
    context = "\n\n".join(f"Paragraph {i + 1}: {text}" for i, text in enumerate(texts))
    prompt = LONGBENCH["passage_retrieval_en"].format(context=context, input=asked)
    return split_tail(prompt, BOOK, r.choice((0, 100))) + [(f"Paragraph {wanted + 1}", ANSWER)]


def quotation(r, encode, books, length):
    """Continue a quotation from the text above."""
    hay = books.text(r, max(32, length - 90))
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", hay)]
    if len(words) < 40:
        return passkey(r, encode, books, length)
    parts = [(hay + "\n", BOOK)]
    for _ in range(min(4, 1 + length // 1500)):
        i, lead, tail = r.randrange(len(words) - 20), r.randint(5, 8), 5
        quoted = " ".join(hay[words[i][0] : words[i + lead - 1][1]].split())
        answer = " ".join(hay[words[i + lead][0] : words[i + lead + tail - 1][1]].split())
        parts += [(f'\nQuestion: Which five words follow "{quoted}" in the text?\nAnswer:', PROMPT), (f" {answer}", ANSWER)]
    return parts


KINDS = {"passkey": passkey, "facts": facts, "longbench": longbench, "pairs": pairs, "quotation": quotation, "numbered": numbered}

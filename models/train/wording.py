"""What generated documents are made of: filler, names, facts with questions, and the benchmarks' own wording."""

# The passkey protocol's own text.
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
KEY_LINE = "The pass key is {key}. Remember it. {key} is the pass key."
KEY_QUESTION = "What is the pass key? The pass key is"

# LongBench's prompts (THUDM/LongBench, MIT licence), word for word: they are part of that protocol.
LONGBENCH = {
    "narrativeqa": (
        "You are given a story, which can be either a novel or a movie script, and a question. Answer the question "
        "asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\n"
        "Story: {context}\n\nNow, answer the question based on the story asconcisely as you can, using a single phrase "
        "if possible. Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:"
    ),
    "qasper": (
        "You are given a scientific article and a question. Answer the question as concisely as you can, using a single "
        "phrase or sentence if possible. If the question cannot be answered based on the information in the article, "
        'write "unanswerable". If the question is a yes/no question, answer "yes", "no", or "unanswerable". Do not '
        "provide any explanation.\n\nArticle: {context}\n\n Answer the question based on the above article as concisely "
        "as you can, using a single phrase or sentence if possible. If the question cannot be answered based on the "
        'information in the article, write "unanswerable". If the question is a yes/no question, answer "yes", "no", or '
        '"unanswerable". Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:'
    ),
    "multifieldqa_en": (
        "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following question based on the "
        "above text, only give me the answer and do not output any other words.\n\nQuestion: {input}\nAnswer:"
    ),
    "hotpotqa": (
        "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n"
        "The following are given passages.\n{context}\n\nAnswer the question based on the given passages. Only give me "
        "the answer and do not output any other words.\n\nQuestion: {input}\nAnswer:"
    ),
    "triviaqa": (
        "Answer the question based on the given passage. Only give me the answer and do not output any other words. The "
        "following are some examples.\n\n{context}\n\n{input}"
    ),
    "passage_retrieval_en": (
        "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract is "
        "from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\nPlease enter the number of the paragraph that the "
        'abstract is from. The answer format must be like "Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: '
    ),
}

FIRST = (
    "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nils Olga Peter Quinn Rosa Simon Tara "
    "Ursula Victor Wanda Xavier Yara Zeno Arthur Beatrice Cedric Dorothy Edmund Flora Gideon Harriet Isaac Julia Lionel "
    "Mabel Nathan Ophelia Percy Rachel Silas Theresa Walter Alice Thomas Margaret John Mary James Emma Robert Sarah "
    "William Helen George Charles Martha Henry Lucy Edward Grace Samuel Ruth Daniel Nora Oliver Ivan Sofia Marcus"
).split()
LAST = (
    "Ashford Barlow Carver Dalton Ellery Fenwick Garrick Holloway Ingram Jarvis Kendrick Lambert Merton Norwood Oakley "
    "Pemberton Quigley Radcliffe Stanton Thornton Underhill Vance Whitlock Yardley Abbott Blake Cooper Drake Evans "
    "Fletcher Grant Harper Irving Jensen Keller Lindqvist Moreau Novak Okafor Petrov Rossi Schmidt Tanaka Vogel Weber"
).split()
THINGS = (
    "lantern violin letter carriage compass diary telescope basket ribbon hammer mirror saddle clock medal sword teapot "
    "ledger candle map portrait anchor kettle crown whistle book ring coat boat wagon piano drum flute bell lamp key box "
    "chest necklace watch painting statue vase camera bicycle umbrella notebook"
).split()
PLACES = (
    "Avonlea Bristol Cairo Dover Exeter Florence Geneva Harwich Ithaca Jaffa Kingston Lisbon Madrid Naples Oxford Paris "
    "Quebec Rome Salem Tunis Utrecht Venice Warwick York Zurich London Berlin Vienna Dublin Prague Oslo Athens Boston "
    "Chicago Delhi Edinburgh Glasgow Hamburg Istanbul Kyoto Lima Moscow Nairobi Ottawa Porto Riga Seville Turin Warsaw"
).split()
COLOURS = "red green blue yellow white black purple orange brown grey silver golden crimson violet pink".split()
JOBS = (
    "baker carpenter doctor farmer gardener judge lawyer miller painter printer sailor shepherd smith surgeon tailor "
    "teacher weaver merchant soldier engineer librarian musician pilot nurse clerk blacksmith watchmaker"
).split()
ANIMALS = "dog cat horse parrot goat rabbit donkey raven pony hound tortoise falcon".split()
SPOTS = "table|bed|stairs|bridge|oak tree|garden wall|kitchen door|old well|church|barn|chimney|bookcase|fireplace".split("|")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
FOODS = "bread|apple pie|roast beef|onion soup|fresh fish|rice|cheese|plum cake|honey|mushrooms|oysters|porridge".split("|")
SYLLABLES = (
    "ba be bo bra da del do dra el fa fen ga gor ha hel in ka kel kor la len lo ma mel mi mor na nel no or pa per qua ra "
    "ren ri ro sa sel so ta tel tho tor ul va vel vi vor wen ya zel zu"
).split()


def letters(r, n):
    return "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(n))


def digits(r, n):
    """Random digits; sometimes of two or three kinds only, because repeated digits are the hard ones to copy."""
    alphabet = "0123456789" if r.random() < 0.7 else r.sample("0123456789", r.choice((2, 2, 3)))
    return "".join(r.choice(alphabet) for _ in range(n))


def coined(r):
    """A made-up name, so that matching is learned and not a list of names."""
    return "".join(r.choice(SYLLABLES) for _ in range(r.choice((2, 2, 3)))).capitalize()


def person(r):
    first = coined(r) if r.random() < 0.25 else r.choice(FIRST)
    if r.random() < 0.5:
        return first
    return f"{first} {coined(r) if r.random() < 0.25 else r.choice(LAST)}"


def place(r):
    return coined(r) if r.random() < 0.3 else r.choice(PLACES)


def code(r):
    return r.choice((letters(r, 4) + "-" + digits(r, 3), letters(r, 3).upper() + digits(r, 3), letters(r, 6)))


def number(r):
    return digits(r, r.randint(1, 7)).lstrip("0") or "7"


def year(r):
    return str(r.randint(1400, 2030))


# Every fact: statements, then (question, lead of a completion) pairs, then the answer. {a} is the person asked about,
# {t} a thing, {p} a place, {v} the answer. The lead may be used in place of "Answer:".
FACTS = [
    (number, ["One of the special magic numbers for {a} is: {v}.", "The special magic number for {a} is {v}."],
     [("What is the special magic number for {a} mentioned in the provided text?",
       "The special magic number for {a} mentioned in the provided text is"),
      ("What is the special magic number for {a}?", "The special magic number for {a} is")]),
    (number, ["The pass key for {a} is {v}. Remember it. {v} is the pass key for {a}.", "The pass key of {a} is {v}."],
     [("What is the pass key for {a}?", "The pass key for {a} is"), ("What is the pass key of {a}?", "The pass key of {a} is")]),
    (place, ["{a} left the {t} in {v}.", "It is said that {a} left the {t} in {v}."],
     [("Where did {a} leave the {t}?", "{a} left the {t} in"), ("In which town did {a} leave the {t}?", "{a} left the {t} in")]),
    (place, ["{a} lives in {v}.", "{a} has lived in {v} for many years."],
     [("Where does {a} live?", "{a} lives in"), ("In which city does {a} live?", "{a} lives in")]),
    (place, ["{a} was born in {v} in {y}.", "{a} was born in {v}."],
     [("Where was {a} born?", "{a} was born in"), ("In which city was {a} born?", "{a} was born in")]),
    (year, ["{a} was born in {p} in {v}.", "{a} was born in the year {v}."],
     [("In which year was {a} born?", "{a} was born in the year"), ("When was {a} born?", "{a} was born in")]),
    (lambda r: r.choice(COLOURS), ["The colour of the {t} that belongs to {a} is {v}.", "{a} owns a {t}, and its colour is {v}."],
     [("What colour is the {t} that belongs to {a}?", "The colour of the {t} that belongs to {a} is"),
      ("What is the colour of the {t} that belongs to {a}?", "The colour is")]),
    (lambda r: r.choice(COLOURS), ["{a}'s favourite colour is {v}.", "The favourite colour of {a} is {v}."],
     [("What is {a}'s favourite colour?", "{a}'s favourite colour is"), ("What is the favourite colour of {a}?", "The favourite colour of {a} is")]),
    (code, ["The secret code of {a} is {v}.", "The secret code for {a} is {v}."],
     [("What is the secret code of {a}?", "The secret code of {a} is"), ("What is the secret code for {a}?", "The secret code for {a} is")]),
    (code, ["The password of the {t} is {v}.", "The password for the {t} is {v}."],
     [("What is the password of the {t}?", "The password of the {t} is"), ("What is the password for the {t}?", "The password for the {t} is")]),
    (lambda r: r.choice(JOBS), ["{a} worked as a {v} in {p}.", "{a} was a {v} by profession."],
     [("What was the profession of {a}?", "{a} worked as a"), ("What did {a} work as?", "{a} worked as a")]),
    (person, ["The {j} of {p} is called {v}.", "{v} is the {j} of {p}."],
     [("Who is the {j} of {p}?", "The {j} of {p} is"), ("What is the name of the {j} of {p}?", "The {j} of {p} is called")]),
    (person, ["The mayor of {p} is {v}.", "{v} is the mayor of {p}."],
     [("Who is the mayor of {p}?", "The mayor of {p} is"), ("What is the name of the mayor of {p}?", "The mayor of {p} is")]),
    (person, ["{a} married {v} in {y}.", "{a} was married to {v}."],
     [("Whom did {a} marry?", "{a} married"), ("Who was married to {a}?", "{a} was married to")]),
    (coined, ["{a} kept a {n} called {v}.", "{a} has a {n} named {v}."],
     [("What is the name of the {n} of {a}?", "The name of the {n} of {a} is"), ("What was {a}'s {n} called?", "{a}'s {n} was called")]),
    (number, ["{a} paid {v} pounds for the {t}.", "The {t} cost {a} {v} pounds."],
     [("How much did {a} pay for the {t}?", "{a} paid"), ("How many pounds did {a} pay for the {t}?", "{a} paid")]),
    (lambda r: "under the " + r.choice(SPOTS), ["{a} hid the {t} {v}.", "The {t} of {a} was hidden {v}."],
     [("Where did {a} hide the {t}?", "{a} hid the {t}"), ("Where was the {t} of {a} hidden?", "The {t} of {a} was hidden")]),
    (lambda r: "The " + r.choice(COLOURS).capitalize() + " " + r.choice(THINGS).capitalize(),
     ["{a} wrote the novel {v}.", "{a} is the author of {v}."],
     [("Which novel did {a} write?", "{a} wrote the novel"), ("What is the title of the novel by {a}?", "{a} wrote the novel")]),
    (person, ["The {t} was invented by {v} in {y}.", "{v} invented the {t} in {p}."],
     [("Who invented the {t}?", "The {t} was invented by"), ("By whom was the {t} invented?", "The {t} was invented by")]),
    (number, ["The town of {p} has {v} inhabitants.", "There are {v} inhabitants in {p}."],
     [("How many inhabitants does {p} have?", "The town of {p} has"), ("How many people live in {p}?", "The number of people in {p} is")]),
    (year, ["The bridge of {p} was built in {v}.", "In {p} the bridge was built in {v}."],
     [("When was the bridge of {p} built?", "The bridge of {p} was built in"), ("In which year was the bridge of {p} built?", "It was built in")]),
    (lambda r: f"{r.choice(DAYS)}", ["The meeting with {a} is on {v}.", "{a} will arrive on {v}."],
     [("On which day is the meeting with {a}?", "The meeting with {a} is on"), ("On which day will {a} arrive?", "{a} will arrive on")]),
    (lambda r: f"{r.randint(1, 28)} {r.choice(MONTHS)}", ["The birthday of {a} is on {v}.", "{a} celebrates on {v}."],
     [("When is the birthday of {a}?", "The birthday of {a} is on"), ("On which date does {a} celebrate?", "{a} celebrates on")]),
    (lambda r: r.choice(FOODS), ["{a} likes to eat {v}.", "The favourite food of {a} is {v}."],
     [("What does {a} like to eat?", "{a} likes to eat"), ("What is the favourite food of {a}?", "The favourite food of {a} is")]),
    (coined, ["The {c} method was tested on the {v} dataset.", "For {c} the authors used the {v} dataset."],
     [("Which dataset was used for {c}?", "The dataset used for {c} is"), ("On which dataset was {c} tested?", "{c} was tested on")]),
    (number, ["The {c} dataset contains {v} examples.", "There are {v} examples in the {c} dataset."],
     [("How many examples does the {c} dataset contain?", "The {c} dataset contains"), ("How many examples are in {c}?", "The number of examples in {c} is")]),
    (lambda r: f"{r.randint(10, 99)}.{r.randint(0, 9)}", ["{c} reaches an accuracy of {v} percent.", "The accuracy of {c} is {v} percent."],
     [("What accuracy does {c} reach?", "The accuracy of {c} is"), ("What is the accuracy of {c}?", "The accuracy of {c} is")]),
    (lambda r: r.choice(PLACES) + " University", ["{a} studied at {v}.", "{a} taught at {v} from {y}."],
     [("Where did {a} study?", "{a} studied at"), ("At which university was {a}?", "{a} was at")]),
]


def fact(r, index=None):
    """A random fact: (statement, question, lead, answer, key). Facts with different keys do not collide."""
    index = r.randrange(len(FACTS)) if index is None else index
    value, statements, questions = FACTS[index]
    slots = {
        "a": person(r), "t": r.choice(THINGS), "p": place(r), "v": value(r), "y": year(r), "j": r.choice(JOBS),
        "n": r.choice(ANIMALS), "c": coined(r),
    }
    question, lead = r.choice(questions)
    # Two facts of one kind collide when they fill the question's slots alike.
    asked = question + lead
    key = (index, *(slots[s] for s in "atpjnc" if "{" + s + "}" in asked))
    return r.choice(statements).format(**slots), question.format(**slots), lead.format(**slots), slots["v"], key

"""Exercises of lesson 03: find the rows that leak, and mask a conversation."""

from __future__ import annotations

from helpers import data
from helpers.exercises.core import Exercise, Wrong

LIMIT = 0.5
TEST = [
    {
        "id": "test-a",
        "ticket": "Good morning, my Fern 2 from order BB-48213 squeaks at the back wheel since the "
        "rain. Is that covered, and who pays for the parcel?",
    },
    {
        "id": "test-b",
        "ticket": "can i fly with the battery of my moss city in the hold or must it stay home",
    },
    {
        "id": "test-c",
        "ticket": "Two payments of 49 EUR left my account for one helmet. When do I see one of them "
        "again?",
    },
]
# (training row, why it leaks or None, why it does not)
_ROWS = (
    (
        *("train-1", TEST[2]["ticket"]),
        "it is the test ticket itself, letter by letter",
    ),
    (
        "train-2",
        "Dear Bramble team, my Heath Cargo from order 77120 squeaks at the back wheel since the "
        "rain. Is that covered, and who pays for the parcel?",
        "it is a test ticket with another product, greeting and order number: mask before you compare",
    ),
    (
        "train-3",
        "Two payments for one helmet left my account, 49 EUR each. When do I see one of them again?",
        "a few words changed places, so no two strings are equal, masked or not: measure likeness",
    ),
    (
        "train-4",
        "Hi there, i want to fly with the battery of my fern 3, can it go in the hold or must it "
        "stay home?",
        "greeting and product hide how alike it is: measure likeness on the masked tickets",
    ),
    (
        *(
            "train-5",
            "my battery of the Moss City gets hot in the hold of the ferry, must it stay?",
        ),
        None,
    ),
    (
        "train-6",
        "Good morning, my Fern 2 from order BB-48213 has a flat tyre again. Who pays for the parcel "
        "with the tube?",
        None,
    ),
    (
        "train-7",
        "Two payments of 49 EUR for one rental left my account, the deposit twice. Who sends one "
        "back, and when?",
        None,
    ),
)
TRAIN = [{"id": name, "ticket": ticket} for name, ticket, _ in _ROWS]
_LEAKS = {name: why for name, _, why in _ROWS if why}

CONVERSATION = [
    {"role": "system", "content": data.SHORT_PROMPT},
    {"role": "user", "content": "Ticket: flat tyre on my Fern 2, what does it cost"},
    {"role": "assistant", "content": '{"policy": "REP-3"}'},
    {"role": "user", "content": "Ticket: and how long does it take"},
    {"role": "assistant", "content": '{"policy": "REP-3", "priority": "low"}'},
]


def grade_leaks(mine) -> str:
    """Wrong names a row that was missed, or an honest one that was accused."""
    said = mine(TRAIN, TEST)
    said = {row["id"] if isinstance(row, dict) else row for row in said}
    if strange := said - {row["id"] for row in TRAIN}:
        raise Wrong(
            f"{sorted(map(str, strange))} are no ids of training rows; those are asked for."
        )
    for name, why in _LEAKS.items():
        if name not in said:
            raise Wrong(f"{name} leaks, and was not found: {why}.")
    if honest := sorted(said - set(_LEAKS)):
        raise Wrong(
            f"{honest[0]} shares words with a test ticket and asks something else; its likeness is "
            f"under {LIMIT}. Who throws such rows out throws out what the model has to learn."
        )
    return f"{len(said)} of {len(TRAIN)} rows leak, and only one was an equal string."


def _parts(tokenizer, ids: list[int]) -> list[tuple[int, str, str]]:
    """(turn, role, part) of each token; the part is header, text, end or gap (the line break behind the end)."""
    parts, turn, role, part = [], -1, "", "gap"
    for piece in (tokenizer.decode([token]) for token in ids):
        if piece == "<|im_start|>":
            turn, role, part = turn + 1, "", "header"
            parts.append((turn, role, part))
            continue
        if piece == "<|im_end|>":
            parts.append((turn, role, "end"))
            part = "gap"
            continue
        parts.append((turn, role, part))
        if part == "header" and piece == "\n":
            part = "text"
        elif part == "header":
            role += piece
            parts[-1] = (turn, role, part)
    roles = {turn: role for turn, role, part in parts if part == "text"}
    return [(turn, roles.get(turn, role), part) for turn, role, part in parts]


def grade_mask(mine, tokenizer) -> str:
    """Wrong names the kind of token that is graded and should not be, or the other way round."""
    ids = list(tokenizer.apply_chat_template(CONVERSATION)["input_ids"])
    labels = [int(label) for label in mine(tokenizer, CONVERSATION)]
    if len(labels) != len(ids):
        raise Wrong(f"{len(labels)} labels for {len(ids)} tokens: each token needs one.")
    graded = [i for i, label in enumerate(labels) if label != -100]
    if not graded:
        raise Wrong("no token is graded at all: such a run learns nothing.")
    if set(labels) <= {0, 1}:
        raise Wrong("this is a mask of 0 and 1; a label is the token itself, or -100.")
    if any(labels[i] != ids[i] for i in graded):
        raise Wrong(
            "a label is not the token at its own place. The model shifts labels by itself: do not."
        )
    parts = _parts(tokenizer, ids)
    for i in graded:
        turn, role, part = parts[i]
        if part == "header":
            raise Wrong(f"the opening of turn {turn} is graded; we write it, not the model.")
        if role != "assistant":
            raise Wrong(
                f"the {role}'s turn {turn} is graded: the model would learn to write tickets."
            )
    wanted = [
        i for i, (_, role, part) in enumerate(parts) if role == "assistant" and part == "text"
    ]
    last = max(turn for turn, _, _ in parts)
    if not any(parts[i][0] < last for i in graded):
        raise Wrong("only the last answer is graded; the conversation has an earlier one.")
    ends = [i for i, (_, role, part) in enumerate(parts) if role == "assistant" and part == "end"]
    if not set(ends) <= set(graded):
        raise Wrong("an assistant's turn is never closed: its <|im_end|> carries no label.")
    if missed := sorted(set(wanted) - set(graded)):
        raise Wrong(f"{tokenizer.decode([ids[missed[0]]])!r} of an answer carries no label.")
    return f"{len(graded)} of {len(ids)} tokens carry loss, both answers and their ends."


def leaks(train: list[dict], test: list[dict]) -> set[str]:
    found = set()
    for row in train:
        likeness = [
            data.jaccard(data.shingles(row["ticket"]), data.shingles(other["ticket"]))
            for other in test
        ]
        if max(likeness) > 0.5:
            found.add(row["id"])
    return found


def mask(tokenizer, messages: list[dict]) -> list[int]:
    ids = list(tokenizer.apply_chat_template(messages)["input_ids"])
    labels = [-100] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before = tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True)
            after = tokenizer.apply_chat_template(messages[: i + 1])
            start, stop = len(before["input_ids"]), len(after["input_ids"])
            labels[start:stop] = ids[start:stop]
    return labels


EXERCISES = (
    Exercise(
        "E3.1",
        "Find the leaking rows",
        "a function that takes the training and the test rows and returns ids of training rows",
        grade_leaks,
        (
            "A copy need not be an equal string. What did section 3.3 take out before it compared?",
            "data.shingles masks a ticket and cuts it into pieces, data.jaccard compares two sets.",
            "A training row leaks if its likeness to any test ticket is above 0.5.",
        ),
        leaks,
        "Masking takes out what a program fills in, shingles forgive small changes of wording, and "
        "the limit leaves alone what only shares a subject. data.near_copies does the same.",
    ),
    Exercise(
        "E3.2",
        "Mask this conversation",
        "a function that takes the tokenizer and the messages and returns a label for each token",
        grade_mask,
        (
            "Start with -100 for every token, then put back the tokens that the model has to write.",
            "An answer starts where the prompt before it, with the generation prompt, ends: compare "
            "lengths. It ends behind its <|im_end|>.",
            "For each assistant message i: start is the length of messages[:i] with "
            "add_generation_prompt=True, stop the length of messages[:i + 1].",
        ),
        mask,
        "Lengths of prefixes find the borders for any template that only appends. Both answers "
        "carry loss, each with the token that ends it; nothing that we or a customer write does.",
    ),
)

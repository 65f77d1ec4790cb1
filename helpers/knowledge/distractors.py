"""What does a tuned model do with a wrong section in its prompt, and does training on the retriever's mistakes change it?

Introduced in lesson 07, section 7.4. Training with distractors in the context: Zhang et al. 2024 (RAFT).
"""

from __future__ import annotations

from helpers import data, evaluation, methods, models, runtime
from helpers.data import Section
from helpers.generation import generate
from helpers.knowledge import runs
from helpers.quantities import quantities

BASE = {"contexts": "retrieved", "rows": 800, "seed": 0}
# the right section always; the retriever's with most misses mended, as in lesson 04; the retriever's as they are
ALLOWED = {"contexts": ("right", "retrieved", "unmended")}
FILES = ()
RUNS = [{"contexts": contexts} for contexts in ALLOWED["contexts"]]
PARTS = ("cites", "copies", "passes on", "right")


def right_sections(rows: list[dict]) -> list[list[Section]]:
    """The section that answers each ticket; an empty list outside the handbook."""
    known = data.policies()
    return [[known[code]] if (code := row["reply"]["policy"]) in known else [] for row in rows]


def wrong_sections(rows: list[dict]) -> list[list[Section]]:
    """The neighbour most like each ticket's section: the retriever's best one that is not right."""
    from helpers.retrieval import default_retriever, top_k

    retriever = default_retriever()
    best = top_k(retriever.scores([row["ticket"] for row in rows]), retriever.sections, 2)
    return [
        [next(section for section in two if section.policy != row["reply"]["policy"])]
        for row, two in zip(rows, best)
    ]


def training_rows(contexts: str, count: int) -> list[dict]:
    """Lesson 04's first ``count`` rows with the sections that ``contexts`` says."""
    if contexts == "retrieved":
        return methods.training_rows(methods.SECTIONS_K)[:count]
    rows = data.tickets("train")[:count]
    found = right_sections(rows) if contexts == "right" else methods.contexts(rows, 1, unseen=True)
    return [runs.row(asked, data.dumps(x["reply"])) for asked, x in zip(prompts(rows, found), rows)]


def prompts(rows: list[dict], sections: list[list[Section]]) -> list[list[dict]]:
    """Each ticket with the sections given to it."""
    return [
        data.messages(row["ticket"], data.SHORT_PROMPT, (), given)
        for row, given in zip(rows, sections)
    ]


def judge(text: str, row: dict, given: list[Section]) -> dict[str, bool]:
    """What a reply does with the sections given: ``cites`` a wrong one, ``copies`` a figure that only a wrong one has, ``passes on``
    (policy none and a colleague), or is ``right`` in policy and facts. A reply that does not parse does none of it."""
    reply, score = evaluation.parse_reply(text), evaluation.score_reply(text, row)
    if reply is None:
        return dict.fromkeys(PARTS, False)
    code = row["reply"]["policy"]
    wrong = [section for section in given if section.policy != code]
    known = set(quantities(row["ticket"]))
    if code in data.policies():
        known |= quantities(data.policies()[code].text)
    foreign = {q for section in wrong for q in quantities(section.text) if q[1]} - known
    return {
        "cites": reply["policy"] in [section.policy for section in wrong],
        "copies": bool(quantities(reply["reply"]) & foreign),
        "passes on": reply["policy"] == "none" and "colleague" in reply["reply"].lower(),
        "right": score.policy and score.facts,
    }


def conditions() -> dict[str, tuple[list[dict], list[list[Section]]]]:
    """Name -> tickets and the sections given to each: every second validation ticket inside the handbook, all outside it."""
    rows = data.tickets("validation")
    inside = [row for row in rows if row["reply"]["policy"] != "none"][::2]
    outside = [row for row in rows if row["reply"]["policy"] == "none"]
    inside, outside = (x[: runtime.scaled(len(x))] for x in (inside, outside))
    return {
        "inside, right": (inside, right_sections(inside)),
        "inside, wrong": (inside, wrong_sections(inside)),
        "inside, none": (inside, [[]] * len(inside)),
        "outside, wrong": (outside, wrong_sections(outside)),
        "outside, none": (outside, [[]] * len(outside)),
    }


def run(setting: dict, profile: runtime.Profile) -> dict:
    """Train on tickets with one kind of contexts, answer under all ``conditions``; returns the line."""
    rows = training_rows(setting["contexts"], runtime.scaled(setting["rows"]))
    trainer, seconds = runs.train(rows, profile, seed=setting["seed"], num_train_epochs=1)
    model, tokenizer = runs.as_served(trainer), models.load_tokenizer(profile)
    found, samples = {}, []
    for name, (tickets, given) in conditions().items():
        asked = prompts(tickets, given)
        replies = generate(model, tokenizer, asked, methods.MAX_NEW_TOKENS, progress=name)
        judged = [judge(*three) for three in zip([r.text for r in replies], tickets, given)]
        found[name] = {part: runs.bits(one[part] for one in judged) for part in PARTS}
        samples += [
            {"given": name, "id": row["id"], "policy": [s.policy for s in x], "reply": reply.text}
            for row, x, reply in zip(tickets[:3], given, replies)
        ]
    return runs.line_of(setting, profile, rows, trainer, seconds, outcomes=found, samples=samples)

"""Choose the replies that a judge reads to check the metric, and put them into ``data/audit.jsonl`` without any score.

``python -m benchmarks.audit`` needs the replies of a finished run in ``runs/replies`` and writes a sheet to be judged;
``python -m benchmarks.audit second`` (or ``third``) draws those of a later sheet. Test tickets may be used, because nothing is tuned by the
outcome: what is examined is the score, not a method.
"""

from __future__ import annotations

import json
import random
import sys

from helpers import data, evaluation, methods, retrieval, rules, runtime, training

# How many replies of each method; most where right and wrong are both frequent, few where hardly anything parses.
QUOTAS = {
    "keyword-rule": 6,
    "retrieve-and-quote": 8,
    "zero-shot": 2,
    "few-shot": 5,
    "few-shot-constrained": 5,
    "rag-few-shot": 10,
    "sft": 8,
    "sft-rag": 16,
}
# The second sheet: the rows that paste a page, which the first did not have, and the closed-book row once it had two passes.
SECOND = {"retrieve-and-paste": 12, "minilm-and-paste": 4, "sft": 8}
# The third: the open-book row once it had two passes.
THIRD = {"sft-rag": 24}
# Each sheet's quotas and the number of its first reply.
SHEETS = {
    "first": (QUOTAS, 1),
    "second": (SECOND, 1 + sum(QUOTAS.values())),
    "third": (THIRD, 1 + sum(QUOTAS.values()) + sum(SECOND.values())),
}


def replies_of(method: str, rows: list[dict], profile: runtime.Profile) -> list[str]:
    """A scoreboard method's replies: the rules' computed, the model's as kept by the last run.

    Raises FileNotFoundError if a model's replies are not in ``runs/replies``: run the lessons first.
    """
    if method == "keyword-rule":
        return [rules.keyword_rule(row["ticket"]) for row in rows]
    if method == "retrieve-and-quote":
        return methods.without_model(rows)
    if method == "retrieve-and-paste":
        return methods.without_model(rows, rules.paste)
    if method == "minilm-and-paste":
        return methods.without_model(rows, rules.paste, retrieval.Dense(data.handbook()))
    name = methods.METHODS[method].adapter
    adapter = training.find_adapter(name, profile)[0] if name else None

    def missing():
        raise FileNotFoundError(
            f"no kept replies of {method} in runs/replies: run the lessons first"
        )

    kept = methods.answer(method, rows, missing, None, profile, adapter=adapter)
    return [reply.text for reply in kept]


def choose(
    replies: dict[str, list[str]],
    rows: list[dict],
    seed: int = 0,
    quotas: dict[str, int] = QUOTAS,
    first: int = 1,
) -> list[dict]:
    """For each method its quota of replies, half of them with ``facts`` right by the automatic score; shuffled, and numbered from ``first``.

    The result holds no score, so that the judge is blind to it. ``facts`` splits the strata because it is the one score
    that reads free text. Where one half has too few replies the other fills up.
    """
    rng, sheet = random.Random(seed), []
    for method, quota in quotas.items():
        scores = evaluation.score_all(replies[method], rows)
        right = [i for i, score in enumerate(scores) if score.facts]
        wrong = [i for i, score in enumerate(scores) if not score.facts]
        rng.shuffle(right), rng.shuffle(wrong)
        take = max(min(quota // 2, len(right)), quota - len(wrong))
        for i in right[:take] + wrong[: quota - take]:
            sheet.append({"method": method, "ticket": rows[i]["id"], "reply": replies[method][i]})
    rng.shuffle(sheet)
    return [{"id": f"audit-{n:02}", **line} for n, line in enumerate(sheet, first)]


if __name__ == "__main__":
    rows, profile = data.tickets("test"), runtime.start()
    quotas, first = SHEETS[sys.argv[1] if sys.argv[1:] else "first"]
    texts = {name: replies_of(name, rows, profile) for name in quotas}
    sheet = choose(texts, rows, quotas=quotas, first=first)
    path = runtime.runs_dir() / "audit_sheet.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in sheet), "utf-8")
    print(f"{len(sheet)} replies to judge: {path.name}")

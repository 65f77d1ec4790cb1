"""Kept runs made again, and set beside the kept ones: ``make labs AGAIN=1``, or for lesson 07's alone ``make labs AGAIN=1 LESSON=07``.

The new lines go to ``runs/labs.jsonl``; ``data/labs.jsonl`` stays as it is. A call that was cut off goes on with what is missing. The same
settings and seed give the same run on the same machine; another processor, another precision or another version rounds differently, and
that moves as much as another seed does.
"""

from __future__ import annotations

import os
import sys

from helpers import knowledge, labs, runtime, statistics

LESSONS = {"04": (labs,), "05": (labs,), "06": (labs,), "07": (knowledge,), "": (labs, knowledge)}


def outcomes(line: dict) -> dict[str, str]:
    """What a line says question by question, such as ``{"validation, tickets": "0110"}``: its strings of 0 and 1, by where they stand."""
    found: dict[str, str] = {}

    def look(value, where: tuple[str, ...]) -> None:
        if isinstance(value, str) and len(value) > 1 and not set(value) - set("01"):
            found[", ".join(where[where[0] == "outcomes" :])] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if where or name not in ("key", "setting", "samples", "versions"):
                    look(inner, (*where, name))
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                point = isinstance(inner, dict) and "epoch" in inner
                look(inner, (*where, f"epoch {inner['epoch']:g}" if point else str(number)))

    look(line, ())
    return found


def compared(kept: list[dict], again: list[dict]):
    """A pandas DataFrame, a row for each pair of lines: how many of the questions have the same outcome, which group of questions moved
    most, from which share to which, its McNemar ``p`` (Holm's correction over all groups of all lines), and the seconds of training.

    Raises ValueError where two lines do not answer the same questions.
    """
    import pandas as pd

    groups, rows = [], []
    for number, (old, new) in enumerate(zip(kept, again, strict=True)):
        before, after = outcomes(old), outcomes(new)
        if {k: len(v) for k, v in before.items()} != {k: len(v) for k, v in after.items()}:
            raise ValueError(f"{words(old)}: the two lines do not answer the same questions")
        for name, flags in before.items():
            a, b = ([flag == "1" for flag in x] for x in (after[name], flags))
            same = sum(x == y for x, y in zip(a, b))
            test = statistics.mcnemar(a, b)
            share = sum(b) / len(b), sum(a) / len(a)
            groups.append((number, name, len(a), same, *share, test["p"]))
    corrected = statistics.holm([group[-1] for group in groups]) if groups else []
    for number, (old, new) in enumerate(zip(kept, again)):
        mine = [(g, p) for g, p in zip(groups, corrected) if g[0] == number]
        (_, name, _, _, was, is_, _), p = min(
            mine, key=lambda pair: (pair[1], pair[0][-1], -abs(pair[0][5] - pair[0][4]))
        )
        count, same = (sum(g[i] for g, _ in mine) for i in (2, 3))
        row = {"run": words(old), "questions": count, "same %": 100 * same / count}
        row |= {"moved most": name, "kept %": 100 * was, "again %": 100 * is_, "p, Holm": p}
        rows.append(row | {"kept s": old["train_seconds"], "again s": new["train_seconds"]})
    return pd.DataFrame(rows)


def words(line: dict) -> str:
    """A line's run in the words of the shell: the experiment and what differs from its base settings."""
    setting = dict(line["setting"])
    experiment = setting.pop("experiment", None)
    base = knowledge.EXPERIMENTS[experiment].BASE if experiment else labs.BASE
    changed = [f"{k}={v}" for k, v in setting.items() if k in base and v != base[k]]
    return " ".join([experiment or "labs", *changed])


def main(arguments: list[str]) -> int:
    """Make the runs of a lesson again where that is not done yet (``06`` for those of 04 to 06; all without a word), and print the table."""
    lesson = arguments[0] if arguments else ""
    if lesson not in LESSONS:
        print(f"lesson is {lesson}; one of {', '.join(filter(None, LESSONS))}, or nothing for all")
        return 2
    if runtime.fast():
        print("a dry run (WORKSHOP_FAST or WORKSHOP_SHARE) keeps no lines: unset it")
        return 2
    profile = runtime.start()
    kept = labs.known(profile)
    os.environ["WORKSHOP_LABS"] = str(runtime.runs_dir() / "labs.jsonl")
    for module in LESSONS[lesson]:
        module.main([])
    new = labs.known(profile)
    mine = [
        key
        for key, line in new.items()
        if key in kept
        and (knowledge if "experiment" in line["setting"] else labs) in LESSONS[lesson]
    ]
    if not mine:
        print(f"no kept run of {profile.model} on these data to compare with")
        return 1
    table = compared([kept[key] for key in mine], [new[key] for key in mine])
    print(table.round({"p, Holm": 3}).round(1).to_string(index=False))
    moved = int((table["p, Holm"] < 0.05).sum())
    print(f"{moved} of {len(table)} runs have a group of questions that moved by more than chance")
    print(f"kept on {kept[mine[0]]['machine']}; again on {new[mine[0]]['machine']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

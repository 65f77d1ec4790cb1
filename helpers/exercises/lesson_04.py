"""Exercises of lesson 04: a clinic of four broken training runs, and three runs to mend.

``patient`` prepares a broken run. To read this file before the clinic is to read the answers.
"""

from __future__ import annotations

from helpers.exercises.core import Exercise, Wrong

CAUSES = (
    "end of turn not trained",
    "prompt trained instead of the completion",
    "learning rate 100 times too high",
    "wrong chat template",
    "too few rows",
    "adapter rank too small",
)
# What a cause would show, whatever else is wrong.
_SIGNS = {
    CAUSES[
        0
    ]: "the graded text would lack <|im_end|>, and all before the reply would be as in the healthy run",
    CAUSES[1]: "the graded text would be the ticket, and the reply would carry no loss",
    CAUSES[2]: "the loss would jump up in the first steps and not come back",
    CAUSES[3]: "the text before the reply would not open with <|im_start|>, as it does when we ask",
    CAUSES[4]: "all four patients would suffer, and all four have the rows of the healthy run",
    CAUSES[5]: "all four patients would suffer, and all four have the rank of the healthy run",
}
_CAUSE_OF = {"A": CAUSES[1], "B": CAUSES[2], "C": CAUSES[0], "D": CAUSES[3]}
_EVIDENCE = {
    "A": "the loss falls, on the wrong half: the labels stand on the ticket, and none on the reply",
    "B": "rows and labels are in order, and the loss leaps away from where it began",
    "C": "the graded text ends with the object and a line break: no token says that the turn is over",
    "D": "the row speaks of '### user:', and the model is asked with <|im_start|>",
}
# A line break behind a block would be trimmed by the template engine, hence {{ '\n' }}.
_UNCLOSED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['role'] != 'assistant' %}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FOREIGN = (
    "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)


def patient(name: str, rows: list[dict], tokenizer, learning_rate: float):
    """The training rows (``input_ids``, ``completion_mask``) and the learning rate of a run of the clinic.

    ``name`` is "healthy" or "A" to "D"; ``rows`` have messages as prompt and completion (lesson 03, section 3.10).
    """
    cause = _CAUSE_OF.get(name)
    template = {CAUSES[0]: _UNCLOSED, CAUSES[3]: _FOREIGN}.get(cause)
    options = {"chat_template": template} if template else {}
    encoded = []
    for row in rows:
        before = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **options)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], **options)
        ids, start = list(whole["input_ids"]), len(before["input_ids"])
        mask = [int((i >= start) != (cause == CAUSES[1])) for i in range(len(ids))]
        encoded.append({"input_ids": ids, "completion_mask": mask})
    return encoded, learning_rate * (100 if cause == CAUSES[2] else 1)


def _diagnose(name: str):
    """The grader of one patient: Wrong says what the named cause would show and this patient does not."""

    def grade(answer: str) -> str:
        if answer not in CAUSES:
            raise Wrong(f"{answer!r} is no cause of the list: {', '.join(CAUSES)}.")
        if answer != _CAUSE_OF[name]:
            raise Wrong(f"with {answer!r} {_SIGNS[answer]}. Look at patient {name} again.")
        return f"{answer}. {_EVIDENCE[name][0].upper()}{_EVIDENCE[name][1:]}."

    return grade


def _run(loss: list[float], new_tokens: int, rows_out: int, **settings) -> dict:
    """A made-up run: what was set, and what was seen."""
    usual = {"learning_rate": 2e-3, "epochs": 1.0, "max_length": 512, "max_new_tokens": 96}
    seen = {"rows_in": 3276, "rows_out": rows_out, "longest_row": 253, "loss": loss}
    return usual | settings | seen | {"new_tokens_of_a_reply": new_tokens}


RUNS = {
    "never stops": _run([1.45, 0.62, 0.44, 0.39], 96, 2224, max_length=128),
    "learns nothing": _run([1.45, 1.45, 1.44, 1.44], 41, 3276, learning_rate=2e-6),
    "collapses": _run([1.45, 6.90, 9.70, 9.80], 96, 3276, learning_rate=0.2),
}
_AT_FAULT = {
    "never stops": "max_length",
    "learns nothing": "learning_rate",
    "collapses": "learning_rate",
}
_INSTEAD = {
    "max_new_tokens": "a higher limit lets the model write longer, it does not teach it to stop",
    "epochs": "more of the same steps: look at their size, not at their number",
    "learning_rate": "the loss falls as it should, so the rate is in order",
    "max_length": "no row is cut here: as many rows came out as went in",
}
RATES = (5e-4, 5e-3)


def grade_mend(mine) -> str:
    """Wrong says which setting of which run is still wrong, or was changed without need."""
    for name, run in RUNS.items():
        changes, at_fault = mine(run), _AT_FAULT[name]
        if not isinstance(changes, dict):
            raise Wrong(
                f"{name}: a dictionary of changed settings is expected, such as {{'epochs': 2}}."
            )
        changes = {key: value for key, value in changes.items() if value != run.get(key, ...)}
        if unknown := sorted(set(changes) - set(_INSTEAD)):
            raise Wrong(f"{name}: {unknown[0]!r} is no setting; one of {', '.join(_INSTEAD)}.")
        if needless := sorted(set(changes) - {at_fault}):
            raise Wrong(f"{name}: {needless[0]} was not at fault: {_INSTEAD[needless[0]]}.")
        if at_fault not in changes:
            raise Wrong(
                f"{name}: nothing was changed that matters. Compare what was seen with what was set."
            )
        value = changes[at_fault]
        if at_fault == "max_length" and value < run["longest_row"]:
            raise Wrong(
                f"{name}: max_length {value} still cuts the longest row of {run['longest_row']} tokens, "
                "and its end of turn with it."
            )
        if at_fault == "learning_rate" and not RATES[0] <= value <= RATES[1]:
            side = "far too high" if value > RATES[1] else "far too low"
            raise Wrong(
                f"{name}: a learning rate of {value:g} is still {side}; compare section 4.4."
            )
    return "one setting each, and the one that the evidence names."


def mend(run: dict) -> dict:
    if run["rows_out"] < run["rows_in"]:
        return {"max_length": run["longest_row"]}
    if run["loss"][-1] > run["loss"][0] or run["loss"][-1] > 0.9 * run["loss"][0]:
        return {"learning_rate": 2e-3}
    return {}


_HINTS = {
    "A": (
        "Print which part of the first row is graded. Is it what the model shall write?",
        "A loss can fall on anything. What does this run learn to predict?",
        "The labels stand on the wrong side of the generation prompt.",
    ),
    "B": (
        "The rows look like the healthy ones. So look at the curve.",
        "Compare the loss after a few steps with the loss before any training.",
        "Each step throws the weights far beyond where it wanted to go: the steps are too large.",
    ),
    "C": (
        "How a reply ends after so few steps may be luck. How a row ends can be read off.",
        "Compare the last graded tokens with those of the healthy run.",
        "One token is missing behind the object: the one that lesson 03, section 3.7, asked about.",
    ),
    "D": (
        "Read the first row as text, from its beginning, beside the healthy one.",
        "In what form was it trained, and in what form do we ask?",
        "The turns open with '### user:', which no prompt of ours contains.",
    ),
}

EXERCISES = (
    *(
        Exercise(
            f"E4.{number}",
            f"Clinic: patient {name}",
            "one of the causes of the list, as a string",
            _diagnose(name),
            _HINTS[name],
            cause,
            f"{_EVIDENCE[name][0].upper()}{_EVIDENCE[name][1:]}.",
        )
        for number, (name, cause) in enumerate(_CAUSE_OF.items(), 1)
    ),
    Exercise(
        "E4.5",
        "Mend three runs",
        "a function that takes a run and returns the changed settings as a dictionary",
        grade_mend,
        (
            "Change one setting a run. What was seen says which: compare rows in and rows out, then "
            "the first loss and the last.",
            "Rows that vanish were cut until no reply was left, and others lost their end. A loss that "
            "stands still or leaps speaks of the size of the steps.",
            "Return {'max_length': ...} of at least the longest row where rows vanished, and "
            "{'learning_rate': 2e-3} where the loss did not fall.",
        ),
        mend,
        "Each setting is judged by what was seen: rows that vanish point to max_length, a flat or "
        "exploding loss to the learning rate. A higher max_new_tokens would treat the symptom only.",
    ),
)

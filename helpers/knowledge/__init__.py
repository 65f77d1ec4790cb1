"""The runs of lesson 07: what training teaches (facts, a voice), what it does with a wrong section, what it forgets.

Like the runs of ``labs``, each is a dictionary of settings whose line is kept in ``data/labs.jsonl``; here the settings begin with the
name of the experiment and end with a hash of the probes that it uses. A line holds its outcomes question by question ("0110"), so
that intervals and paired tests can be computed from it. ``result(profile, "facts", wordings=4)`` reads a line or makes it; ``python -m
helpers.knowledge`` makes all that are missing, ``python -m helpers.knowledge facts wordings=4`` one.

Each experiment is a module with its own ``BASE`` settings, the values ``ALLOWED``, the probe ``FILES``, the ``RUNS`` to keep, and ``run``.
"""

from __future__ import annotations

from helpers import labs, probes, runtime
from helpers.knowledge import distractors, facts, forgetting, persona, retrained

EXPERIMENTS = {
    "facts": facts,
    "distractors": distractors,
    "persona": persona,
    "forgetting": forgetting,
    "retrained": retrained,
}


def settings(experiment: str, **changes) -> dict:
    """An experiment's settings with some changed; raises ValueError for an unknown one, or a value that makes no sense."""
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment is {experiment!r}; one of {', '.join(EXPERIMENTS)}")
    module = EXPERIMENTS[experiment]
    if unknown := set(changes) - set(module.BASE):
        raise ValueError(
            f"{experiment} has no setting {sorted(unknown)}; it has {', '.join(module.BASE)}"
        )
    asked = module.BASE | changes
    for name, allowed in module.ALLOWED.items():
        if asked[name] not in allowed:
            raise ValueError(f"{name} is {asked[name]!r}; one of {', '.join(map(str, allowed))}")
    return {"experiment": experiment, **asked, "probes": probes.sha256(*module.FILES)}


def result(profile: runtime.Profile, experiment: str, **changes) -> dict:
    """The line of a run: the kept one, or, where there is none, one made now and kept."""
    setting = settings(experiment, **changes)
    return labs.keep(setting, profile, EXPERIMENTS[experiment].run)


def twins(profile: runtime.Profile, experiment: str, **changes) -> list[dict]:
    """The line of a run, and behind it the kept lines that differ in nothing but the seed."""
    first = result(profile, experiment, **changes)
    same = [
        line
        for line in labs.known(profile).values()
        if line["setting"] | {"seed": 0} == first["setting"] | {"seed": 0}
        and line["key"] != first["key"]
    ]
    return [first, *sorted(same, key=lambda line: line["setting"]["seed"])]


def missing(profile: runtime.Profile) -> list[list[str]]:
    """The words that make each run of ``RUNS`` that is not kept yet: ``["facts", "wordings=4"]``."""
    kept = labs.known(profile)
    return [
        [experiment, *(f"{name}={value}" for name, value in change.items())]
        for experiment, module in EXPERIMENTS.items()
        for change in module.RUNS
        if labs.key_of(settings(experiment, **change), profile) not in kept
    ]


def main(arguments: list[str]) -> int:
    """Without arguments every run that is not kept yet, each in its own process; with an experiment and its changes, that run."""
    profile = runtime.start()
    if not arguments:
        labs.make_each("helpers.knowledge", missing(profile))
        return 0
    experiment, *words = arguments
    try:
        base = EXPERIMENTS[experiment].BASE if experiment in EXPERIMENTS else {}
        line = result(profile, experiment, **labs.changes_of(words, base))
    except ValueError as error:
        print(error)
        return 2
    print(f"{line['rows']} rows, trained in {line['train_seconds']:.0f} s, ", end="")
    print(f"at most {line['peak_memory_gb']:.1f} GB")
    return 0

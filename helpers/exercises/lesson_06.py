"""Exercises of lesson 06: will it fit, and which differences between runs stand up."""

from __future__ import annotations

from helpers.exercises.core import Exercise, Wrong

FULL = {"method": "full", "batch": 4, "length": 512, "checkpointing": True}
TIGHT = {"method": "qlora", "batch": 4, "length": 512, "rank": 16}
ROOM = 0.9  # of a card: what section 6.2 leaves to driver and allocator
KEEPS = {
    "method": "the method is given, QLoRA",
    "batch": "the task asks for the same rows in a step, and a smaller batch is another run",
    "length": "the task asks for the same rows, and shorter ones are cut",
    "graded": "it is no setting of the run: it says how a trainer scores positions",
}


def grade_fit(answer: dict) -> str:
    """Wrong says which part of the sum is missing, or what a change of settings leaves over."""
    from helpers import memory

    if missing := [key for key in ours if key not in answer]:
        raise Wrong(f"the key {missing[0]!r} is missing; asked for are {', '.join(ours)}.")
    need = memory.estimate(memory.SHAPES["Llama-3.2-3B"], **FULL)
    said, steady = float(answer["GB"]), need.weights + need.optimizer
    traps = (
        (need.weights, "the weights alone; a step holds more than the model"),
        (need.weights + need.gradients, "weights and gradients, and the optimiser is missing"),
        (steady, "weights and optimiser, and the gradients are missing"),
        (steady + need.gradients, "what is there all the time; AdamW's scratch space is missing"),
        (need.moments()["backward begins"], "the beginning of the backward pass, not the peak"),
    )
    if abs(said - need.gb) > 0.02 * need.gb:
        for value, meant in traps:
            if abs(said - value / 1e9) <= 0.02 * value / 1e9:
                raise Wrong(f"{said:.1f} GB is {meant}.")
        raise Wrong(f"{said:.1f} GB is not the peak that memory.estimate gives for these settings.")
    if answer["fits"]:
        raise Wrong(f"{said:.1f} GB on a card of {memory.CARDS['L4']} GB, and it fits?")
    change = answer["change"]
    if not isinstance(change, dict) or len(change) != 1:
        raise Wrong("change: a dictionary with one setting is expected, such as {'rank': 8}.")
    (name,) = change
    if name in KEEPS:
        raise Wrong(f"change: {name!r} is not yours to change; {KEEPS[name]}.")
    left = memory.estimate(memory.SHAPES["Llama-2-7B"], **TIGHT | change)
    if left.gb > ROOM * memory.CARDS["T4"]:
        parts = {"weights": left.weights, "activations": left.activations, "logits": left.logits}
        largest = max(parts, key=parts.get)
        raise Wrong(
            f"with {change} the step still takes {left.gb:.1f} GB, and a T4 has "
            f"{memory.CARDS['T4']} GB, a tenth of it for the driver. The largest part is {largest}, "
            f"{parts[largest] / 1e9:.1f} GB: which setting speaks to that?"
        )
    return f"the sum decides: {need.gb:.1f} GB there, and {left.gb:.1f} GB here with one setting changed."


def _run(*changes: tuple[int, int]) -> dict:
    """A made-up line of labs: 41 of 123 tickets resolved, then from each place on so many flipped."""
    flags = [True] * 41 + [False] * 82
    for start, count in changes:
        flags[start : start + count] = [not flag for flag in flags[start : start + count]]
    share = {"value": sum(flags) / len(flags)}
    return {"validation": {"resolved": share, "tickets": "".join("01"[flag] for flag in flags)}}


_BASE = _run()
_CALM = [_BASE, _run((0, 1), (60, 2)), _run((5, 2))]
_WILD = [_BASE, _run((0, 4), (50, 12)), _run((0, 12), (60, 4))]
# (first, second, seeds, whether the difference stands, what another verdict overlooks)
PAIRS = (
    (_BASE, _run((3, 2), (70, 30)), _CALM, True, "both doubts are answered"),
    (_BASE, _run((2, 27), (90, 1)), _CALM, True, "a loss is a difference, too"),
    (_BASE, _run((0, 1), (80, 3)), _CALM, False, "two seeds of one setting differ as much"),
    (
        *(_BASE, _run((0, 16), (60, 22)), _CALM, False),
        "it is wider than the seeds, and a fair coin splits so many tickets like this often enough",
    ),
    (
        *(_BASE, _run((0, 2), (60, 13)), _WILD, False),
        "the tickets are sure of these two adapters, and another seed moves the share further",
    ),
    (
        *(_BASE, _run((3, 2), (70, 30)), [_BASE], False),
        "the spread of a single seed is unknown, not zero",
    ),
)


def grade_stands(mine) -> str:
    """Wrong gives the gap, the seeds' spread and the tickets' p of a pair, and what the verdict overlooks."""
    from helpers import statistics

    for first, second, seeds, truth, overlooked in PAIRS:
        if bool(mine(first, second, seeds)) != truth:
            shares = [100 * line["validation"]["resolved"]["value"] for line in seeds]
            gap = 100 * second["validation"]["resolved"]["value"] - shares[0]
            p = statistics.mcnemar(
                *([c == "1" for c in line["validation"]["tickets"]] for line in (first, second))
            )["p"]
            spread = f"{len(seeds)} seed{'s' * (len(seeds) > 1)} up to {max(shares) - min(shares):.1f} points apart"
            raise Wrong(
                f"a gap of {gap:+.1f} points, p = {p:.2g}, {spread}: should be {truth}; {overlooked}."
            )
    return "a difference has to stand up to both doubts, the tickets' and the seeds'."


def stands(first: dict, second: dict, seeds: list[dict]) -> bool:
    from helpers import statistics

    shares = [line["validation"]["resolved"]["value"] for line in seeds]
    a, b = ([c == "1" for c in line["validation"]["tickets"]] for line in (first, second))
    test = statistics.mcnemar(a, b)
    wider = abs(test["difference"]) > max(shares) - min(shares)
    return len(seeds) > 1 and wider and test["p"] < 0.05


ours = {"GB": 32.1, "fits": False, "change": {"checkpointing": True}}

EXERCISES = (
    Exercise(
        "E6.1",
        "Will it fit?",
        "a dictionary with GB, fits and change",
        grade_fit,
        (
            "memory.estimate(memory.SHAPES['Llama-3.2-3B'], 'full', ...) prints all parts and both "
            "moments. A step has to survive its worst moment.",
            "For the T4, print the estimate first and look for the largest part. Rank and optimiser "
            "belong to the adapter: how large is that?",
            "The largest part is what the forward pass leaves lying around for the backward pass. One "
            "setting drops it and computes it again.",
        ),
        ours,
        "Full fine-tuning holds weights, gradients, two averages and AdamW's scratch space, each as "
        "large as the model or larger: no batch is small enough. In QLoRA the weights are the smaller "
        "part, and the activations of four long rows are the larger: checkpointing drops them. Rank, "
        "optimiser change what is small already; 16-bit adapters save some GB, not enough. Fewer adapted "
        "layers would fit, too.",
    ),
    Exercise(
        "E6.2",
        "Which differences stand up?",
        "a function of two runs and a list of seeds that returns True or False",
        grade_stands,
        (
            "There are two doubts: which tickets happened to be in the set, and which seed the "
            "training happened to have. Which figure speaks of which?",
            "line['validation']['tickets'] holds a 0 or 1 a ticket: two lists of flags for "
            "statistics.mcnemar. The seeds' shares are line['validation']['resolved']['value'].",
            "True if there is more than one seed, the gap is wider than the widest between two seeds, "
            "and p is below 0.05. The direction does not matter.",
        ),
        stands,
        "McNemar's test asks about the tickets and knows two adapters only. The seeds say how far two "
        "adapters of one recipe lie apart. A setting has been shown to matter if its gap is too "
        "large for both. Three seeds give a rough yardstick, one gives none.",
    ),
)

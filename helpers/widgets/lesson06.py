"""Lesson 06: what a training run takes on a card, a face on ``plan`` with ``memory.estimate`` behind it."""

from __future__ import annotations

import html

from helpers import memory
from helpers.widgets.base import Panel, picture, table

SPARE = 0.1  # of a card, for driver and allocator: what plots.what_fits leaves, too
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (128, 256, 512, 1024, 2048, 4096)


def held(need: memory.Memory) -> dict[str, dict[str, float]]:
    """What lies in memory at each of the two moments of ``need.moments()``, part by part in GB; the parts add up to the moment."""
    steady = {"weights": need.weights, "adapters": need.adapters, "optimizer": need.optimizer}
    kept = {"gradients": need.gradients if need.accumulates else 0.0}

    def larger(*names: str) -> dict[str, float]:
        # these two are never there together: only the larger one counts
        name = max(names, key=lambda name: getattr(need, name))
        return {name: getattr(need, name)}

    either, late = larger("logits", "layer"), larger("update", "layer")
    moments = {
        "backward begins": steady | kept | {"activations": need.activations, **either},
        "weights are updated": steady | {"gradients": need.gradients, **late},
    }
    return {when: {k: v / 1e9 for k, v in parts.items()} for when, parts in moments.items()}


def plan(
    model: str = "Llama-2-7B",
    method: str = "lora",
    rank: int = 16,
    batch: int = 4,
    length: int = 512,
    checkpointing: bool = True,
    card: str = "T4",
) -> dict:
    """Whether a step fits on a card: ``gb``, ``moment``, ``parts`` (GB at that moment), ``fits`` and ``says``, a sentence.

    ``model`` is a name of ``memory.SHAPES``, ``card`` one of ``memory.CARDS``; all else as ``memory.estimate`` has it by default. A
    step fits if it leaves a tenth of the card free. Where it does not, the sentence names the single changes that would make it fit, each of them
    estimated. Introduced in lesson 06, section 6.2. Raises ValueError for a name or number that does not exist.
    """
    for name, given, known in (("model", model, memory.SHAPES), ("card", card, memory.CARDS)):
        if given not in known:
            raise ValueError(f"{name} is {given!r}; one of {', '.join(known)}")
    asked = {"method": method, "batch": batch, "length": length, "checkpointing": checkpointing}

    def need(**changes) -> memory.Memory:
        return memory.estimate(memory.SHAPES[model], rank=rank, **{**asked, **changes})

    now = need()
    moments, room = now.moments(), memory.CARDS[card]
    moment = max(moments, key=moments.get)
    parts = held(now)[moment]
    usable, largest = (1 - SPARE) * room, max(parts, key=parts.get)
    left = room - now.gb
    on = f"a{'n' * (card[0] in 'AL')} {card}"
    if now.gb <= usable:
        says = f"Fits on {on} with {left:.1f} GB to spare."
    else:
        says = (
            f"Does not fit on {on}: {-left:.1f} GB too much"
            if left < 0
            else f"Reaches the edge of {on}: {left:.1f} GB to spare, and driver and allocator want a "
            f"tenth of it"
        )
        says += f"; the largest part is {largest} ({parts[largest]:.1f} GB). "
        tries = {"gradient checkpointing": {"checkpointing": True}} if not checkpointing else {}
        lighter = memory.METHODS[memory.METHODS.index(method) + 1 :]
        tries |= {f"{other} in place of {method}": {"method": other} for other in lighter}
        tries |= {"a batch of 1": {"batch": 1}} if batch > 1 else {}
        tries |= {f"rows of {length // 2} tokens": {"length": length // 2}} if length > 1 else {}
        found = [name for name, change in tries.items() if need(**change).gb <= usable]
        cards = [name for name, gb in memory.CARDS.items() if now.gb <= (1 - SPARE) * gb]
        if found:
            says += f"Try {', or '.join(found)}."
        else:
            larger = f"the smallest that holds it is the {cards[0]}" if cards else "none holds it"
            says += f"No single change of these settings is enough; of the cards, {larger}."
    fits = now.gb <= usable
    return {"gb": now.gb, "moment": moment, "parts": parts, "fits": fits, "says": says}


def draw(need: memory.Memory, card: str):
    """A figure with a bar for each of the two moments, made of its parts, and the card's memory as a line."""
    from matplotlib.figure import Figure

    hatches = ("", "//", "..", "xx", "--", "++", "\\\\", "oo")
    names = ("weights", "adapters", "optimizer", "gradients", "activations", "logits", "layer")
    figure = Figure(figsize=(8, 3), dpi=80, layout="constrained")
    ax, seen = figure.subplots(), set()
    for when, parts in held(need).items():
        start = 0.0
        for part, gb in ((part, gb) for part, gb in parts.items() if gb):
            place = (*names, "update").index(part)
            style = {"color": f"C{place}", "hatch": hatches[place], "edgecolor": "w"}
            ax.barh(when, gb, left=start, label=None if part in seen else part, **style)
            seen.add(part)
            start += gb
    ax.axvline(memory.CARDS[card], color="black", ls="--", lw=1.2)
    ax.annotate(card, (memory.CARDS[card], 1.5), xytext=(3, 0), textcoords="offset points")
    ax.set(xlabel="GB", xlim=(0, 1.15 * max(need.gb, memory.CARDS[card])), ylim=(-0.6, 1.8))
    ax.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def memory_sliders(**start) -> Panel:
    """Model, method, rank, batch, length, checkpointing and card -> the bars of ``draw`` and the sentence of ``plan``.

    ``start`` sets controls by the names of ``plan``'s arguments.
    """
    import ipywidgets

    def show(**chosen) -> str:
        found = plan(**chosen)
        settings = {name: value for name, value in chosen.items() if name not in ("model", "card")}
        need = memory.estimate(memory.SHAPES[chosen["model"]], **settings)
        bars = "; ".join(
            f"{when} {sum(parts.values()):.1f} GB" for when, parts in held(need).items()
        )
        drawn = picture(draw(need, chosen["card"]), f"Bars for the two moments of a step: {bars}")
        rows = [{"part": part, "GB": f"{gb:.2f}"} for part, gb in found["parts"].items()]
        rows.append({"part": "together", "GB": f"{found['gb']:.2f}"})
        said = "yes" if found["fits"] else "NO"
        return (
            f"<p><strong>Fits: {said}.</strong> {html.escape(found['says'])}</p>{drawn}"
            + table(rows, f"The worst moment: {found['moment']}")
            + "<p>Counted with AdamW, adapters in 32 bit and every position scored at once; an "
            "estimate, not a measurement on this card.</p>"
        )

    values = {"model": "Llama-2-7B", "method": "lora", "rank": 16, "batch": 4, "length": 512}
    values |= {"checkpointing": True, "card": "T4"} | start
    wide = {"continuous_update": False}
    controls = {
        "model": ipywidgets.Dropdown(options=list(memory.SHAPES), description="Model:"),
        "method": ipywidgets.Dropdown(options=memory.METHODS, description="Method:"),
        "rank": ipywidgets.SelectionSlider(options=RANKS, description="Rank:", **wide),
        "batch": ipywidgets.IntSlider(min=1, max=32, description="Batch:", **wide),
        "length": ipywidgets.SelectionSlider(options=LENGTHS, description="Tokens a row:", **wide),
        "checkpointing": ipywidgets.Checkbox(description="Gradient checkpointing", indent=False),
        "card": ipywidgets.Dropdown(options=list(memory.CARDS), description="Card:"),
    }
    for name, control in controls.items():
        control.value = values[name]
    return Panel("Does it fit?", controls, show)

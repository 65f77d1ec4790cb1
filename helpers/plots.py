"""The workshop's figures: each takes an ``ax``, returns it, and prints in a sentence what it shows.

Colours are matplotlib's ``petroff10`` (made for colour-blind readers); a marker, hatch or label always says the same.
"""

from __future__ import annotations

import numpy as np

MARKERS = "osD^vPX*"
ROLE_STYLE = {"system": "#8a8a8a", "user": "#3f90da", "assistant": "#bd1f01", "template": "#c9b458"}


def use_style() -> None:
    """The workshop's look: call once in a lesson."""
    import matplotlib.pyplot as plt

    plt.style.use("petroff10")
    plt.rcParams.update(
        {
            "figure.figsize": (7.5, 3.6),
            "figure.dpi": 100,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.axisbelow": True,
            "font.size": 10,
        }
    )


def _ax(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def road(ax=None):
    """The road of the workshop: what each rung changes and what it costs (lesson 00, section 0.2)."""
    ax = _ax(ax)
    stops = (
        ("prompt", "change the\nquestion", "no training;\nlong prompts"),
        ("retrieve", "add the right\npage", "an index;\nlonger prompts"),
        ("fine-tune", "change the\nweights", "a training run;\nshort prompts"),
        ("both", "page and\nweights", "measure it:\nlesson 04"),
    )
    ax.set(xlim=(-0.6, len(stops) - 0.4), ylim=(-1.3, 1.2))
    ax.axis("off")
    for i, (name, what, price) in enumerate(stops):
        box = {"boxstyle": "round,pad=0.5", "fc": f"C{i}", "ec": "none", "alpha": 0.45}
        ax.text(
            i, 0.45, name, ha="center", va="center", bbox=box, color="black", weight="bold", size=12
        )
        ax.text(i, -0.15, what, ha="center", va="center")
        ax.text(i, -0.85, price, ha="center", va="center", color="0.35", style="italic")
        if i:
            arrow = {"arrowstyle": "->", "lw": 1.6, "color": "0.4"}
            ax.annotate("", (i - 0.32, 0.45), (i - 0.68, 0.45), arrowprops=arrow)
    print("The road has four stops: " + ", ".join(name for name, *_ in stops) + ".")
    return ax


def rates(values: dict[str, dict[str, float]], ax=None, xlabel: str = "share of tickets (%)"):
    """Horizontal points with 95 % intervals: ``{name: {"value", "low", "high"}}``, first name on top."""
    ax = _ax(ax)
    for i, rate in enumerate(values.values()):
        value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
        ax.plot([low, high], [i, i], color=f"C{i % 10}", lw=2.5, alpha=0.6)
        ax.plot(value, i, MARKERS[i % len(MARKERS)], color=f"C{i % 10}", ms=8)
        ax.annotate(
            f"{value:.{int(99 < value < 100)}f} %",
            (high, i),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    ax.set_yticks(range(len(values)), list(values))
    ax.invert_yaxis()
    ax.set(xlim=(-2, 108), xlabel=xlabel + ", line: 95 % interval")
    best = max(values, key=lambda name: values[name]["value"])
    worst = min(values, key=lambda name: values[name]["value"])
    if values[best]["value"] == values[worst]["value"]:
        print(f"All {len(values)} are at {values[best]['value']:.1%}.")
        return ax
    print(
        f"Highest is {best} with {values[best]['value']:.1%} "
        f"({values[best]['low']:.0%} to {values[best]['high']:.0%}), "
        f"lowest {worst} with {values[worst]['value']:.1%}."
    )
    return ax


def lines(
    series: dict[str, tuple],
    xlabel: str,
    ylabel: str,
    ax=None,
    bands: dict[str, tuple] | None = None,
):
    """Lines with markers: ``{name: (x, y)}``; ``bands`` may give (low, high) for a name.

    The printed sentence gives the first line's x; a line that ends elsewhere says where.
    """
    ax = _ax(ax)
    for i, (name, (x, y)) in enumerate(series.items()):
        ax.plot(
            x,
            y,
            marker=MARKERS[i % len(MARKERS)],
            ls=("-", "--", ":", "-.")[i % 4],
            color=f"C{i}",
            label=name,
        )
        if bands and name in bands:
            ax.fill_between(x, *bands[name], color=f"C{i}", alpha=0.15, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1:
        ax.legend(frameon=False)
    first, _ = next(iter(series.values()))
    ends = []
    for name, (x, y) in series.items():
        elsewhere = "" if x[-1] == first[-1] else f" (at {x[-1]})"
        ends.append(f"{name} {y[0]:,.4g} to {y[-1]:,.4g}{elsewhere}")
    print(f"{ylabel}, from {xlabel} {first[0]} to {first[-1]}: {', '.join(ends)}.")
    return ax


def loss_curves(history: list[dict], ax=None):
    """Training loss a logging step and validation loss at each evaluation, from ``trainer.state.log_history``."""
    train = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    valid = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    ax = _ax(ax)
    if train:
        ax.plot(*zip(*train), color="C0", lw=1.5, label="training")
    if valid:
        ax.plot(*zip(*valid), "s--", color="C1", ms=7, label="validation")
    ax.set(xlabel="optimiser step", ylabel="loss per completion token (nats)", ylim=(0, None))
    ax.legend(frameon=False)
    if train and valid:
        print(
            f"Training loss falls from {train[0][1]:.2f} to {train[-1][1]:.2f}; "
            f"validation loss ends at {valid[-1][1]:.2f}."
        )
    return ax


def tokens(pieces: list[str], roles: list[str], in_loss: list[bool], ax=None, per_line: int = 16):
    """One row's tokens, coloured by role; a token that carries loss is bold with a frame (lesson 03, section 3.6)."""
    ax = _ax(ax)
    rows = -(-len(pieces) // per_line)
    ax.figure.set_size_inches(10, 0.36 * rows + 0.7)
    ax.set(xlim=(0, per_line), ylim=(rows + 0.2, -0.9))
    ax.axis("off")
    ax.grid(False)
    for i, (piece, role, loss) in enumerate(zip(pieces, roles, in_loss)):
        x, y = i % per_line + 0.5, i // per_line + 0.5
        shown = piece.replace("\n", "\\n").replace(" ", "\u00b7").replace("$", r"\$")
        box = {"fc": ROLE_STYLE[role], "ec": "black" if loss else "none", "lw": 1.4, "pad": 2.0}
        box["alpha"] = 0.85 if loss else 0.28
        ax.text(
            *(x, y, shown),
            **{"ha": "center", "va": "center", "size": 7.5, "family": "monospace", "bbox": box},
            color="black" if role == "template" or not loss else "white",
            weight="bold" if loss else "normal",
        )
    for i, (role, colour) in enumerate(ROLE_STYLE.items()):
        ax.text(2.2 * i, -0.55, f"\u25a0 {role}", color=colour, size=10, weight="bold")
    ax.text(9.2, -0.55, "framed and bold: carries loss", size=10)
    print(f"{sum(in_loss)} of {len(pieces)} tokens carry loss.")
    return ax


def histogram(groups: dict[str, list[float]], xlabel: str, ax=None, bins: int = 30):
    """Outlined histograms of several groups, each with its median named in the legend."""
    ax = _ax(ax)
    edges = np.histogram_bin_edges(
        np.concatenate([np.asarray(v) for v in groups.values()]), bins=bins
    )
    for i, (name, values) in enumerate(groups.items()):
        label = f"{name}, median {np.median(values):.0f}"
        style = ("-", "--", ":", "-.")[i % 4]
        ax.hist(
            values,
            edges,
            density=True,
            histtype="step",
            ls=style,
            lw=1.8,
            color=f"C{i}",
            label=label,
        )
    ax.set(xlabel=xlabel, ylabel="density")
    ax.legend(frameon=False)
    print(
        "; ".join(
            f"{n}: median {np.median(v):.0f}, highest {max(v):.0f}" for n, v in groups.items()
        )
        + "."
    )
    return ax


def bars(values: dict[str, float], ylabel: str, ax=None, fmt: str = "{:.0f}"):
    """Plain bars with their values written on them."""
    ax = _ax(ax)
    drawn = ax.bar(
        range(len(values)), list(values.values()), color=[f"C{i % 10}" for i in range(len(values))]
    )
    ax.bar_label(drawn, [fmt.format(v) for v in values.values()], padding=2)
    ax.set_xticks(range(len(values)), list(values), rotation=0 if len(values) < 8 else 40)
    ax.set(ylabel=ylabel)
    top = max(values, key=values.get)
    print(f"Highest is {top} with {fmt.format(values[top])}, of {len(values)} bars ({ylabel}).")
    return ax


def what_fits(needs: dict[str, dict[str, float]], cards: dict[str, float], ax=None):
    """What fits where: ``{model: {method: GB}}`` as points on a log scale, each card's memory as a line.

    A method has its colour and its marker; a model's name stands on the axis, and a point is filled where the smallest of ``cards``
    (``{name: GB}``) holds it with a tenth to spare for driver and allocator, hollow where it does not.
    """
    ax = _ax(ax)
    smallest = min(cards, key=cards.get)
    methods = list(next(iter(needs.values())))
    for i, method in enumerate(methods):
        for x, model in enumerate(needs):
            gb = needs[model][method]
            fits = gb <= 0.9 * cards[smallest]
            ax.plot(
                *(x + (i - (len(methods) - 1) / 2) * 0.22, gb, MARKERS[i]),
                **{"color": f"C{i}", "ms": 8, "fillstyle": "full" if fits else "none", "mew": 1.6},
                label=method if x == 0 else None,
            )
    for i, (name, gb) in enumerate(cards.items()):
        ax.axhline(gb, color="0.35", lw=1.1, ls=("-", "--", ":", "-.")[i % 4])
        ax.annotate(name, (len(needs) - 0.45, gb), xytext=(0, 2), textcoords="offset points")
    ax.set_yscale("log")
    ax.set_xticks(range(len(needs)), list(needs), rotation=0 if len(needs) < 6 else 20)
    low, high = ax.get_ylim()
    ticks = [t * 10**e for e in range(-3, 4) for t in (1, 2, 5) if low <= t * 10**e <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(ylabel="peak memory of a step (GB)", xlim=(-0.5, len(needs) + 0.3))
    title = f"filled: fits {smallest}, hollow: does not"
    ax.legend(
        frameon=False, ncols=len(methods), loc="lower left", bbox_to_anchor=(0, 1), title=title
    )
    largest = {
        card: [
            f"{method} {fitting[-1]}"
            for method in methods
            if (fitting := [model for model in needs if needs[model][method] <= 0.9 * gb])
        ]
        for card, gb in cards.items()
    }
    said = [f"{card}: {', '.join(found) or 'none'}" for card, found in largest.items()]
    print("The last of these models that fits, with a tenth to spare. " + "; ".join(said) + ".")
    return ax


def confusion(gold: list[str], said: list[str], labels: list[str], ax=None):
    """A confusion matrix with counts; rows are right labels, columns what the model said."""
    from sklearn.metrics import ConfusionMatrixDisplay

    ax = _ax(ax)
    ax.figure.set_size_inches(7.5, 6.2)
    ax.grid(False)
    if not gold:
        ax.set_axis_off()
        print("There is no label to compare: not one reply parses.")
        return ax
    ConfusionMatrixDisplay.from_predictions(
        gold, said, labels=labels, ax=ax, cmap="Blues", colorbar=False, xticks_rotation=45
    )
    ax.set(xlabel="said", ylabel="right")
    wrong: dict[tuple[str, str], int] = {}
    for a, b in zip(gold, said):
        if a != b:
            wrong[a, b] = wrong.get((a, b), 0) + 1
    if wrong:
        (a, b), count = max(wrong.items(), key=lambda item: item[1])
        print(
            f"{sum(wrong.values())} of {len(gold)} labels are wrong; most often {a} is taken for {b} ({count} times)."
        )
    else:
        print(f"All {len(gold)} labels are right.")
    return ax


def matrix(values: np.ndarray, title: str, ax=None):
    """A matrix drawn as colours, red below and blue above zero, with its shape in the title (lesson 04, section 4.2)."""
    ax = _ax(ax)
    limit = float(np.abs(values).max()) or 1.0
    ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.set_title(f"{title}: {values.shape[0]} x {values.shape[1]}", size=10)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    return ax


def stacked(parts: dict[str, dict[str, float]], xlabel: str, ax=None):
    """One horizontal bar for each name, first on top, made of its parts in order: ``{name: {part: value}}``; hatches tell the parts."""
    ax = _ax(ax)
    names, starts = list(parts), np.zeros(len(parts))
    for i, part in enumerate(parts[names[0]]):
        widths = np.array([max(0.0, parts[name][part]) for name in names])
        hatch = ("", "//", "..", "xx", "--")[i % 5]
        ax.barh(names, widths, left=starts, color=f"C{i}", hatch=hatch, edgecolor="w", label=part)
        starts += widths
    for name, total in zip(names, starts):
        ax.annotate(
            f"{total:.2f}", (total, name), xytext=(5, 0), textcoords="offset points", va="center"
        )
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, xlim=(0, 1.12 * starts.max()))
    ax.legend(
        frameon=False, ncols=len(parts[names[0]]), loc="lower center", bbox_to_anchor=(0.5, 1)
    )
    slow, quick = names[int(starts.argmax())], names[int(starts.argmin())]
    largest = max(parts[slow], key=parts[slow].get)
    print(
        f"{slow} takes {starts.max() / starts.min():.1f} times as long as {quick}; most of it is {largest}."
    )
    return ax

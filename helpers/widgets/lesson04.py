"""Lesson 04: the LoRA explorer, a face on ``lora_size``, and the panel that follows a training run."""

from __future__ import annotations

import html
import signal
import threading
import time
from collections import deque

from transformers import TrainerCallback

from helpers.widgets.base import STYLE, Panel, bundle, picture, table


def lora_size(
    model, rank: int, targets: list[str], first_layer: int = 0, bytes_each: int | None = None
) -> list[dict]:
    """What LoRA adds to the layers from ``first_layer`` on: a row for each kind of target, and their sum (section 4.2).

    A matrix of shape (out, in) gets rank x (out + in) numbers (Hu et al. 2021, section 4). ``MB`` is 10^6 bytes at ``bytes_each`` a number (None: as
    the model's), ``share %`` is of all the model's numbers. Raises ValueError for a rank below 1 or a target that is not there.
    """
    if rank < 1:
        raise ValueError(f"the rank is {rank}; 1 or more")
    if not targets:
        raise ValueError("no target is chosen; tick at least one matrix")
    kinds: dict[str, list] = {name: [] for name in targets}
    for layer in model.model.layers[first_layer:]:
        for name, module in layer.named_modules():
            if name.split(".")[-1] in kinds:
                kinds[name.split(".")[-1]].append((module.out_features, module.in_features))
    if missing := [name for name, found in kinds.items() if not found]:
        layers = len(model.model.layers)
        raise ValueError(f"no {', '.join(missing)} in layers {first_layer} to {layers - 1}")
    total = model.num_parameters()
    bytes_each = bytes_each or next(model.parameters()).element_size()
    rows = []
    for name, found in kinds.items():
        count = sum(rank * sum(sides) for sides in found)
        shape = "x".join(map(str, found[0]))
        rows.append({"target": name, "shape": shape, "layers": len(found), "parameters": count})
    count = sum(row["parameters"] for row in rows)
    rows.append({"target": "all", "shape": "", "layers": "", "parameters": count})
    return [
        row
        | {
            "MB": round(row["parameters"] * bytes_each / 1e6, 2),
            "share %": round(100 * row["parameters"] / total, 3),
        }
        for row in rows
    ]


def draw_product(rank: int, out: int, width: int):
    """A figure of B (out, rank), A (rank, width) and their product, with made-up numbers."""
    import numpy as np
    from matplotlib.figure import Figure

    from helpers.plots import matrix

    rng = np.random.default_rng(0)
    b, a = rng.normal(size=(out, rank)), rng.normal(size=(rank, width))
    figure = Figure(figsize=(7, 2.4), dpi=70, layout="constrained")
    for ax, values, name in zip(figure.subplots(1, 3), (b, a, b @ a), ("B", "A", "B A")):
        matrix(values, name, ax)
    return figure


def lora_explorer(
    model, rank: int = 16, first_layer: int = 0, bytes_each: int | None = None
) -> Panel:
    """Rank, targets and first layer -> parameters, megabytes and share; the product of the first target is drawn."""
    import ipywidgets

    names = list(
        dict.fromkeys(
            name.split(".")[-1]
            for name, module in model.model.layers[0].named_modules()
            if getattr(module, "weight", None) is not None and module.weight.ndim == 2
        )
    )

    def show(rank: int, first_layer: int, **ticked: bool) -> str:
        chosen = [name for name in names if ticked[name]]
        rows = lora_size(model, rank, chosen, first_layer, bytes_each)
        out, width = map(int, rows[0]["shape"].split("x"))
        says = (
            f"B of shape {out} x {rank} times A of shape {rank} x {width} gives a change of shape "
            f"{out} x {width} for {rows[0]['target']}: {out * width:,} numbers made of {rank * (out + width):,}"
        )
        drawn = picture(draw_product(rank, out, width), says)
        total = {row["target"]: f"{row['parameters']:,}" for row in rows}
        shown = [row | {"parameters": total[row["target"]]} for row in rows]
        return table(shown, f"LoRA of rank {rank}") + f"<p>{says}.</p>{drawn}"

    number = ipywidgets.Layout(width="10em")
    controls = {
        "rank": ipywidgets.BoundedIntText(rank, min=1, max=256, description="Rank:", layout=number),
        "first_layer": ipywidgets.BoundedIntText(
            *(first_layer, 0, len(model.model.layers) - 1),
            **{"description": "First layer:", "layout": ipywidgets.Layout(width="11em")},
        ),
    }
    for name in names:
        controls[name] = ipywidgets.Checkbox(
            True, description=name, indent=False, layout=ipywidgets.Layout(width="auto")
        )
    return Panel("LoRA explorer", controls, show)


class LivePanel(TrainerCallback):
    """Follows a run: losses, tokens/s, time left, sample replies, and a button that stops the run and keeps the adapter.

    ``asked`` are conversations answered every ``sample_every`` steps (0: never). The button needs a front end and a kernel that
    deliver clicks while a cell runs (JupyterLab from 4.4 on with ipykernel 7: "subshells"). The kernel's own interrupt does the same
    everywhere: the step is finished, ``train()`` returns, ``stopped`` is True; a second one ends the run at once. Introduced in
    lesson 04, section 4.6.
    """

    def __init__(self, asked: list[list[dict]] = (), sample_every: int = 0):
        import ipywidgets

        self.asked, self.sample_every, self.stopped = list(asked), sample_every, False
        self.title, self.status, self.figure, self.samples = (ipywidgets.HTML() for _ in range(4))
        self.title.value = f"{STYLE}<strong>Training</strong>"
        self.stop = ipywidgets.Button(
            description="Stop, keep the adapter", layout=ipywidgets.Layout(width="auto")
        )
        self.stop.on_click(lambda _: self.ask_to_stop())
        self.box = ipywidgets.VBox(
            [self.title, self.stop, self.status, self.figure, self.samples]
        ).add_class("bramble")
        self._asked_to_stop, self._handler, self._said = threading.Event(), None, []

    def ask_to_stop(self) -> None:
        """End the run after the step in progress."""
        self._asked_to_stop.set()
        self._say("Stopping after this step ...")

    def _say(self, text: str) -> None:
        self.status.value = f'<div role="status">{html.escape(text)}</div>'

    def _interrupted(self, number, frame) -> None:
        if self._asked_to_stop.is_set():  # asked twice: now
            raise KeyboardInterrupt
        self.ask_to_stop()

    def on_train_begin(self, args, state, control, **kwargs):
        from IPython.display import display

        self._asked_to_stop.clear()
        self.stopped, self._steps, self._seconds = False, deque(maxlen=20), 0.0
        self._tokens, self._speed = (0, 0.0), None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupted)
        self._say("The first step may take half a minute. Interrupting the kernel stops well, too.")
        self._output = display(self, display_id=True)
        # ipykernel sends a click to where the button was made, and the cell that made it is busy now:
        # forget that, and the click goes to the front end's own subshell
        self.stop.comm.__dict__.pop("_reply_subshell_id", None)

    def on_step_begin(self, args, state, control, **kwargs):
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self._steps.append(time.perf_counter() - self._started)
        self._seconds += self._steps[-1]
        left = sum(self._steps) / len(self._steps) * (state.max_steps - state.global_step)
        speed = f", {self._speed:.0f} tokens/s" if self._speed else ""
        if self._asked_to_stop.is_set():
            control.should_training_stop = True
            self.stopped = state.global_step < state.max_steps
            control.should_log = True  # so that the record has the losses of the last step
            control.should_evaluate |= args.eval_strategy != "no"
        else:
            self._say(f"Step {state.global_step} of {state.max_steps}{speed}, {left:.0f} s left")
        if self.sample_every and state.global_step % self.sample_every == 0:
            self._sample(state.global_step, kwargs["model"], kwargs["processing_class"])

    def on_log(self, args, state, control, logs=None, **kwargs):
        tokens, seconds = self._tokens
        if logs and "loss" in logs and "num_tokens" in logs:
            if tokens and self._seconds > seconds:
                self._speed = (logs["num_tokens"] - tokens) / (self._seconds - seconds)
            self._tokens = (logs["num_tokens"], self._seconds)
        if any("loss" in entry for entry in state.log_history):
            self.figure.value = loss_picture(state.log_history)

    def on_train_end(self, args, state, control, **kwargs):
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None
        how = "Stopped by hand" if self.stopped else "Done"
        speed = f", {self._speed:.0f} tokens/s at the end" if self._speed else ""
        self._say(f"{how} at step {state.global_step} of {state.max_steps}{speed}.")
        self.stop.disabled = True
        if self._output is not None:
            self._output.update(self)

    def _sample(self, step: int, model, tokenizer) -> None:
        import torch

        from helpers.generation import generate

        model.eval()
        try:
            with torch.compiler.set_stance("force_eager"):
                replies = generate(model, tokenizer, self.asked, max_new_tokens=80)
        finally:
            model.train()
        for turns, reply in zip(self.asked, replies):
            ticket = turns[-1]["content"].rpartition("Ticket: ")[2]
            self._said.append({"step": step, "ticket": ticket, "reply": reply.text})
        told, caption = self._said[::-1], "Sample replies, newest first"
        if len(self.asked) == 1:  # one ticket: said once, not beside each reply
            caption = f'Sample replies to "{told[0]["ticket"]}", newest first'
            told = [{key: line[key] for key in ("step", "reply")} for line in told]
        self.samples.value = table(told, caption)

    def static(self) -> str:
        """The run so far, as HTML without any control."""
        parts = (self.status.value, self.figure.value, self.samples.value)
        return f'{STYLE}<div class="bramble-html"><p><strong>Training</strong></p>{"".join(parts)}</div>'

    def _repr_mimebundle_(self, **_) -> dict:
        return bundle(self.box, self.static())


def loss_picture(history: list[dict]) -> str:
    """The loss curves of a run so far as an HTML image, and the newest figures in a sentence."""
    import contextlib
    import io

    from matplotlib.figure import Figure

    from helpers.plots import loss_curves

    figure = Figure(figsize=(6, 3.2), dpi=80, layout="constrained")
    with contextlib.redirect_stdout(io.StringIO()):
        loss_curves(history, figure.subplots())
    ends = {
        name: next((entry[key] for entry in reversed(history) if key in entry), None)
        for name, key in (("training", "loss"), ("validation", "eval_loss"))
    }
    says = ", ".join(f"{name} loss {v:.3f}" for name, v in ends.items() if v is not None)
    return f"<p>Newest: {says}.</p>{picture(figure, f'Loss curves: {says}')}"

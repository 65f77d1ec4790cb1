"""What all widgets share: labelled controls, a status line, errors as text, and a static picture without a front end."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Callable

VIEW = "application/vnd.jupyter.widget-view+json"
# Text keeps the theme's own colour (light or dark); what is marked is also bold, framed or said in words.
STYLE = """<style>
.bramble, .bramble .widget-html-content, .bramble-html { line-height: 1.45; }
.bramble table, .bramble-html table { border-collapse: collapse; margin: .4em 0; }
.bramble caption, .bramble-html caption { text-align: left; font-weight: bold; caption-side: top; }
.bramble th, .bramble td, .bramble-html th, .bramble-html td {
  border: 1px solid var(--jp-border-color0, #767676); padding: .15em .6em;
  text-align: left; vertical-align: top; white-space: normal; }
.bramble pre, .bramble-html pre { white-space: pre-wrap; border-left: 3px solid currentColor;
  padding-left: .8em; background: none; color: inherit; }
.bramble .loss, .bramble-html .loss { font-weight: bold; outline: 1px solid currentColor; }
.bramble .token, .bramble-html .token { font-family: monospace; padding: 0 2px; margin: 1px;
  display: inline-block; border-bottom: 1px dotted currentColor; }
.bramble img, .bramble-html img { max-width: 100%; background: white; }
.bramble .widget-label, .bramble .widget-html, .bramble .widget-html-content {
  color: var(--jp-content-font-color1, inherit); }
.bramble .widget-box, .bramble .widget-inline-hbox { overflow: visible; }
.bramble button:focus-visible, .bramble input:focus-visible, .bramble select:focus-visible,
.bramble textarea:focus-visible, .bramble summary:focus-visible,
.bramble [role=slider]:focus-visible, .bramble [contenteditable]:focus-visible {
  outline: 3px solid var(--jp-content-font-color1, currentColor) !important; outline-offset: 2px; }
</style>"""


class Stopped(Exception):
    """Raised inside a long action once its Stop button was pressed."""


def table(rows: list[dict], caption: str = "") -> str:
    """Rows as an HTML table with headed columns; every value is escaped."""
    if not rows:
        return f"<p>{html.escape(caption)}: nothing.</p>" if caption else "<p>nothing</p>"
    head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(figure, says: str) -> str:
    """A matplotlib figure as an HTML image whose alternative text is ``says``; 32 colours keep it small."""
    import base64
    import io

    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    Image.open(drawn).convert("RGB").quantize(32).save(small, format="png", optimize=True)
    code = base64.b64encode(small.getvalue()).decode()
    return f'<img alt="{html.escape(says)}" src="data:image/png;base64,{code}">'


def inline(markup: str) -> str:
    """The same with what a reader needs of ``STYLE`` at each element: a restored notebook drops style sheets and keeps these."""
    markup = re.sub(r"<(th|td|caption)(?=[ >])", r'<\1 style="text-align: left"', markup)
    return markup.replace('class="token loss"', 'class="token loss" style="border: 1px solid"')


def as_text(markup: str) -> str:
    """HTML as plain text: a line for a row or paragraph, cells apart by a bar, an image by its alternative text."""
    markup = re.sub(r"<style>.*?</style>", "", markup, flags=re.S)
    markup = re.sub(r'<img alt="([^"]*)"[^>]*>', r"\1\n", markup)
    markup = re.sub(r"</t[hd]><t[hd][^>]*>", " | ", markup)
    markup = re.sub(r"</(?:p|tr|pre|caption|div|summary)>", "\n", markup)
    return html.unescape(re.sub(r"<[^>]+>", "", markup)).strip()


class Panel:
    """Controls, a status line and a result; in a saved notebook only the result, as HTML.

    ``show(**values)`` gets the controls' values by name and returns the result as HTML. Without ``run`` it is called at
    once and at every change. With ``run`` (a button's label) it is called on a click only, in a thread of its own, with one argument more: ``tell``,
    to be called with what is going on, which raises ``Stopped`` after a press of the Stop button. ``first`` is the result before any click.
    A second click while it works changes nothing, and an exception is shown as text in the panel.
    """

    def __init__(
        self,
        title: str,
        controls: dict,
        show: Callable[..., str],
        run: str | None = None,
        first: str = "",
        buttons: tuple = (),
    ):
        import ipywidgets

        self.title, self.controls, self.show = title, controls, show
        self.status, self.result = ipywidgets.HTML(), ipywidgets.HTML(value=first)
        self._busy, self._stopping, self._thread = threading.Lock(), threading.Event(), None
        for control in controls.values():
            control.style.description_width = "initial"
        self.buttons = list(buttons)
        if run:
            self.run = ipywidgets.Button(description=run, tooltip=f"{title}: {run}")
            self.stop = ipywidgets.Button(description="Stop", tooltip=f"{title}: stop")
            self.run.on_click(self._start)
            self.stop.on_click(self._end)
            self.buttons += [self.run, self.stop]
        else:
            for control in controls.values():
                control.observe(self.refresh, "value")
        head = ipywidgets.HTML(f"{STYLE}<strong>{html.escape(title)}</strong>")
        flow = ipywidgets.Layout(flex_flow="row wrap")
        rows = [ipywidgets.HBox([*controls.values()], layout=flow)]
        rows += [ipywidgets.HBox(self.buttons, layout=flow)] if self.buttons else []
        self.box = ipywidgets.VBox([head, *rows, self.status, self.result])
        self.box.add_class("bramble")
        if not run:
            self.refresh()

    def values(self) -> dict:
        """The controls' values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def say(self, text: str) -> None:
        """Put a sentence into the status line."""
        self.status.value = f'<div role="status">{html.escape(text)}</div>'

    def refresh(self, _=None) -> None:
        """Show the result for the controls as they are."""
        with self._busy:
            self._attempt(lambda: self.show(**self.values()))

    def wait(self, timeout: float | None = None) -> None:
        """Wait until a started action has ended."""
        if self._thread:
            self._thread.join(timeout)

    def _attempt(self, work: Callable[[], str]) -> None:
        try:
            self.result.value = work()
            self.say("")
        except Stopped:
            self.say("Stopped. Nothing was kept of this try.")
        except Exception as error:
            said = html.escape(str(error).strip() or "no reason given")
            self.result.value = ""
            self.status.value = (
                f'<div role="alert"><strong>Error</strong> ({type(error).__name__}): {said}</div>'
            )

    def _start(self, _=None) -> None:
        if not self._busy.acquire(blocking=False):
            return  # the status line says what is going on
        self._stopping.clear()
        self.say("Started.")
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._attempt(lambda: self.show(tell=self._tell, **self.values()))
        finally:
            self._busy.release()

    def _tell(self, text: str) -> None:
        if self._stopping.is_set():
            raise Stopped
        self.say(text)

    def _end(self, _=None) -> None:
        if self._busy.locked():
            self._stopping.set()
            self.say("Stopping ...")
        else:
            self.say("Nothing is running.")

    def static(self) -> str:
        """The panel as it stands, as HTML without any control."""
        shown = "; ".join(
            f"{control.description} {str(control.value)[:60]}"
            for control in self.controls.values()
            if control.description and not isinstance(control.value, dict)
        )
        parts = [f"<p><strong>{html.escape(self.title)}</strong></p>", self.status.value]
        parts += [self.result.value, f"<p>Shown for: {html.escape(shown)}.</p>" if shown else ""]
        return f'{STYLE}<div class="bramble-html">{inline("".join(parts))}</div>'

    def _repr_mimebundle_(self, **_) -> dict:
        """The live widget for a front end that has a kernel behind it, and the same as HTML for all others."""
        return bundle(self.box, self.static())


def bundle(box, static: str) -> dict:
    """One output in three forms: a front end shows the richest that it can, a saved notebook keeps the last two."""
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"text/plain": as_text(static), "text/html": static, VIEW: view}

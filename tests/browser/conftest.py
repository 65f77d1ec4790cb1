"""JupyterLab on a free port of this machine, Debian's chromium in front of it, and what a learner does there."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from helpers import models, runtime

ROOT = runtime.project_root()
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# No name leads out of this machine: what a lesson needs from outside would be seen as an error.
FLAGS = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
# A slow machine is no fault: what is waited for may take this long. Only what is seen to be wrong fails early.
WAIT_S = 240
# A test does not begin after this: where every wait runs out, the rest would only say the same, an hour long.
BUDGET_S = 900
# A fixed piece of the work that drawing is (parse, style, lay out), to tell how fast this browser draws here.
WORKOUT = """() => {
  const box = document.body.appendChild(document.createElement('div'));
  const row = '<tr><td>a <b>ticket</b></td><td>and the <code>reply</code> to it</td></tr>';
  for (let turn = 1; turn <= 10; turn++) {
    box.innerHTML = `<table style="width: ${300 + turn}px">${row.repeat(1000)}</table>`;
    box.getBoundingClientRect();
  }
  box.remove();
}"""
# Lines of the browser's console that are not about our cells, each by name.
KNOWN = {
    "the badge's picture at the top of a lesson, on a closed network": r"colab-badge\.svg",
}
# "idle" once no cell waits or runs and the last has its number; an error's text as soon as a cell shows one.
RAN = """() => {
  const failed = [...document.querySelectorAll('.jp-Notebook .jp-OutputArea-output')]
    .find(output => output.textContent.includes('Traceback (most recent call last)'));
  if (failed) return failed.textContent;
  const prompts = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputArea-prompt')]
    .map(prompt => prompt.textContent);
  return !prompts.some(text => text.includes('*')) && /\\d/.test(prompts.at(-1)) && 'idle';
}"""
# What is not drawn yet: JupyterLab attaches cells that are out of sight when it is idle, and pictures are decoded later still.
UNDRAWN = """([cells, withOutput]) => {
  const book = document.querySelector('.jp-Notebook');
  if (!book) return ['the notebook'];
  const all = selector => [...book.querySelectorAll(selector)];
  const empty = (cell, part) => !cell.querySelector(part)?.childElementCount;
  const said = cell => cell.textContent.slice(0, 80) || 'a cell without text';
  return [
    ...all('.jp-Cell').length === cells ? [] : [`${all('.jp-Cell').length} of ${cells} cells are there`],
    ...all('.jp-Cell').filter(cell => !cell.querySelector('.jp-InputArea')).map(said),
    ...all('.jp-MarkdownCell').filter(cell => empty(cell, '.jp-MarkdownOutput')).map(said),
    ...all('.jp-CodeCell').filter(cell => !empty(cell, '.jp-OutputArea-output')).length < withOutput
      ? ['outputs'] : [],
    ...all('img').filter(image => !image.complete).map(image => image.src.slice(0, 80)),
    ...book.textContent.includes('Loading widget') ? ['a widget'] : [],
  ];
}"""


def settings(folder: Path, values: dict[str, dict]) -> None:
    """Write JupyterLab's user settings, one file for each plugin."""
    for plugin, chosen in values.items():
        package, _, name = plugin.partition(":")
        path = folder / package / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(chosen))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it wants the token
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from playwright import sync_api as api

    if CHROMIUM is None:
        pytest.skip("no chromium in PATH (on Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        api.expect.set_options(timeout=1000 * WAIT_S)
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """A JupyterLab of its own: (address, token, folder with a copy of the lessons, when to stop). The user's settings and runs stay as they are."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for package in ("helpers", "benchmarks"):
        (home / package).symlink_to(ROOT / package)
    settings(
        home / "settings",
        {
            "@jupyterlab/apputils-extension:notification": {
                "fetchNews": "false",
                "checkForUpdates": False,
            },
            "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
        },
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WORKSHOP_", "JUPYTER_TOKEN"))}
    env |= {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "WORKSHOP_RUNS": str(home / "runs"),
        "WORKSHOP_MODELS": str(models.models_dir().resolve()),
        "WORKSHOP_FAST": "1",
        "HF_HUB_OFFLINE": "1",
        # as `make` sets it for a learner's JupyterLab
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
    url, log = f"http://127.0.0.1:{port}", home / "lab.log"
    with open(log, "w") as said:
        lab = subprocess.Popen(command, env=env, cwd=home, stdout=said, stderr=said)
    try:
        until = time.monotonic() + WAIT_S
        while not answers(f"{url}/api"):
            try:
                lab.wait(0.2)
            except subprocess.TimeoutExpired:
                if time.monotonic() < until:
                    continue
            pytest.fail(f"JupyterLab did not answer within {WAIT_S} s:\n{log.read_text()[-3000:]}")
        yield url, token, folder, time.monotonic() + BUDGET_S
    finally:
        lab.terminate()  # its kernels end with it
        try:
            lab.wait(20)
        except subprocess.TimeoutExpired:
            lab.kill()
            lab.wait()


class Lab:
    """A learner's JupyterLab: open a notebook, run it, write into a cell, look."""

    def __init__(self, page, url: str, token: str, folder: Path):
        self.page, self.url, self.token, self.folder = page, url, token, folder
        self.book = page.locator(".jp-Notebook")
        self.cells = self.book.locator(".jp-Cell")
        self.prompts = self.book.locator(".jp-CodeCell .jp-InputArea-prompt")
        self.problems: list[str] = []
        self._devtools = None
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))

    def _heard(self, message) -> None:
        said = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(re.search(p, said) for p in KNOWN.values()):
            self.problems.append(said)

    def write(self, name: str, *sources: str) -> str:
        """Save a notebook of these code cells among the lessons; returns its name."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, self.folder / name)
        return name

    def open(self, name: str) -> float:
        """Open a notebook by a double click in the file browser and wait until all of it is drawn.

        Returns the seconds of work that the drawing took, which stay the same while others keep the machine busy.
        """
        notebook = nbformat.read(self.folder / name, as_version=4)
        filled = sum(bool(cell.get("outputs")) for cell in notebook.cells)
        self.page.goto(f"{self.url}/lab?reset&token={self.token}")
        item = self.page.locator(".jp-DirListing-item").filter(has_text=name)
        item.wait_for()
        start, before = time.monotonic(), self.work()
        item.dblclick()
        self._draw(len(notebook.cells), filled)
        worked = self.work() - before
        print(f"{name}: drawn in {time.monotonic() - start:.1f} s, {worked:.1f} s of them work")
        return worked

    def _draw(self, cells: int, filled: int = 0) -> None:
        """Wait until everything is drawn: so many cells, at least so many of them with outputs."""
        try:
            self.page.wait_for_function(f"args => !({UNDRAWN})(args).length", arg=[cells, filled])
        except Exception as late:
            pytest.fail(f"not drawn: {self.page.evaluate(UNDRAWN, [cells, filled])} ({late})")

    def work(self) -> float:
        """Seconds of processor time that the page's main thread has spent."""
        if self._devtools is None:
            self._devtools = self.page.context.new_cdp_session(self.page)
            self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        metrics = self._devtools.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def workout(self) -> float:
        """Seconds of processor time for a fixed piece of drawing: the measure that limits are multiples of, on a slow machine and on a fast one."""
        before = self.work()
        self.page.evaluate(WORKOUT)
        took = self.work() - before
        print(f"a workout takes {took:.2f} s")
        return took

    def drawn(self) -> float:
        """Seconds from now until everything is drawn."""
        start = time.monotonic()
        self._draw(self.cells.count())
        print(f"drawn {time.monotonic() - start:.1f} s after the run")
        return time.monotonic() - start

    def menu(self, *labels: str) -> None:
        """Click through JupyterLab's menu bar: a menu, perhaps a submenu, an entry."""
        first, *rest = (re.compile(rf"^{re.escape(label)}$") for label in labels)
        self.page.locator(".lm-MenuBar-itemLabel").filter(has_text=first).click()
        for label in rest:
            self.page.locator(".lm-Menu-itemLabel").filter(has_text=label).last.click()

    def start_all(self) -> None:
        """Clear what is there, then Run > Run All Cells: what is seen from now on comes from this run."""
        self.menu("Edit", "Clear Outputs of All Cells")
        self.prompts.filter(has_text=re.compile(r"\d")).first.wait_for(state="detached")
        self.menu("Run", "Run All Cells")

    def run_all(self, wait_s: float = WAIT_S) -> None:
        """Run all cells and wait until the last one has ended, or one has failed."""
        self.start_all()
        ended = self.page.wait_for_function(RAN, timeout=1000 * wait_s).json_value()
        assert ended == "idle", ended

    def run(self, cell) -> None:
        """Click into a cell's code, run it by Ctrl+Enter, and wait for its new number."""
        prompt = cell.locator(".jp-InputArea-prompt")
        before = prompt.inner_text()
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        numbered = prompt.filter(has_text=re.compile(r"\[\d+\]:"))
        (numbered.filter(has_not_text=before) if before.strip() else numbered).wait_for()

    def panel(self, title: str):
        """The live widget of that title."""
        return self.book.locator(".bramble").filter(has_text=title)

    def shot(self, name: str) -> None:
        """Keep what is on screen as ``runs/screenshots/name.png``, also where the lessons' runs go elsewhere."""
        path = ROOT / "runs" / "screenshots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def end_kernels(self) -> None:
        head = {"Authorization": f"token {self.token}"}
        server = self.page.context.request
        for kernel in server.get(f"{self.url}/api/kernels", headers=head).json():
            server.delete(f"{self.url}/api/kernels/{kernel['id']}", headers=head)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails leaves a screenshot of where it failed."""
    report = yield
    if report.when == "call" and report.failed and "lab" in item.funcargs:
        item.funcargs["lab"].shot(f"failed_{item.name}")
    return report


@pytest.fixture
def lab(request, browser, server):
    """A fresh browser window on the test's JupyterLab; afterwards no error may stand in its console."""
    *where, until = server
    if time.monotonic() > until and "every_lesson" not in request.keywords:
        pytest.fail(f"not begun: the tests before took over {BUDGET_S} s, so something hangs")
    context = browser.new_context(viewport={"width": 1400, "height": 1600})
    context.set_default_timeout(1000 * WAIT_S)
    opened = Lab(context.new_page(), *where)
    yield opened
    problems = list(opened.problems)
    opened.end_kernels()
    context.close()
    assert not problems, "errors in the browser's console:\n" + "\n".join(problems)

"""The lessons in a real JupyterLab, as a learner sees and uses them: ``make test-browser``.

Each test waits for what is on screen, never for a time, so that a slow machine is no fault; what hangs for good ends after
``pytest.mark.timeout``. Screenshots are kept in ``runs/screenshots/``.
"""

import json
import re

import pytest

from helpers import runtime

MISSING = "playwright is not installed (make setup-browser)"
expect = pytest.importorskip("playwright.sync_api", reason=MISSING).expect
Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=MISSING).Axe
pytestmark = pytest.mark.timeout(1200)
LESSONS = sorted((runtime.project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
TALL = {"width": 1400, "height": 7000}  # axe passes over what is out of sight
DRAWN = 12  # a lesson is fully drawn within so many times the work of ``Lab.workout``
BROKEN = re.compile(
    "Error displaying widget|model not found|Loading widget|Traceback \\(most", re.I
)


# Headings, tables and pictures that a reader does not see, other than in closed details.
UNSEEN = """book => [...book.querySelectorAll('h1, h2, table, .jp-RenderedImage img')]
  .filter(e => !e.closest('details:not([open])'))
  .filter(e => !e.checkVisibility({visibilityProperty: true}) || !e.getClientRects().length
    || (e.tagName === 'IMG' && !e.naturalWidth))
  .map(e => e.outerHTML.slice(0, 200))"""


def prose(path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"```.*?```", "", text, flags=re.S)


def saved_panels(path) -> list[str]:
    """Titles of the widgets that a lesson keeps as a static picture."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    pages = [
        "".join(output.get("data", {}).get("text/html", ""))
        for cell in code
        for output in cell["outputs"]
    ]
    found = [
        re.search("<strong>(.+?)</strong>", page)[1] for page in pages if "bramble-html" in page
    ]
    assert found or not any("helpers.widgets" in "".join(cell["source"]) for cell in code)
    return found


def no_error_on_screen(lab):
    # the text in the page, not what is rendered: JupyterLab leaves out what is out of sight
    said = "\n".join(lab.book.locator(".jp-OutputArea").all_text_contents())
    assert not (found := BROKEN.search(said)), said[max(0, found.start() - 200) : found.end() + 500]


# ipywidgets writes a slider's name beside its handle and does not tie the two together: not our markup, and not to be mended from Python.
UPSTREAM = 'aria-input-field-name: <div class="noUi-handle'


def grave_faults(page, within: str = ".bramble") -> list[str]:
    """What axe-core finds inside our markup that is serious or critical: the rule, and the element."""
    # JupyterLab's body is no pixel high and clips, so that axe would take everything in it for hidden
    page.evaluate("document.body.style.height = '100vh'")
    # what is not asked for is cut to one element a rule
    options = {"resultTypes": ["violations", "passes"]}
    report = Axe().run(page, context={"include": [[within]]}, options=options).response
    read = [rule for rule in report["passes"] if rule["id"] == "color-contrast"]
    assert read and any("is hidden" not in node["any"][0]["message"] for node in read[0]["nodes"])
    grave = [fault for fault in report["violations"] if fault["impact"] in ("serious", "critical")]
    said = [f"{fault['id']}: {node['html'][:200]}" for fault in grave for node in fault["nodes"]]
    return [fault for fault in said if not fault.startswith(UPSTREAM)]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_restored_from_disk_looks_right_before_anything_is_run(lab, path):
    panels, number, text = saved_panels(path), path.name[:2], prose(path)
    tries = (lab.open(path.name) <= DRAWN * lab.workout() for _ in range(2))
    assert any(tries)
    lab.shot(f"{number}_restored")
    no_error_on_screen(lab)

    markdown = lab.book.locator(".jp-MarkdownCell")
    titles = re.findall(r"^##? (.+)$", text, flags=re.M)
    expect(markdown.locator("h1, h2")).to_contain_text([re.sub("[`*]", "", t) for t in titles])
    tables = re.findall(r"^\|[ :|-]+\|$", text, flags=re.M)
    expect(markdown.locator("table")).to_have_count(len(tables))
    unseen = lab.book.evaluate(UNSEEN)
    assert not unseen, unseen

    saved = lab.book.locator(".bramble-html")
    expect(saved).to_have_count(len(panels))
    for i, title in enumerate(panels):
        saved.nth(i).evaluate("panel => panel.scrollIntoView()")
        expect(saved.nth(i)).to_contain_text(title, use_inner_text=True)
        assert "border-collapse" not in saved.nth(i).inner_text()  # its style is no text
        lab.shot(f"{number}_restored_{title.split()[0].lower()}")
    if panels:
        lab.page.set_viewport_size(TALL)
        assert not (found := grave_faults(lab.page, ".bramble-html")), "\n".join(found)
    expect(lab.prompts.filter(has_text="*")).to_have_count(0)


def answer(lab, stub, line: str):
    """Write a line in place of the stub's ``return``, as a learner does, and run the cell; returns its output."""
    old = stub.locator(".cm-line").filter(has_text=re.compile(r"^\s*return "))
    old.scroll_into_view_if_needed()
    old.click()
    lab.page.keyboard.press("Home")
    lab.page.keyboard.press("Shift+End")
    lab.page.keyboard.insert_text(line)
    expect(stub.locator(".cm-content")).to_contain_text(line)
    lab.run(stub)
    return stub.locator(".jp-OutputArea-output")


def test_lesson_00_runs_and_its_card_and_its_exercise_answer(lab):
    lab.open("00_start_here.ipynb")
    lab.run_all()
    assert lab.drawn() <= DRAWN * lab.workout()
    no_error_on_screen(lab)

    card = lab.panel("Which profile does a machine get?")
    expect(card.get_by_role("table")).to_contain_text("this machine")
    select = card.get_by_label("Machine:")
    select.focus()
    for key in ("Space", "ArrowDown", "Enter"):  # JupyterLab takes arrows while the list is closed
        lab.page.keyboard.press(key)
    expect(select.locator("option:checked")).to_have_text("no GPU, older CPU")
    expect(card.get_by_role("table")).to_contain_text("older laptop, 4 cores")
    card.get_by_label("WORKSHOP_PROFILE:").select_option("gpu")
    expect(card.get_by_role("alert")).to_contain_text("no CUDA device was found; use cpu")
    lab.shot("00_run_card")

    stub = lab.cells.filter(has_text='beats = check("E0.1", beats)')
    wrong = answer(lab, stub, "return right / n > rival if n else False")
    expect(wrong).to_contain_text("E0.1 not yet: beats(14, 40, 0.3) should be False")
    lab.shot("00_exercise_wrong")
    done = answer(lab, stub, "return statistics.wilson(right, n)[0] > rival")
    expect(done).to_contain_text("E0.1 done:")
    expect(done).to_contain_text("] 1 of ")
    lab.shot("00_exercise_done")


def test_lesson_03_runs_and_its_viewer_shows_another_row(lab):
    lab.open("03_data.ipynb")
    lab.run_all(wait_s=600)
    assert lab.drawn() <= DRAWN * lab.workout()
    no_error_on_screen(lab)

    viewer = lab.panel("Token and mask viewer")
    graded = viewer.locator("p").filter(has_text="tokens carry loss")
    before = graded.text_content()
    row = viewer.get_by_label("Row id:")
    row.fill("validation-002")
    row.press("Enter")
    expect(graded).not_to_have_text(before)
    row.fill("validation-9999")
    row.press("Enter")
    expect(viewer.get_by_role("alert")).to_contain_text("no row has the id 'validation-9999'")
    lab.shot("03_run_viewer")


@pytest.mark.every_lesson
@pytest.mark.parametrize(
    "path", [p for p in LESSONS if p.name[:2] not in ("00", "03")], ids=lambda path: path.stem
)
def test_a_lesson_runs_from_top_to_bottom_and_is_drawn(lab, path):
    lab.open(path.name)
    lab.run_all(wait_s=900)
    assert lab.drawn() <= DRAWN * lab.workout()
    no_error_on_screen(lab)
    expect(lab.book.locator(".bramble")).not_to_have_count(0)
    lab.book.locator(".bramble").first.evaluate("panel => panel.scrollIntoView()")
    lab.shot(f"{path.name[:2]}_run")


START = """\
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd().parent))
from helpers import data

rows = data.tickets("validation")[:6]"""
PLAYGROUND = """\
import time

import torch

from helpers import generation
from helpers.widgets.lesson01 import prompt_playground

asked = []


def generate(conversations, processors, **options):
    asked.append(conversations[0][-1]["content"])
    each_token = processors(0, [0])
    for _ in range(1_000_000 if "slowly" in asked[-1] else 3):
        time.sleep(0.1)
        each_token(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 5))
    return [generation.Reply(data.dumps(rows[0]["reply"]), 300, 60, 6.0)]


empty = {"id": "empty", "ticket": " "}
prompt_playground(generate, [*rows, empty], rows)"""


def test_the_playground_takes_a_prompt_one_click_at_a_time_and_stops(lab):
    name = lab.write("playground.ipynb", START, PLAYGROUND, "print(len(asked), asked[-1:])")
    lab.open(name)
    lab.run_all()
    panel = lab.panel("Prompt playground")
    status, own = panel.get_by_role("status"), panel.get_by_label("or your own ticket:")
    ask, count = panel.get_by_role("button", name="Ask"), lab.cells.last
    expect(panel).to_contain_text("Nothing has been asked yet")

    own.fill("Answer slowly: where is my parcel?")
    ask.dblclick()
    expect(status).to_have_text(re.compile(r"writing token \d+ of at most \d+"))
    stop = panel.get_by_role("button", name="Stop")
    stop.focus()
    lab.page.keyboard.press("Space")
    expect(status).to_have_text("Stopped. Nothing was kept of this try.")
    expect(panel).to_contain_text("Nothing has been asked yet")
    lab.run(count)
    expect(count).to_contain_text("1 ['Ticket: Answer slowly: where is my parcel?']")

    own.fill("Where is my parcel?")
    panel.get_by_label("System prompt:").fill("You are the Bramble desk.")
    ask.click()
    expect(panel).to_contain_text("Ticket: Where is my parcel?")
    expect(panel.get_by_role("table").filter(has_text="Parsed")).to_contain_text("intent")
    expect(panel).to_contain_text("Not scored")
    lab.shot("01_playground")

    own.fill("")
    panel.get_by_label("Ticket:", exact=True).select_option(index=6)
    ask.click()
    alert = panel.get_by_role("alert")
    expect(alert).to_have_text(
        "Error (ValueError): the ticket is empty; type a customer's question"
    )
    expect(panel.get_by_role("table")).to_have_count(0)


TINY = """\
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import models, runtime
from helpers.widgets import lesson04

profile = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
tokenizer = models.load_tokenizer(profile)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
shape |= {"num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(**shape))"""
TRAINER = """\
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig

from helpers import training

turns = [
    {
        "prompt": data.messages(row["ticket"], data.SHORT_PROMPT),
        "completion": [{"role": "assistant", "content": data.dumps(row["reply"])}],
    }
    for row in rows
]
panel = lesson04.LivePanel()
options = training.hardware_arguments(profile) | {"save_strategy": "no", "logging_steps": 20}
options |= {"max_steps": 100_000, "disable_tqdm": True, "per_device_train_batch_size": 2}
trainer = training.LeanSFTTrainer(
    model=model,
    args=SFTConfig(output_dir=tempfile.mkdtemp(), **options),
    train_dataset=Dataset.from_list(turns),
    processing_class=tokenizer,
    peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    callbacks=[panel],
)"""


def test_the_stop_button_ends_a_training_early_and_the_next_cell_runs(lab):
    after = 'print("stopped", panel.stopped, "early", trainer.state.global_step < 100_000)'
    lab.open(lab.write("training.ipynb", START, TINY, TRAINER, "out = trainer.train()", after))
    lab.menu("Run", "Run All Cells")
    panel = lab.panel("Training")
    status, train = panel.get_by_role("status"), lab.cells.nth(3)
    expect(status).to_have_text(re.compile(r"Step \d+ of 100000"), timeout=60_000)
    expect(panel.get_by_role("img", name="Loss curves")).to_be_visible()
    expect(train.locator(".jp-InputArea-prompt")).to_have_text("[*]:")
    lab.shot("04_training")
    panel.get_by_role("button", name="Stop, keep the adapter").click()
    expect(status).to_have_text(re.compile(r"Stopped by hand at step \d+ of 100000"))
    expect(lab.cells.last).to_contain_text("stopped True early True")
    no_error_on_screen(lab)
    assert not grave_faults(lab.page)
    lab.shot("04_training_stopped")


EVERY_WIDGET = """\
from helpers import errors, retrieval
from helpers.widgets import lesson00, lesson01, lesson02, lesson03, lesson05, lesson06, lesson07

right = [data.dumps(row["reply"]) for row in rows]
texts = {"good": right, "half": [text if i % 2 else "no" for i, text in enumerate(right)]}
wrong = {name: errors.wrong_replies(said, rows) for name, said in texts.items()}
laptop = runtime.Machine("older laptop", cores=4, memory_gb=8, fast_bf16=False)
for widget in (
    lesson00.profile_card({"laptop": laptop}),
    lesson01.prompt_playground(None, rows, rows),
    lesson02.retrieval_explorer([retrieval.BM25(data.handbook())], rows[0]["ticket"]),
    lesson03.token_viewer(tokenizer, rows),
    lesson04.lora_explorer(model, 8),
    lesson04.LivePanel(),
    lesson05.error_browser(rows, texts, "good", "half", wrong),
    lesson06.memory_sliders(),
    lesson07.decision_sheet([]),
):
    display(widget)"""
# A control inside our widgets: what it is called, and the width of the frame that the focus draws around it.
CONTROL = """e => {
  const style = getComputedStyle(e), slider = e.closest('.widget-slider');
  const label = slider?.querySelector('.widget-label') ?? e.labels?.[0] ?? e;
  const frame = style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth);
  return e.closest('.bramble') ? [label.textContent.trim(), frame] : null;
}"""


CONTROLS = "button, input, select, textarea, summary, [role=slider]"


def test_every_widget_is_reached_and_worked_by_the_keyboard_alone_and_says_what_is_wrong(lab):
    lab.open(lab.write("keyboard.ipynb", START, TINY, EVERY_WIDGET))
    lab.run_all()
    lab.drawn()
    press = lab.page.keyboard.press

    controls = lab.book.locator(".bramble").locator(CONTROLS)
    names = sorted(controls.evaluate_all(f"all => all.map({CONTROL})"))
    assert len(names) > 20 and all(name for name, _ in names)
    controls.first.focus()
    reached = []
    for _ in range(6 * len(names)):  # between two widgets the focus stops at things of JupyterLab
        press("Tab")
        if control := lab.page.evaluate(f"({CONTROL})(document.activeElement)"):
            reached.append(control)
        if {name for name, _ in names} == {name for name, _ in reached}:
            break
    assert not {name for name, _ in names} - {name for name, _ in reached}
    assert not [name for name, frame in reached if frame < 2]

    lora = lab.panel("LoRA explorer")
    lora.get_by_label("Rank:").focus()
    press("ArrowUp")
    press("Enter")
    expect(lora.get_by_role("table")).to_contain_text("LoRA of rank 9")
    boxes = lora.get_by_role("checkbox")
    for i in range(boxes.count()):
        boxes.nth(i).focus()
        press("Space")
    expect(lora.get_by_role("alert")).to_contain_text("no target is chosen; tick at least one")

    pair = lab.panel("Two methods on one ticket")
    pair.get_by_label("Show tickets:").select_option("only A right")
    expect(pair).to_contain_text("number 1 of 3 tickets of the kind: only A right")
    pair.get_by_role("button", name="Next").focus()
    press("Space")
    expect(pair).to_contain_text("number 2 of 3 tickets of the kind: only A right")
    expect(pair.get_by_role("table")).to_contain_text("WRONG")
    pair.get_by_role("button", name="Previous").focus()
    press("Enter")
    expect(pair).to_contain_text("number 1 of 3 tickets of the kind: only A right")
    pair.get_by_label("Show tickets:").select_option("all")
    pair.get_by_label("Method A:").select_option("half")
    pair.get_by_label("A wrong by:").select_option("format")
    expect(pair).to_contain_text("1 of 3 tickets of the kind: all, cause of A: format")
    expect(pair).to_contain_text("A: wrong by format")
    pair.get_by_label("A wrong on:").select_option("triage")
    expect(pair).to_contain_text("of 3 tickets of the kind: all, A wrong on triage, cause of A")

    search = lab.panel("Retrieval explorer")
    before = search.get_by_role("table").text_content()
    query = search.get_by_label("Query:")
    query.fill("flat tyre, how much")
    press("Tab")
    expect(search.get_by_role("table")).not_to_have_text(before)
    expect(search.locator("pre")).to_contain_text("flat tyre, how much")
    query.fill(" ")
    press("Tab")
    expect(search.get_by_role("alert")).to_contain_text("the query is empty")
    lab.shot("02_explorer_alert")
    no_error_on_screen(lab)


def test_a_slider_follows_the_hand_and_the_decision_sheet_its_answers(lab):
    lab.open(lab.write("sliders.ipynb", START, TINY, EVERY_WIDGET))
    lab.run_all()
    fit = lab.panel("Does it fit?")
    total = fit.get_by_role("row").filter(has_text="together")
    before = total.inner_text()
    batch = fit.locator(".widget-slider").filter(has_text="Batch:").locator(".noUi-target")
    batch.scroll_into_view_if_needed()
    box = batch.bounding_box()
    lab.page.mouse.move(*center(batch.get_by_role("slider").bounding_box()))
    lab.page.mouse.down()
    lab.page.mouse.move(box["x"] + box["width"], center(box)[1], steps=5)
    lab.page.mouse.up()
    expect(batch.get_by_role("slider")).to_have_attribute("aria-valuenow", "32.0")
    expect(total).not_to_have_text(before)
    expect(fit.get_by_role("img")).to_be_visible()
    lab.page.keyboard.press("ArrowLeft")
    expect(batch.get_by_role("slider")).to_have_attribute("aria-valuenow", "31.0")
    lab.shot("06_run_sliders")

    sheet = lab.panel("Decision sheet")
    read = sheet.get_by_role("row").filter(
        has=lab.page.get_by_role("cell", name="retrieve", exact=True)
    )
    expect(read).not_to_contain_text("ruled out")
    sheet.get_by_label("Do the answers stand in documents of yours?").select_option("no")
    expect(read).to_contain_text("ruled out")
    sheet.evaluate("panel => panel.scrollIntoView()")
    lab.shot("07_run_sheet")
    no_error_on_screen(lab)


def center(box: dict) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_no_widget_has_a_serious_accessibility_fault_in_the_dark_and_the_light_theme(lab):
    lab.page.set_viewport_size(TALL)
    lab.open(lab.write("widgets.ipynb", START, TINY, EVERY_WIDGET))
    lab.run_all()
    no_error_on_screen(lab)
    expect(lab.book.locator(".bramble")).to_have_count(9)
    for theme in ("Dark", "Light"):
        lab.menu("Settings", "Theme", f"JupyterLab {theme}")
        body = lab.page.locator("body")
        expect(body).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}")
        # its curtain lies over the page for a moment, and axe leaves out what is covered
        expect(lab.page.locator("#jupyterlab-splash")).to_have_count(0)
        expect(lab.book.locator(".bramble").first).to_be_visible()
        lab.shot(f"widgets_{theme.lower()}")
        assert not (found := grave_faults(lab.page)), f"{theme}:\n" + "\n".join(found)

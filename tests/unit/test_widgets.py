"""The widgets without a front end: their handlers are called as a click would call them, and what they show is read."""

import copy
import html
import json
import os
import re
import signal
import threading
import types
from functools import partial

import ipywidgets
import nbformat
import pytest

from helpers import data, errors, generation, lessons, models, retrieval, runtime
from helpers.widgets import lesson00, lesson01, lesson02, lesson03, lesson05
from helpers.widgets.base import VIEW, Panel, Stopped, as_text, table

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(
        runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
    )


@pytest.fixture(scope="module")
def rows():
    return data.tickets("validation")[:6]


def answering(text: str, calls: list | None = None):
    """A stand-in for ``generation.generate`` that writes one text."""

    def generate(conversations, **options):
        if calls is not None:
            calls.append((conversations, options))
        return [generation.Reply(text, 10, 5, 0.5) for _ in conversations]

    return generate


def every_widget(widget) -> list:
    return [widget] + [w for child in getattr(widget, "children", ()) for w in every_widget(child)]


def echo(word: str = "hello") -> Panel:
    return Panel("Echo", {"word": ipywidgets.Text(word, description="Word:")}, lambda word: word)


def test_a_panel_shows_its_first_result_and_follows_its_controls():
    panel = echo()
    assert panel.result.value == "hello"
    panel.controls["word"].value = "bye"
    assert panel.result.value == "bye"


def test_an_exception_is_shown_escaped_takes_the_old_result_away_and_is_forgotten_afterwards():
    def show(word):
        if word == "bad":
            raise ValueError(f"no {SCRIPT}")
        return word

    panel = Panel("Fails", {"word": ipywidgets.Text("good", description="Word:")}, show)
    panel.controls["word"].value = "bad"
    assert panel.result.value == ""
    assert "Error" in panel.status.value and "ValueError" in panel.status.value
    assert "&lt;script&gt;" in panel.status.value and "<script" not in panel.status.value
    panel.controls["word"].value = "fine"
    assert panel.result.value == "fine" and "Error" not in panel.status.value


def slow_panel():
    """A panel whose action goes on until it is let go, and the calls it made."""
    entered, go, calls = threading.Event(), threading.Event(), []

    def show(tell, word):
        calls.append(word)
        entered.set()
        go.wait(5)
        tell("half way")
        return f"said {word}"

    panel = Panel("Slow", {"word": ipywidgets.Text("a", description="Word:")}, show, run="Run")
    return panel, entered, go, calls


def test_nothing_runs_before_a_click_and_a_second_click_while_busy_does_nothing():
    panel, entered, go, calls = slow_panel()
    assert calls == []
    panel.run.click()
    assert entered.wait(5)
    panel.run.click()
    go.set()
    panel.wait(5)
    assert calls == ["a"] and panel.result.value == "said a"
    panel.run.click()
    panel.wait(5)
    assert calls == ["a", "a"]


def test_stop_ends_an_action_keeps_the_result_before_and_lets_the_next_one_run():
    panel, entered, go, calls = slow_panel()
    panel.result.value = "before"
    panel.run.click()
    assert entered.wait(5)
    panel.stop.click()
    go.set()
    panel.wait(5)
    assert panel.result.value == "before" and "Stopped" in panel.status.value
    panel.run.click()
    panel.wait(5)
    assert panel.result.value == "said a"


def test_stop_without_an_action_does_not_stop_the_next_one():
    panel, entered, go, calls = slow_panel()
    go.set()
    panel.stop.click()
    assert "Nothing is running" in panel.status.value
    panel.run.click()
    panel.wait(5)
    assert panel.result.value == "said a"


def test_an_output_has_the_live_widget_and_the_same_as_html_and_text():
    bundle = echo(SCRIPT)._repr_mimebundle_()
    assert bundle[VIEW]["model_id"]
    panel = Panel("T", {}, lambda: table([{"a": 1, "b": 2}], "both"))
    bundle = panel._repr_mimebundle_()
    assert ">1</td>" in bundle["text/html"] and "1 | 2" in bundle["text/plain"]
    assert "<" not in bundle["text/plain"] and "outline" not in bundle["text/plain"]


def test_values_are_escaped_in_tables_and_in_the_line_of_settings():
    assert "<script" not in table([{SCRIPT: SCRIPT}], SCRIPT)
    panel = Panel("T", {"x": ipywidgets.Text(SCRIPT, description="X:")}, lambda x: "fine")
    assert "<script" not in panel.static() and "&lt;script" in panel.static()


def test_a_saved_panel_reads_from_the_left_without_its_style_sheet():
    panel = Panel("T", {}, lambda: table([{"part": "x"}], "All") + '<b class="token loss">y</b>')
    saved = re.sub("<style>.*?</style>", "", panel.static(), flags=re.S)
    cells = re.findall(r"<(?:th|td|caption)\b[^>]*>", saved)
    assert len(cells) == 3 and all('style="text-align: left"' in cell for cell in cells)
    assert 'class="token loss" style="border: 1px solid"' in saved


def test_plain_text_of_html_has_no_tags_and_keeps_alternative_texts():
    text = as_text('<style>p {}</style><p>a &lt; b</p><img alt="a curve" src="data:x"><p>end</p>')
    assert text.split("\n") == ["a < b", "a curve", "end"]


def saved(panel) -> dict:
    bundle = panel._repr_mimebundle_()
    output = {"output_type": "display_data", "data": bundle, "metadata": {}}
    cell = nbformat.v4.new_code_cell("panel", execution_count=1, outputs=[output])
    return json.loads(json.dumps(nbformat.v4.new_notebook(cells=[cell])))


def test_tidy_takes_the_live_view_out_of_a_saved_widget_and_leaves_its_picture():
    kept = lessons.tidy(saved(echo()))["cells"][0]["outputs"]
    assert [sorted(output["data"]) for output in kept] == [["text/html", "text/plain"]]


def test_nbconvert_without_widget_state_shows_the_static_picture():
    from nbconvert import HTMLExporter

    notebook = nbformat.from_dict(saved(echo("a word to find")))
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    assert "a word to find" in page and "bramble-html" in page


MACHINES = {
    "laptop": runtime.Machine("older laptop", cores=4, memory_gb=8, fast_bf16=False),
    "T4": runtime.Machine("Colab", 2, 12, False, "T4", (7, 5), 15),
}


def test_the_profile_card_names_the_reason_and_shows_a_refused_override():
    panel = lesson00.profile_card(MACHINES)
    assert "no bf16 arithmetic" in panel.result.value
    panel.controls["override"].value = "gpu"
    assert "no CUDA device was found" in panel.status.value and panel.result.value == ""
    panel.controls["machine"].value = "T4"
    panel.controls["override"].value = "not set"
    assert "QLoRA" in panel.result.value


def test_the_playground_asks_once_a_click_with_the_settings_of_its_controls(rows):
    calls = []
    panel = lesson01.prompt_playground(
        answering(data.dumps(rows[1]["reply"]), calls), rows, rows[:3]
    )
    assert calls == []
    panel.controls["ticket"].value = rows[1]["id"]
    panel.controls["system"].value = "Be brief."
    panel.controls["shots"].value = 2
    panel.controls["temperature"].value = 0.7
    panel.run.click()
    panel.wait(5)
    ((asked,), options) = calls[0]
    assert len(calls) == 1 and options["temperature"] == 0.7
    assert [turn["role"] for turn in asked] == ["system", *["user", "assistant"] * 2, "user"]
    assert asked[0]["content"] == "Be brief." and rows[1]["ticket"] in asked[-1]["content"]
    text = as_text(panel.result.value)
    assert "10 | 5 | 0.5" in text and "right | right | right" in text


def test_the_playground_scores_no_ticket_of_ones_own_and_escapes_what_a_model_wrote(rows):
    panel = lesson01.prompt_playground(answering(SCRIPT), rows, rows)
    panel.controls["own"].value = f"where is my bike {SCRIPT}"
    panel.run.click()
    panel.wait(5)
    assert "Not scored" in panel.result.value and "not one JSON object" in panel.result.value
    assert "<script" not in panel.result.value


def test_the_playground_shows_what_a_failing_model_says(rows):
    def generate(conversations, **options):
        raise ValueError("exceed the window of 8192")

    panel = lesson01.prompt_playground(generate, rows, rows)
    panel.run.click()
    panel.wait(5)
    assert "exceed the window" in panel.status.value


def test_an_empty_ticket_is_refused_before_the_model_is_asked():
    calls = []
    with pytest.raises(ValueError, match="empty"):
        lesson01.try_prompt(answering("x", calls), {"ticket": " \n"})
    assert calls == []


def test_generation_draws_from_the_k_likeliest_tokens_only_and_stops_between_two(
    tiny_llama, tokenizer, rows
):
    generate = partial(generation.generate, tiny_llama(vocab_size=len(tokenizer)), tokenizer)
    options = {"system": "Hi.", "temperature": 1.5}
    greedy = lesson01.try_prompt(generate, rows[0], system="Hi.")["reply"].text
    only_one = lesson01.try_prompt(generate, rows[0], top_k=1, **options)["reply"].text
    drawn = lesson01.try_prompt(generate, rows[0], **options)["reply"].text
    assert only_one == greedy and drawn != greedy

    heard = []

    def tell(text):
        heard.append(text)
        if "token 3 of" in text:
            raise Stopped

    with pytest.raises(Stopped):
        lesson01.try_prompt(generate, rows[0], tell=tell)
    assert len(heard) == 4 and "token 3 of" in heard[-1]
    assert lesson01.try_prompt(generate, rows[0], system="Hi.")["reply"].text == greedy


@pytest.fixture(scope="module")
def bm25():
    return retrieval.BM25(data.handbook())


def test_the_retrieval_explorer_shows_scores_and_the_prompt_that_the_lesson_builds(bm25):
    query = "handling fee over the counter with the receipt"
    panel = lesson02.retrieval_explorer([bm25], query)
    panel.controls["k"].value = 2
    found = lesson02.search(query, bm25, 2)
    assert [row["policy"] for row in found["found"]][0] == "RET-2" and len(found["found"]) == 2
    assert found["prompt"].startswith("Handbook:\n[RET-2]") and found["prompt"].endswith(query)
    assert str(found["found"][0]["score"]) in panel.result.value
    assert "Handbook:\n[RET-2]" in panel.result.value


def test_no_section_found_is_said_in_the_prompt_and_in_words(bm25):
    class Unsure:
        name, threshold, sections = "unsure", 0.3, bm25.sections
        scores = staticmethod(bm25.scores)

        def p_nothing(self, tickets):
            return [0.9 for _ in tickets]

    panel = lesson02.retrieval_explorer([bm25, Unsure()], "battery in winter")
    assert "probability" not in panel.result.value
    panel.controls["method"].value = "unsure"
    assert "probability 0.90, above the threshold" in panel.result.value
    assert "nothing found" in panel.result.value


@pytest.mark.parametrize("query", ["", "  \n "])
def test_an_empty_query_is_an_error_in_the_panel(bm25, query):
    panel = lesson02.retrieval_explorer([bm25], "battery")
    panel.controls["query"].value = query
    if query != "":
        assert panel.controls["query"].value == query
    assert "the query is empty" in panel.status.value and panel.result.value == ""


@pytest.mark.parametrize("query", [SCRIPT, "the and of", "\U0001f6b2", "x" * 5000])
def test_odd_queries_are_answered_and_escaped(bm25, query):
    panel = lesson02.retrieval_explorer([bm25], query)
    assert "<script" not in panel.static()
    assert "Handbook:" in panel.result.value


def conversation(row) -> tuple[list, list]:
    completion = [{"role": "assistant", "content": data.dumps(row["reply"])}]
    return data.messages(row["ticket"], data.SHORT_PROMPT), completion


def test_graded_tokens_are_the_ids_and_the_mask_of_the_lesson(tokenizer, rows):
    prompt, completion = conversation(rows[0])
    tokens = lesson03.graded_tokens(tokenizer, prompt, completion)
    asked = generation.encode(tokenizer, prompt)
    assert [token["id"] for token in tokens][: len(asked)] == asked
    assert [token["weight"] for token in tokens] == [0] * len(asked) + [1] * (
        len(tokens) - len(asked)
    )
    assert (
        "".join(t["token"] for t in tokens if t["role"] == "assistant") == completion[0]["content"]
    )
    assert {"system", "user", "assistant", "template"} == {token["role"] for token in tokens}


UNCLOSED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% if m['role'] != 'assistant' %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_another_template_loses_the_end_of_turn_and_the_viewer_says_which_token_is_last(
    tokenizer, rows
):
    panel = lesson03.token_viewer(tokenizer, rows, {"never closed": UNCLOSED})
    text = as_text(panel.result.value)
    assert "The last one is '\\n', loss weight 1" in text
    panel.buttons[0].value = UNCLOSED
    assert panel.controls["template"].value == UNCLOSED
    assert "'\"}', loss weight 1" in as_text(panel.result.value)


def test_a_template_that_asks_otherwise_than_it_trains_is_refused(tokenizer, rows):
    panel = lesson03.token_viewer(tokenizer, rows)
    panel.controls["template"].value = UNCLOSED.replace("assistant\n' }}", "bot\n' }}")
    assert "in another way than it is trained" in panel.status.value
    panel.controls["template"].value = "{% for"
    assert "Error" in panel.status.value


def test_the_token_viewer_shows_id_and_weight_of_each_token_and_escapes_the_ticket(tokenizer, rows):
    row = copy.deepcopy(rows[0]) | {"ticket": SCRIPT, "id": "mine"}
    panel = lesson03.token_viewer(tokenizer, [*rows, row], start="mine")
    assert "<script" not in panel.static() and "script" in panel.static()
    token = lesson03.graded_tokens(tokenizer, *conversation(row))[-1]
    assert f'title="id {token["id"]}, template, loss weight 1"' in panel.result.value
    panel.controls["ticket"].value = "validation-9999"
    assert "no row has the id" in panel.status.value and panel.result.value == ""


def test_lora_size_is_what_peft_adds(tiny_llama):
    from peft import LoraConfig, get_peft_model

    from helpers.widgets import lesson04

    targets, model = ["q_proj", "down_proj"], tiny_llama(num_hidden_layers=3)
    size = lesson04.lora_size(model, 3, targets, first_layer=1)
    total = sum(parameter.numel() for parameter in model.parameters())
    lora = LoraConfig(r=3, target_modules=targets, layers_to_transform=[1, 2])
    trained = get_peft_model(model, lora).get_nb_trainable_parameters()[0]
    assert size[-1]["parameters"] == trained == sum(row["parameters"] for row in size[:-1])
    assert size[-1]["share %"] == round(100 * trained / total, 3)
    assert size[-1]["MB"] == round(4 * trained / 1e6, 2)


def test_lora_size_is_the_same_for_a_model_in_4_bit(tiny_llama, tmp_path):
    """There a matrix lies packed: its weight has half as many entries, and another shape."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from helpers.widgets import lesson04

    tiny_llama(hidden_size=64).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    packed = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=nf4)
    assert packed.model.layers[0].mlp.up_proj.weight.shape != (64, 64)
    asked = (8, ["q_proj", "up_proj"], 1)
    assert lesson04.lora_size(packed, *asked) == lesson04.lora_size(plain, *asked)


def test_the_lora_explorer_follows_rank_and_ticks_and_refuses_none(tiny_llama):
    from helpers.widgets import lesson04

    model = tiny_llama()
    panel = lesson04.lora_explorer(model, rank=4)
    panel.controls["rank"].value = 8
    total = lesson04.lora_size(model, 8, [n for n in panel.controls if n.endswith("_proj")])[-1]
    assert f"{total['parameters']:,}" in panel.result.value
    assert '<img alt="B of shape' in panel.result.value and len(panel.static()) < 200_000
    for name, control in panel.controls.items():
        if name.endswith("_proj"):
            control.value = False
    assert "tick at least one" in panel.status.value


def live(tiny_llama, tokenizer, rows, folder, panel, callbacks=(), steps=8):
    """A short training run on a tiny model with the panel watching; returns the trainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig

    from helpers import training

    profile = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
    train = [dict(zip(("prompt", "completion"), conversation(row))) for row in rows]
    trainer = training.LeanSFTTrainer(
        model=tiny_llama(vocab_size=len(tokenizer)),
        args=SFTConfig(
            output_dir=str(folder),
            **training.hardware_arguments(profile),
            **{"save_strategy": "no", "max_steps": steps, "disable_tqdm": True, "logging_steps": 2},
            **{"eval_strategy": "steps", "eval_steps": 4, "per_device_train_batch_size": 2},
        ),
        train_dataset=Dataset.from_list(train),
        eval_dataset=Dataset.from_list(train[:2]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[panel, *callbacks],
    )
    trainer.train()
    return trainer


def test_the_live_panel_tells_losses_speed_time_left_and_sample_replies(
    tiny_llama, tokenizer, rows, tmp_path
):
    from helpers.widgets import lesson04

    asked = [data.messages(f"{rows[0]['ticket']} {SCRIPT}", data.SHORT_PROMPT)]
    panel, said = lesson04.LivePanel(asked, sample_every=4), []
    panel.status.observe(lambda change: said.append(change["new"]), "value")
    modes = []
    live(tiny_llama, tokenizer, rows, tmp_path, panel, [at_step_end(modes)])
    assert any("tokens/s" in text and "s left" in text for text in said)
    assert "Done at step 8 of 8" in panel.status.value and not panel.stopped
    assert "training loss" in panel.figure.value and "validation loss" in panel.figure.value
    assert [line["step"] for line in panel._said] == [4, 8]
    # the ticket stands once, above its replies
    assert "<script" not in panel.static() and panel.static().count("&lt;script") == 1
    assert modes == [True] * 8


def at_step_end(modes: list):
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            modes.append(model.training)

    return Watch()


def stopping_at(step: int, how):
    from transformers import TrainerCallback

    class Stopper(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step + 1 == step:
                how()

    return Stopper()


@pytest.mark.parametrize("by", ["button", "interrupt"])
def test_a_stopped_run_ends_after_its_step_and_keeps_the_adapter(
    by, tiny_llama, tokenizer, rows, tmp_path
):
    from helpers.widgets import lesson04

    panel, before = lesson04.LivePanel(), signal.getsignal(signal.SIGINT)
    how = {
        "button": panel.stop.click,
        "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    }[by]
    trainer = live(tiny_llama, tokenizer, rows, tmp_path, panel, [stopping_at(3, how)])
    assert trainer.state.global_step == 3 and panel.stopped
    assert "Stopped by hand at step 3 of 8" in panel.status.value
    last = [entry for entry in trainer.state.log_history if entry["step"] == 3]
    assert any("loss" in entry for entry in last) and any("eval_loss" in entry for entry in last)
    trained = [p for n, p in trainer.model.named_parameters() if "lora_B" in n]
    assert any(p.abs().sum() > 0 for p in trained)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_ends_the_run_at_once(tiny_llama, tokenizer, rows, tmp_path):
    from helpers.widgets import lesson04

    panel, before = lesson04.LivePanel(), signal.getsignal(signal.SIGINT)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            live(tiny_llama, tokenizer, rows, tmp_path, panel, [stopping_at(2, twice)])
    finally:
        signal.signal(signal.SIGINT, before)


PANEL = """
import time, types
from helpers.widgets.lesson04 import LivePanel
panel = LivePanel()
print(panel.stop.comm.comm_id)
"""
TRAINING = """
panel.on_train_begin(None, None, None)
print("training")
end = time.time() + 10
while not panel._asked_to_stop.is_set() and time.time() < end:
    time.sleep(0.05)
print("click came" if panel._asked_to_stop.is_set() else "click waited")
"""


def test_a_click_on_stop_arrives_while_the_training_cell_runs():
    ipykernel = pytest.importorskip("ipykernel", minversion="7.0")
    assert ipykernel
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(runtime.project_root()))

    def next_print() -> str:
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                return message["content"]["text"].strip()

    try:
        client.execute(PANEL)
        button = next_print()
        request = client.session.msg("create_subshell_request", {})
        client.control_channel.send(request)
        subshell = client.control_channel.get_msg(timeout=60)["content"]["subshell_id"]
        client.execute(TRAINING)
        assert next_print() == "training"
        data = {"method": "custom", "content": {"event": "click"}}
        click = client.session.msg("comm_msg", {"comm_id": button, "data": data})
        click["header"]["subshell_id"] = subshell  # as JupyterLab does
        client.shell_channel.send(click)
        assert next_print() == "click came"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def browser(rows):
    right = [data.dumps(row["reply"]) for row in rows]
    half = [text if i % 2 else SCRIPT for i, text in enumerate(right)]
    return lesson05.error_browser(rows, {"good": right, "half": half}, "good", "half")


def test_the_error_browser_shows_both_replies_part_by_part(browser, rows):
    text = as_text(browser.result.value)
    assert "score: resolved |  | right | WRONG" in text and "does not parse" in text
    assert "number 1 of 6" in text and "<script" not in browser.result.value


def test_next_and_previous_go_through_the_tickets_of_a_kind_and_stop_at_the_ends(browser, rows):
    previous, following = browser.buttons
    browser.controls["kind"].value = "B wrong"
    following.click()
    assert browser.controls["ticket"].value == rows[2]["id"]
    assert "number 2 of 3" in browser.result.value
    following.click()
    following.click()
    assert browser.controls["ticket"].value == rows[4]["id"]
    assert "No further ticket" in browser.status.value
    previous.click()
    assert browser.controls["ticket"].value == rows[2]["id"]
    browser.controls["kind"].value = "A wrong"
    following.click()
    assert "0 are of the kind" in browser.status.value


def test_the_error_browser_goes_through_the_tickets_of_a_cause_and_names_it(rows):
    right = [data.dumps(row["reply"]) for row in rows]
    half = [text if i % 2 else "no JSON" for i, text in enumerate(right)]
    shown = [[data.handbook()[0]] for _ in rows]
    wrong = {"half": errors.wrong_replies(half, rows, shown)}
    panel = lesson05.error_browser(rows, {"good": right, "half": half}, "half", "good", wrong)
    assert "A: wrong by format" in (first := panel.result.value)
    assert f"Page shown: {html.escape(data.handbook()[0].passage)}" in first
    panel.controls["cause"].value = "format"
    assert "cause of A: format" in panel.result.value
    panel.buttons[1].click()
    assert panel.controls["ticket"].value == rows[2]["id"]
    panel.controls["cause"].value = "reading"
    panel.buttons[1].click()
    assert "0 are of the kind" in panel.status.value
    assert "cause" not in lesson05.error_browser(rows, {"good": right}, "good", "good").controls


def test_the_error_browser_goes_through_the_tickets_of_a_facet_and_of_a_wrong_part(rows):
    labels = [{**row["reply"], "intent": "other"} for row in rows]
    texts = [
        data.dumps(reply if i == 3 else row["reply"])
        for i, (reply, row) in enumerate(zip(labels, rows))
    ]
    panel = lesson05.error_browser(rows, {"one": texts}, "one", "one")
    panel.controls["part"].value = "triage"
    panel.buttons[1].click()
    assert panel.controls["ticket"].value == rows[3]["id"]
    assert "number 1 of 1" in panel.result.value and "A wrong on triage" in panel.result.value
    panel.controls["part"].value = "format"
    panel.buttons[1].click()
    assert "0 are of the kind" in panel.status.value
    panel.controls["part"].value = lesson05.ANY_PART
    facet = rows[0]["facets"][0]
    panel.controls["facet"].value = facet
    count = sum(facet in row["facets"] for row in rows)
    assert f"among {count} tickets of the kind: all, facet: {facet}" in panel.result.value


def test_an_unknown_ticket_is_an_error_in_the_panel(browser, rows):
    browser.controls["ticket"].value = "test-999"
    assert "no ticket has the id" in browser.status.value and rows[-1]["id"] in browser.status.value


@pytest.mark.parametrize(
    ("kind", "places"),
    [("A wrong", [2, 3]), ("only A right", [1]), ("both wrong", [3]), ("only B right", [2])],
)
def test_kinds_of_tickets(kind, places):
    flags = [True, True, False, False], [True, False, True, False]
    assert lesson05.tickets_where(kind, *flags) == places


def test_every_control_has_a_name_for_a_screen_reader(browser, bm25, tokenizer, rows, tiny_llama):
    from helpers.widgets import lesson04

    panels = [
        browser,
        lesson00.profile_card(MACHINES),
        lesson01.prompt_playground(answering("x"), rows, rows),
        lesson02.retrieval_explorer([bm25], "battery"),
        lesson03.token_viewer(tokenizer, rows),
        lesson04.lora_explorer(tiny_llama()),
        types.SimpleNamespace(box=lesson04.LivePanel().box),
    ]
    boxes = (ipywidgets.Box, ipywidgets.HTML)
    for panel in panels:
        for widget in every_widget(panel.box):
            assert isinstance(widget, boxes) or widget.description, widget


def test_importing_the_helpers_imports_no_widget():
    import subprocess
    import sys

    code = "import helpers, sys; print('ipywidgets' in sys.modules, 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said.split() == ["False", "False"]

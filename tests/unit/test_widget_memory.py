"""The memory sliders of lesson 06: the sentence is true of the estimate, and what it advises fits."""

import re

import pytest

from helpers import memory
from helpers.widgets import lesson06
from helpers.widgets.base import as_text

T4 = {"model": "Llama-2-7B", "card": "T4"}


@pytest.mark.parametrize("method", memory.METHODS)
@pytest.mark.parametrize("name", memory.SHAPES)
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"accumulates": True}])
def test_the_parts_of_each_moment_add_up_to_it(name, method, options):
    need = memory.estimate(memory.SHAPES[name], method, batch=4, **options)
    sums = {when: 1e9 * sum(parts.values()) for when, parts in lesson06.held(need).items()}
    assert sums == pytest.approx(need.moments())


def test_a_plan_is_the_estimate_of_the_same_settings():
    asked = {"method": "qlora", "rank": 64, "batch": 3, "length": 256, "checkpointing": False}
    need = memory.estimate(memory.SHAPES["Qwen3-4B"], **asked)
    found = lesson06.plan("Qwen3-4B", card="L4", **asked)
    assert found["gb"] == need.gb == pytest.approx(sum(found["parts"].values()))
    assert need.moments()[found["moment"]] == need.peak


def test_what_fits_says_how_much_is_left():
    found = lesson06.plan(**T4, method="qlora")
    assert found["fits"] and found["says"] == (
        f"Fits on a T4 with {memory.CARDS['T4'] - found['gb']:.1f} GB to spare."
    )
    assert lesson06.plan(**T4 | {"card": "L4"}, method="qlora")["says"].startswith("Fits on an L4")


def test_what_does_not_fit_names_the_excess_and_the_largest_part():
    found = lesson06.plan(**T4, method="qlora", checkpointing=False)
    assert not found["fits"]
    assert f"{found['gb'] - memory.CARDS['T4']:.1f} GB too much" in found["says"]
    assert "the largest part is activations" in found["says"]
    assert "the largest part is optimizer" in lesson06.plan(**T4, method="full")["says"]


def test_the_last_tenth_of_a_card_does_not_count_as_room():
    edge = lesson06.plan("Llama-3.2-3B", "lora", batch=8)
    assert 0.9 * memory.CARDS["T4"] < edge["gb"] < memory.CARDS["T4"]
    assert not edge["fits"] and "Reaches the edge of a T4" in edge["says"]


@pytest.mark.parametrize("method", memory.METHODS)
@pytest.mark.parametrize("name", memory.SHAPES)
def test_every_change_that_is_advised_fits_and_every_other_does_not(name, method):
    asked = {"model": name, "method": method, "batch": 16, "length": 2048, "checkpointing": False}
    changes = {
        "gradient checkpointing": {"checkpointing": True},
        "a batch of 1": {"batch": 1},
        "rows of 1024 tokens": {"length": 1024},
        f"lora in place of {method}": {"method": "lora"} if method == "full" else {},
        f"qlora in place of {method}": {"method": "qlora"} if method != "qlora" else {},
    }
    found = lesson06.plan(**asked, card="L4")
    assert not found["fits"]
    for words, change in changes.items():
        helps = lesson06.plan(**asked | change, card="L4")["fits"]
        assert (words in found["says"]) == helps, words
    if "No single change" in found["says"]:
        card = re.search(r"the smallest that holds it is the (.*)\.$", found["says"])
        holds = [c for c, gb in memory.CARDS.items() if found["gb"] <= 0.9 * gb]
        assert (card[1] == holds[0]) if card else not holds


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"model": "GPT-9"}, "model is 'GPT-9'; one of SmolLM2-135M"),
        ({"card": "H1"}, "card is 'H1'; one of T4"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"batch": 0}, "batch 0"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(asked, says):
    with pytest.raises(ValueError, match=says):
        lesson06.plan(**asked)


def test_the_sliders_follow_their_controls_and_leave_a_static_picture():
    panel = lesson06.memory_sliders(method="qlora")
    assert "Fits: yes." in as_text(panel.static())
    panel.controls["checkpointing"].value = False
    text = as_text(panel.static())
    assert "Fits: NO." in text and "the largest part is activations" in text
    assert "<img alt=" in panel.static() and "Gradient checkpointing False" in text
    for control in panel.controls.values():
        assert control.description

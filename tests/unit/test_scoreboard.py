import json
import subprocess
import sys

import pytest

from helpers import evaluation, runtime, scoreboard
from helpers.statistics import wilson

PROFILE = runtime.Profile("cpu", runtime.EMBEDDED, "float32", False, "cpu", "test")
RIGHT, WRONG = evaluation.Score(True, True, True, True, True), evaluation.Score()


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path))
    return tmp_path


def test_a_row_has_every_field_of_the_design():
    row = scoreboard.make_row("sft", [RIGHT, WRONG], PROFILE, latency_p50_s=0.5)
    wanted = {
        "method",
        "model",
        "profile",
        "adapter",
        "n",
        "data_sha256",
        "seed",
        "versions",
        "machine",
        "created",
    }
    assert wanted | set(evaluation.SCORES) | set(scoreboard.PRICES) <= set(row)
    assert (
        row["resolved"]["value"] == 0.5
        and 0 <= row["resolved"]["low"] < 0.5 < row["resolved"]["high"] <= 1
    )


def test_an_unknown_price_is_refused():
    with pytest.raises(ValueError, match="latency_p50_s"):
        scoreboard.make_row("sft", [RIGHT], PROFILE, latency=1.0)


def test_an_interval_of_an_unknown_price_is_refused():
    with pytest.raises(ValueError, match="unknown price"):
        scoreboard.make_row("sft", [RIGHT], PROFILE, intervals={"latency": (1.0, 2.0)})


def test_a_price_is_shown_with_its_interval_where_it_has_one():
    row = scoreboard.make_row(
        "sft",
        [RIGHT, WRONG],
        PROFILE,
        prompt_tokens=1545.5,
        latency_p50_s=2.5,
        intervals={"prompt_tokens": (1540.2, 1551.4)},
    )
    assert scoreboard.with_interval(row, "prompt_tokens", 0) == "1,546 (1,540 to 1,551)"
    assert scoreboard.with_interval(row, "latency_p50_s") == "2.5"
    assert scoreboard.with_interval(row, "train_seconds") == ""
    older = {key: value for key, value in row.items() if key != "intervals"}
    assert scoreboard.with_interval(older, "prompt_tokens", 0) == "1,546"


def test_the_readmes_board_has_an_interval_beside_each_share():
    made = {"train_seconds": 9.6, "adapter": "ready-made"}
    scoreboard.record(scoreboard.make_row("sft", [RIGHT] * 3 + [WRONG], PROFILE, **made))
    (line,) = scoreboard.short_table(scoreboard.read()).to_dict("records")
    assert line["resolved %"] == "75.0 (30.1 to 95.4)" and line["facts %"] == "75 (30 to 95)"
    assert line["train s"] == "10" and line["prompt tokens"] == ""
    assert line["adapter"] == "ready-made"


def test_the_latest_row_of_a_method_model_and_seed_counts():
    scoreboard.record(scoreboard.make_row("sft", [WRONG], PROFILE))
    scoreboard.record(scoreboard.make_row("sft", [RIGHT], PROFILE))
    scoreboard.record(scoreboard.make_row("sft", [WRONG], PROFILE, seed=1))
    assert [row["resolved"]["value"] for row in scoreboard.read()] == [1.0, 0.0]


def test_rows_come_in_the_order_of_the_road():
    for method in ("sft-rag", "keyword-rule", "zero-shot"):
        scoreboard.record(scoreboard.make_row(method, [RIGHT], PROFILE))
    assert [row["method"] for row in scoreboard.read()] == ["keyword-rule", "zero-shot", "sft-rag"]


def test_a_line_cut_off_while_writing_costs_no_other_row(capsys):
    scoreboard.record(scoreboard.make_row("sft", [RIGHT], PROFILE))
    with open(scoreboard.scoreboard_path(), "a") as file:
        file.write('{"method": "sft-r')
    scoreboard.record(scoreboard.make_row("sft-rag", [RIGHT], PROFILE))
    assert [row["method"] for row in scoreboard.read()] == ["sft", "sft-rag"]
    assert "1 unreadable" in capsys.readouterr().out


def test_rows_of_other_data_are_left_out_and_said_so(capsys):
    row = scoreboard.make_row("sft", [RIGHT], PROFILE)
    scoreboard.record(row | {"data_sha256": "0" * 64})
    assert scoreboard.read() == []
    assert "other data" in capsys.readouterr().out


def test_two_writers_at_once_lose_no_row(runs):
    code = (
        "from pathlib import Path; from helpers.scoreboard import append_line\n"
        "for i in range(100): append_line(Path({!r}), '{{}}' * 500)"
    ).format(str(runs / "s.jsonl"))
    writers = [
        subprocess.Popen([sys.executable, "-c", code], cwd=runtime.project_root()) for _ in range(2)
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = (runs / "s.jsonl").read_text().splitlines()
    assert len(lines) == 200 and set(lines) == {"{}" * 500}


def test_the_table_of_an_empty_board_is_empty():
    assert len(scoreboard.table()) == 0


def test_runs_can_be_deleted_at_any_time(runs):
    scoreboard.record(scoreboard.make_row("sft", [RIGHT], PROFILE))
    scoreboard.scoreboard_path().unlink()
    assert scoreboard.read() == []
    scoreboard.record(scoreboard.make_row("sft", [RIGHT], PROFILE))
    assert len(scoreboard.read()) == 1
    assert json.loads(scoreboard.scoreboard_path().read_text())["method"] == "sft"


def seeded(*shares, n=100, method="sft", adapter="trained here"):
    return [
        scoreboard.make_row(
            method, [RIGHT] * k + [WRONG] * (n - k), PROFILE, seed=i, adapter=adapter
        )
        for i, k in enumerate(shares)
    ]


def test_the_spread_of_seeds_is_shown_apart_from_that_of_tickets():
    line = scoreboard.seeds(seeded(70, 74, 78)).loc["sft"]
    found = [line["runs"], line["mean"], line["least"], line["most"]]
    assert found == pytest.approx([3, 74, 70, 78])
    assert line["runs' sd"] == pytest.approx(4.0)
    assert (line["tickets low"], line["tickets high"]) == pytest.approx(
        [100 * x for x in wilson(74, 100)]
    )


def test_one_seed_says_so_and_claims_no_spread():
    assert scoreboard.seeds(seeded(70)).loc["sft", "runs' sd"] == "one run"


def test_more_seeds_do_not_make_more_tickets():
    few, many = (scoreboard.seeds(seeded(*[74] * k)).loc["sft"] for k in (3, 30))
    assert few["tickets low"] == many["tickets low"] and few["n"] == many["n"] == 100


def test_methods_without_training_have_no_seeds():
    assert len(scoreboard.seeds(seeded(70, 72, method="few-shot", adapter="none"))) == 0


def test_seeds_of_two_methods_are_kept_apart():
    frame = scoreboard.seeds(seeded(70, 72) + seeded(10, method="sft-rag"))
    assert list(frame.index) == ["sft", "sft-rag"] and list(frame["runs"]) == [2, 1]


def test_the_table_names_the_seed_of_each_row():
    assert list(scoreboard.table(seeded(70, 72))["seed"]) == [0, 1]


def test_the_readme_tells_of_each_tuned_row_how_many_runs_there_are():
    import pandas as pd

    from helpers import lessons

    line = {"mean": 79.24, "least": 76.2, "most": 82.8}
    table = pd.DataFrame(
        [line | {"runs": 3}, line | {"runs": 1}],
        index=["sft-rag", "sft"],
        columns=[*line, "runs"],
    )
    said = lessons.told_seeds(table)
    assert "`sft-rag` in 3 training runs: resolved 79.2 % on average, from 76.2 to 82.8" in said
    assert "`sft` is one training run" in said and lessons.told_seeds(table[:0]) == ""

import json
import os
import subprocess
import sys

import pytest

from helpers import data, models, runtime, score_tickets
from helpers.data import DataError, dumps
from helpers.generation import Reply

ROWS = data.tickets("validation")[:3]


@pytest.fixture
def tickets(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return str(folder)


@pytest.fixture(autouse=True)
def asked(monkeypatch, tmp_path):
    """No model: the first ticket is answered as it should be, the others with nothing; what was asked is kept."""
    calls = []

    def fake(method, conversations, profile, adapter):
        calls.append((method, conversations, profile, adapter))
        right = dumps(ROWS[0]["reply"])
        return [Reply(right if not i else "", 10, 5, 0.1) for i in range(len(conversations))]

    bm25 = score_tickets.retrieval.BM25(data.handbook())  # the lessons' own learns for a minute
    monkeypatch.setattr(score_tickets.retrieval, "default_retriever", lambda: bm25)
    monkeypatch.setattr(score_tickets, "reply_to", fake)
    monkeypatch.setenv("WORKSHOP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WORKSHOP_MODEL", "")
    return calls


def handbook_folder(tmp_path, change=lambda text: text, fact=lambda text: text, drop=()):
    """A copy of our handbook and facts with changes."""
    folder = tmp_path / "other" / "handbook"
    folder.mkdir(parents=True)
    for path in (data.data_dir() / "handbook").glob("*.md"):
        if path.name not in drop:
            (folder / path.name).write_text(change(path.read_text("utf-8")), "utf-8")
    facts = (data.data_dir() / "facts.jsonl").read_text("utf-8")
    (folder.parent / "facts.jsonl").write_text(fact(facts), "utf-8")
    return str(folder)


def closed(tickets, adapter, *more):
    return ["--tickets", tickets, "--adapter", adapter, "--method", "sft", *more]


def test_last_line_is_the_row_as_json(tickets, adapter, capsys):
    assert score_tickets.main(closed(tickets, adapter)) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["method"] == "sft" and row["n"] == 3 and row["adapter"] == adapter
    assert row["resolved"]["value"] == pytest.approx(1 / 3)
    assert row["prompt_tokens"] == 10 and row["sections"] == 0


def test_nothing_is_written_to_the_scoreboard(tickets, adapter, tmp_path):
    score_tickets.main(closed(tickets, adapter))
    assert not (tmp_path / "runs" / "scoreboard.jsonl").exists()


def test_limit_takes_the_first_tickets(tickets, adapter, asked):
    score_tickets.main(closed(tickets, adapter, "--limit", "2"))
    assert [m[-1]["content"] for m in asked[0][1]] == [f"Ticket: {r['ticket']}" for r in ROWS[:2]]


def test_adapter_is_asked_in_the_words_it_was_trained_on(tickets, adapter, asked):
    score_tickets.main(["--tickets", tickets, "--adapter", adapter])
    method, conversations, _, given = asked[0]
    assert (method.name, method.sections, given) == ("sft-rag", 1, adapter)
    assert conversations[0][0]["content"] == data.SHORT_PROMPT
    assert all("Handbook:" in messages[-1]["content"] for messages in conversations)


def test_sections_override_the_methods_own(tickets, adapter, asked):
    score_tickets.main(["--tickets", tickets, "--adapter", adapter, "--sections", "0"])
    assert "Handbook:" not in asked[0][1][0][-1]["content"]


def test_model_folder_is_the_one_that_is_asked(tickets, tmp_path, asked, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ["--tickets", tickets, "--model", "mine", "--method", "zero-shot"]
    assert score_tickets.main(arguments) == 0
    assert asked[0][2].model == str(tmp_path / "mine")


def test_hash_tells_two_ticket_files_apart(tickets, adapter, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(ROWS[0]) + "\n")
    found = []
    for path in (tickets, str(other), tickets):
        score_tickets.main(closed(path, adapter))
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1])["data_sha256"])
    assert found[0] == found[2] != found[1]


def test_every_fault_of_the_tickets_is_listed(tmp_path, adapter, capsys, asked):
    bad = [{**ROWS[0], "facets": ["loud"]}, {**ROWS[1], "asks": ["nothing"]}]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, bad)))
    assert score_tickets.main(closed(str(path), adapter)) == 2
    told = capsys.readouterr().err
    assert "bad.jsonl line 1" in told and "bad.jsonl line 2" in told and not asked


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--adapter", "nowhere"], "no adapter_config.json"),
        (["--method", "sft"], "needs --adapter"),
        (["--handbook", "nowhere", "--method", "zero-shot"], "no such folder"),
        (
            ["--handbook", "nowhere", "--method", "few-shot"],
            "few-shot shows examples of the Bramble handbook",
        ),
        (["--handbook", "nowhere"], "no such folder"),
    ],
)
def test_wrong_use_says_what_to_do_and_ends_with_2(tickets, arguments, told, capsys, asked):
    assert score_tickets.main(["--tickets", tickets, *arguments]) == 2
    assert told in capsys.readouterr().err and not asked


@pytest.mark.parametrize(
    "arguments", [[], ["--tickets", "x", "--limit", "0"], ["--tickets", "x", "--method", "magic"]]
)
def test_arguments_that_argparse_refuses_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        score_tickets.main(arguments)
    assert end.value.code == 2 and "usage" in capsys.readouterr().err


def test_missing_ticket_file_is_named(adapter, capsys):
    assert score_tickets.main(closed("gone.jsonl", adapter)) == 2
    assert "gone.jsonl: no such file" in capsys.readouterr().err


# --- another handbook ---


def test_another_handbook_is_scored_by_its_own_facts(
    tmp_path, make_row, adapter, capsys, monkeypatch
):
    def longer(text):
        return text.replace("45 days", "46 days")

    folder = handbook_folder(tmp_path, longer, longer)
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(make_row()))
    for said, right in (("46 days", 1.0), ("45 days", 0.0)):
        text = dumps({**make_row()["reply"], "reply": f"You have {said}. - Bramble desk"})
        monkeypatch.setattr(
            score_tickets, "reply_to", lambda *_, text=text: [Reply(text, 1, 1, 0.1)]
        )
        assert score_tickets.main(closed(str(path), adapter, "--handbook", folder)) == 0
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert row["facts"]["value"] == right


def test_a_chapter_of_another_handbook_may_be_no_intent_of_ours(tmp_path, tickets):
    folder = handbook_folder(tmp_path)
    os.rename(os.path.join(folder, "01_returns.md"), os.path.join(folder, "01_sending_back.md"))
    with data.other_handbook(folder):
        assert data.policies()["RET-1"].intent == "sending_back"
        assert data.read_tickets(tickets) == ROWS


def test_another_handbook_ends_with_its_block(tmp_path):
    ours = data.handbook(), data.facts(), data.policies()
    folder = handbook_folder(
        tmp_path, lambda text: text.replace("50 km", "51 km"), lambda t: t.replace("50 km", "51 km")
    )
    with data.other_handbook(folder):
        assert "51 km" in data.policies()["RET-1"].text and data.handbook() != ours[0]
        assert data.handbook(2)[0].text != data.handbook(1)[0].text
    assert (data.handbook(), data.facts(), data.policies()) == ours


def test_another_handbook_ends_after_an_error_too(tmp_path):
    with pytest.raises(RuntimeError), data.other_handbook(handbook_folder(tmp_path)):
        raise RuntimeError
    assert data.handbook_dir() == data.data_dir() / "handbook"


def test_value_that_its_section_does_not_hold_is_a_fault(tmp_path):
    folder = handbook_folder(tmp_path, fact=lambda text: text.replace('"45 days"', '"44 days"'))
    with pytest.raises(DataError, match='"44 days" of RET-1'), data.other_handbook(folder):
        pass
    assert data.handbook_dir() == data.data_dir() / "handbook"


def test_chapter_without_an_intent_in_its_name_is_a_fault(tmp_path):
    folder = handbook_folder(tmp_path)
    os.rename(f"{folder}/01_returns.md", f"{folder}/returns.md")
    with pytest.raises(DataError, match="returns.md: expected"), data.other_handbook(folder):
        pass


def test_handbook_without_facts_beside_it_is_a_fault(tmp_path):
    folder = handbook_folder(tmp_path)
    os.remove(tmp_path / "other" / "facts.jsonl")
    with pytest.raises(DataError, match="facts.jsonl: no such file"), data.other_handbook(folder):
        pass


def test_same_codes_keep_the_lessons_retriever_with_the_new_pages(tmp_path, monkeypatch):
    class Ours:
        def reindexed(self, sections):
            return ("reindexed", sections)

    monkeypatch.setattr(score_tickets.retrieval, "default_retriever", lambda: Ours())
    folder = handbook_folder(tmp_path, lambda text: text.replace("no reason asked", "no reason"))
    kind, sections = score_tickets.retriever_for(folder)
    assert kind == "reindexed" and "no reason asked" not in sections[0].text


def test_other_codes_are_searched_without_what_our_tickets_teach(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(score_tickets.retrieval, "Dense", score_tickets.retrieval.BM25)
    monkeypatch.setattr(
        score_tickets.retrieval, "default_retriever", lambda: pytest.fail("learned codes")
    )
    folder = handbook_folder(
        tmp_path,
        drop=("01_returns.md",),
        fact=lambda t: "".join(x + "\n" for x in t.splitlines() if '"RET-' not in x),
    )
    found = score_tickets.retriever_for(folder)
    assert {s.policy for s in found.sections} == set(data.policies()) - {
        f"RET-{i}" for i in range(1, 8)
    }
    assert "other section codes" in capsys.readouterr().out


def test_module_runs_from_the_shell():
    done = subprocess.run(
        [sys.executable, "-m", "helpers.evaluation", "--tickets", "gone.jsonl"],
        cwd=runtime.project_root(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "gone.jsonl: no such file" in done.stderr
    assert "Traceback" not in done.stderr


NO_NAMES = """\
import socket
import sys


def refuse(*args, **kwargs):
    raise AssertionError(f"a name was looked up: {args}")


socket.getaddrinfo = socket.socket.connect = refuse
from helpers import retrieval, score_tickets

retrieval.encode(["a ticket"])
raise SystemExit(score_tickets.main(sys.argv[1:]))"""


@pytest.mark.parametrize("method", ["sft", "sft-rag"])
def test_a_real_model_and_adapter_score_a_ticket_without_looking_up_a_name(
    tickets, tmp_path, method
):
    """With pages also by the folder of a model, and with a handbook of one's own."""
    adapter = str(data.data_dir() / "adapters" / method)
    asked = ["--method", method, "--adapter", adapter, "--tickets", tickets, "--limit", "1"]
    if method == "sft-rag":
        handbook = handbook_folder(tmp_path)
        asked += ["--model", models.ensure_base_model(), "--handbook", str(handbook)]
    done = subprocess.run(
        [sys.executable, "-c", NO_NAMES, *asked],
        cwd=runtime.project_root(),
        env=os.environ | {"HF_HUB_OFFLINE": "1", "WORKSHOP_PROFILE": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["method"], row["n"], row["adapter"]) == (method, 1, adapter)
    assert row["format"]["value"] == 1 and row["new_tokens"] > 20


def test_another_handbook_without_an_adapter_is_read_by_the_model_as_it_comes():
    args = score_tickets.parser().parse_args(["--tickets", "t", "--handbook", "h"])
    method = score_tickets.choose_method(args)
    assert (method.name, method.sections, method.shots) == ("zero-shot", 1, 0)
    args = score_tickets.parser().parse_args(
        ["--tickets", "t", "--handbook", "h", "--sections", "3"]
    )
    assert score_tickets.choose_method(args).sections == 3

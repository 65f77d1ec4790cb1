"""The handbook, the tickets, and the chat messages made of them; every row checked on reading.

Introduced in lesson 00 (the task) and lesson 03 (the training set).
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from helpers.runtime import project_root

SPLITS = ("train", "validation", "test")
INTENTS = (
    *("returns", "delivery", "warranty", "battery", "repair", "payment"),
    *("order", "rental", "account", "safety", "other"),
)
PRIORITIES = ("low", "normal", "high", "urgent")
PRODUCTS = (
    *("Fern 2", "Fern 3", "Moss City", "Heath Cargo"),
    *("Thistle Trail", "Sorrel Kids", "Juniper Fold", "Alder GT", "none"),
)
FACETS = (
    *(
        "terse",
        "rambling",
        "angry",
        "polite",
        "misspelt",
        "non-native",
        "multi-sentence",
        "no-product",
    ),
    *("buried", "two-facts", "outside", "near-miss", "distractor", "slang", "formal"),
)
_PRIORITY_OF = {
    "urgent": frozenset("SAF-1 SAF-2 SAF-3 SAF-4".split()),
    "high": frozenset("RET-5 DEL-5 DEL-6 BAT-4 REP-3 PAY-3 PAY-4 REN-6 ACC-5 ACC-6".split()),
    "low": frozenset(
        "RET-7 DEL-1 DEL-2 DEL-3 DEL-4 WAR-6 BAT-1 BAT-2 BAT-3 BAT-5 BAT-6 BAT-7 REP-2 REP-4 REP-5 PAY-1 PAY-2 PAY-5 "
        "PAY-6 PAY-7 ORD-3 ORD-4 ORD-5 ORD-6 REN-1 REN-2 REN-3 ACC-4 SAF-5 SAF-6".split()
    ),
}
KEYS = ("policy", "intent", "priority", "product", "reply")
SIGN_OFF = " - Bramble desk"
MAX_WORDS = 30

SHORT_PROMPT = "You are the Bramble desk."
LONG_PROMPT = """\
You are the support desk of Bramble Bikes. Answer the ticket with one JSON object and nothing else:
{"policy": ..., "intent": ..., "priority": ..., "product": ..., "reply": ...}
policy: the code of the handbook section that answers, such as RET-2; none if there is none.
intent: one of returns, delivery, warranty, battery, repair, payment, order, rental, account, safety; \
other if the handbook does not cover the question.
priority: urgent if someone may get hurt; high if the bike cannot be ridden, or money or goods are missing; \
normal if the customer wants something done or has a right to it; low for plain information. \
Never by tone. For intent other it is normal.
product: one of Fern 2, Fern 3, Moss City, Heath Cargo, Thistle Trail, Sorrel Kids, Juniper Fold, Alder GT; \
none if the ticket names none of them.
reply: one or two short sentences, at most 30 words, with the exact figure from the handbook, ending with \
" - Bramble desk". \
If the handbook does not cover it, say that a colleague will look into it, and invent nothing."""


class DataError(ValueError):
    """Faults in a data file: ``faults`` lists them all, each with its place and what was expected."""

    def __init__(self, faults: list[str]):
        self.faults = faults
        count = f"{len(faults)} faults:\n" if len(faults) > 1 else ""
        super().__init__(count + "\n".join(faults))


@dataclass(frozen=True)
class Section:
    """One handbook section: ``policy`` is its code, ``intent`` the chapter's label."""

    policy: str
    title: str
    text: str
    intent: str

    @property
    def passage(self) -> str:
        """What is indexed and put into a prompt."""
        return f"[{self.policy}] {self.title}: {self.text}"


@dataclass(frozen=True)
class Fact:
    """A checkable fact: ``value`` stands literally in its section; ``accept`` are other wordings of it."""

    policy: str
    key: str
    value: str
    value_v2: str | None = None
    accept: tuple[str, ...] = ()


_other_handbook: ContextVar[Path | None] = ContextVar("other_handbook", default=None)


def data_dir() -> Path:
    return project_root() / "data"


def handbook_dir() -> Path:
    """``data/handbook``, or the folder named by ``other_handbook``; ``facts.jsonl`` stands beside it."""
    return _other_handbook.get() or data_dir() / "handbook"


@contextmanager
def other_handbook(folder: str | Path):
    """In a ``with`` block: ``handbook``, ``facts``, ``policies`` and all built on them read another folder like ``data/handbook``.

    It holds ``NN_intent.md`` with ``## RET-1 · title`` sections; its ``facts.jsonl`` stands beside the folder. Raises DataError with
    all faults: nothing there, a fact of no section, a value that its section does not hold.
    """
    token = _other_handbook.set(Path(folder).resolve())
    try:
        texts = {section.policy: section.text for section in handbook()}
        faults = [
            f'facts.jsonl: the value "{fact.value}" of {fact.policy} {fact.key} does not stand in that section'
            for fact in facts()
            if fact.value not in texts.get(fact.policy, "")
        ]
        if faults:
            raise DataError(faults)
        yield
    finally:
        _other_handbook.reset(token)


def _read_rows(path: Path) -> list[tuple[int, object, str | None]]:
    """(line number, JSON value, fault) of each non-empty line; DataError for a missing or empty file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            [f"{path.name}: no such file; expected it in {path.parent.name}/"]
        ) from None
    rows = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        row = fault = None
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            fault = f"byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
        except json.JSONDecodeError as error:
            fault = f"not a whole JSON object ({error.msg} at column {error.colno})"
        rows.append((number, row, fault))
    if not rows:
        raise DataError([f"{path.name}: the file is empty; expected one JSON object a line"])
    return rows


def facts() -> tuple[Fact, ...]:
    """Every fact of ``data/facts.jsonl``, in the handbook's order; DataError tells the lines at fault."""
    return _facts(handbook_dir().parent / "facts.jsonl")


@lru_cache
def _facts(path: Path) -> tuple[Fact, ...]:
    from jsonschema import Draft202012Validator

    found, faults, first_use = [], [], {}
    validator = Draft202012Validator(fact_schema())
    for number, row, fault in _read_rows(path):
        wrong = [fault] if fault else [*map(_explain, validator.iter_errors(row))]
        if not wrong:
            found.append(Fact(**{**row, "accept": tuple(row.get("accept", ()))}))
            line = first_use.setdefault((row["policy"], row["key"]), number)
            if line != number:
                wrong = [f"{row['policy']} {row['key']} was already told on line {line}"]
        faults += [f"facts.jsonl line {number}: {fault}" for fault in wrong]
    if faults:
        raise DataError(faults)
    return tuple(found)


def handbook(version: int = 1) -> tuple[Section, ...]:
    """The sections of ``data/handbook/*.md``; version 2 is version 1 with every ``value_v2`` put in.

    >>> handbook()[0].policy
    'RET-1'
    """
    if version not in (1, 2):
        raise DataError(
            [f"handbook version {version!r} does not exist; 1 is the handbook, 2 its update"]
        )
    return _handbook(handbook_dir(), version)


@lru_cache
def _handbook(folder: Path, version: int) -> tuple[Section, ...]:
    if version == 2:
        return tuple(map(_updated, _handbook(folder, 1)))
    sections = []
    for path in sorted(folder.glob("*.md")):
        _, underscore, intent = path.stem.partition("_")
        if not underscore:
            raise DataError([f"{path.name}: expected a chapter's name such as 01_returns.md"])
        raw = path.read_bytes()
        try:
            chapter = raw.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            fault = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
            raise DataError([f"{path.name} line {line}: {fault}"]) from None
        for part in re.split(r"^## ", chapter, flags=re.M)[1:]:
            head, _, text = part.partition("\n")
            policy, _, title = head.partition(" · ")
            sections.append(Section(policy.strip(), title.strip(), " ".join(text.split()), intent))
    if not sections:
        raise DataError(
            [
                f"{folder.parent.name}/{folder.name}: no section found; expected '## RET-1 · title' in *.md"
            ]
        )
    return tuple(sections)


def _updated(section: Section) -> Section:
    text = section.text
    for fact in facts():
        if fact.policy == section.policy and fact.value_v2:
            text = re.sub(rf"(?<!\w){re.escape(fact.value)}(?!\w)", fact.value_v2, text)
    return replace(section, text=text)


def policies() -> dict[str, Section]:
    return _by_policy(handbook())


@lru_cache(maxsize=8)
def _by_policy(sections: tuple[Section, ...]) -> dict[str, Section]:
    return {section.policy: section for section in sections}


def priority_of(policy: str) -> str:
    """The desk's priority for a matter, by its section and never by the customer's tone; "normal" outside the handbook."""
    return next((name for name, codes in _PRIORITY_OF.items() if policy in codes), "normal")


def reply_schema() -> dict:
    """The JSON schema of the house reply: five keys, known labels, a signed text (lesson 01, section 1.7)."""
    return {
        "type": "object",
        "properties": {
            "policy": {"enum": [*policies(), "none"]},
            "intent": {"enum": list(INTENTS)},
            "priority": {"enum": list(PRIORITIES)},
            "product": {"enum": list(PRODUCTS)},
            "reply": {"type": "string", "pattern": f"^.+{SIGN_OFF}$"},
        },
        "required": list(KEYS),
        "additionalProperties": False,
    }


_TEXT = {"type": "string", "pattern": r"\S"}  # not blank


def fact_schema() -> dict:
    """The JSON schema of one row of ``data/facts.jsonl``; where a fact does not change, ``value_v2`` may be left out or null."""
    return {
        "type": "object",
        "properties": {
            "policy": _TEXT,
            "key": _TEXT,
            "value": _TEXT,
            "value_v2": {"anyOf": [_TEXT, {"type": "null"}]},
            "accept": {"type": "array", "items": _TEXT},
        },
        "required": ["policy", "key", "value"],
        "additionalProperties": False,
    }


def ticket_schema() -> dict:
    """The JSON schema of one row of ``data/tickets/*.jsonl`` (lesson 03, section 3.1)."""
    text = _TEXT
    return {
        "type": "object",
        "properties": {
            "id": text,
            "ticket": text,
            "facets": {"type": "array", "items": {"enum": list(FACETS)}},
            "asks": {"type": "array", "items": text},
            "reply": reply_schema(),
        },
        "required": ["id", "ticket", "facets", "asks", "reply"],
    }


def _explain(error) -> str:
    field = ".".join(str(part) for part in error.absolute_path) or "row"
    if error.validator == "required":
        missing = error.message.split("'")[1]
        return f'field "{field + "." if field != "row" else ""}{missing}" is missing'
    if error.validator == "enum":
        allowed = list(error.validator_value)
        shown = ", ".join(allowed[:12]) + (", ..." if len(allowed) > 12 else "")
        return f'field "{field}" is "{error.instance}"; one of {shown}'
    if error.validator == "pattern" and error.validator_value == _TEXT["pattern"]:
        return f'field "{field}" is blank'
    if error.validator == "pattern":
        return f'field "{field}" must end with "{SIGN_OFF}"'
    return f'field "{field}": {error.message}'


def word_count(reply: str) -> int:
    """Words of a reply before its sign-off."""
    return len(reply.removesuffix(SIGN_OFF).split())


def _beyond_schema(row, first_use: dict[str, int]) -> list[str]:
    """Faults that the JSON schema cannot tell, in any row: asks, length, a second use of an id."""
    row = row if isinstance(row, dict) else {}
    reply = row["reply"] if isinstance(row.get("reply"), dict) else {}
    policy, asks, text = reply.get("policy"), row.get("asks"), reply.get("reply")
    found = []
    if policy in (*policies(), "none") and isinstance(asks, list):
        keys = [fact.key for fact in facts() if fact.policy == policy]
        found += [
            f'"asks" has "{key}", which is no fact of {policy}' for key in asks if key not in keys
        ]
        if keys and not asks:
            found.append(f'"asks" is empty; name what is asked of {policy}: {", ".join(keys)}')
        chapter = policies()[policy].intent if policy in policies() else "other"
        # a handbook of one's own may have chapters that are no intent of ours
        said = reply.get("intent")
        if said in INTENTS and chapter in INTENTS and said != chapter:
            found.append(f'field "reply.intent" is "{said}"; {policy} is of {chapter}')
    if isinstance(text, str) and text.endswith(
        SIGN_OFF + "\n"
    ):  # "$" in a pattern lets one line break pass
        found.append(f'field "reply.reply" must end with "{SIGN_OFF}", without a line break')
    if isinstance(text, str) and not 1 <= (count := word_count(text)) <= MAX_WORDS:
        found.append(f'field "reply.reply" has {count} words; 1 to {MAX_WORDS} before the sign-off')
    if isinstance(row.get("id"), str) and row["id"] in first_use:
        found.append(f'id "{row["id"]}" was already used on line {first_use[row["id"]]}')
    return found


def read_tickets(path: str | Path) -> list[dict]:
    """The rows of a ticket file, in order; raises DataError that lists *all* faults with their line numbers."""
    from jsonschema import Draft202012Validator

    path = Path(path)
    validator = Draft202012Validator(ticket_schema())
    rows, faults, first_use = [], [], {}
    for number, row, fault in _read_rows(path):
        if fault:
            found = [fault]
        else:
            found = [*map(_explain, validator.iter_errors(row)), *_beyond_schema(row, first_use)]
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            first_use.setdefault(row["id"], number)
        faults += [f"{path.name} line {number}: {fault}" for fault in found]
        rows.append(row)
    if faults:
        raise DataError(faults)
    return rows


def tickets(split: str) -> list[dict]:
    """The rows of a split: ``train`` to learn from, ``validation`` to choose by, ``test`` for the scoreboard only."""
    if split not in SPLITS:
        raise DataError([f"split {split!r} does not exist; one of {', '.join(SPLITS)}"])
    return read_tickets(data_dir() / "tickets" / f"{split}.jsonl")


def data_sha256() -> str:
    """One hash over everything a score depends on: handbook, facts and tickets."""
    digest = hashlib.sha256()
    folder = data_dir()
    for path in sorted(
        [*folder.glob("handbook/*.md"), folder / "facts.jsonl", *folder.glob("tickets/*.jsonl")]
    ):
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def dumps(reply: dict) -> str:
    """The house reply as the desk writes it: one line, keys in their order."""
    return json.dumps({key: reply[key] for key in KEYS}, ensure_ascii=False)


def user_turn(ticket: str, sections: list[Section] | None = None) -> str:
    """What the model is asked: the sections, best first, then the ticket. Introduced in lesson 02, section 2.6.

    None is a prompt without a handbook; an empty list says that the retriever looked and found nothing.
    """
    if sections is None:
        return f"Ticket: {ticket}"
    context = "\n".join(section.passage for section in sections) or "nothing found"
    return f"Handbook:\n{context}\n\nTicket: {ticket}"


def messages(
    ticket: str,
    system: str = LONG_PROMPT,
    examples: list[dict] | tuple = (),
    sections: list[Section] | None = None,
) -> list[dict]:
    """Chat messages for one ticket; ``examples`` are ticket rows shown as earlier turns (few-shot).

    Introduced in lesson 01, section 1.2. An example row may carry its own ``"sections"``.
    """
    turns = [{"role": "system", "content": system}]
    for row in examples:
        turns.append({"role": "user", "content": user_turn(row["ticket"], row.get("sections"))})
        turns.append({"role": "assistant", "content": dumps(row["reply"])})
    return [*turns, {"role": "user", "content": user_turn(ticket, sections)}]


_GREETING = "hi|hello|hey|dear|good (?:morning|afternoon|evening|day)"
_ADDRESSED = "there|all|everyone|folks|bramble|bikes|team|desk|support|shop|people|sir|madam|or|and"
_MASKS = (
    (re.compile("|".join(p.replace(" ", r"\s*") for p in PRODUCTS[:-1]), re.I), "<product>"),
    (re.compile(r"\b(?:bb-?)?\d{4,6}\b", re.I), "<order>"),
    (re.compile(rf"^(?:{_GREETING})(?: (?:{_ADDRESSED}))*[,.!:]\s*", re.I), ""),
)


def masked(ticket: str) -> str:
    """The ticket without its surface: product, order number and greeting out, lower case, one space."""
    for pattern, to in _MASKS:
        ticket = pattern.sub(to, ticket)
    return " ".join(re.sub(r"[^\w<>]+", " ", ticket.lower()).split())


def shingles(ticket: str, n: int = 5) -> frozenset[str]:
    """The set of character n-grams of the masked ticket."""
    text = masked(ticket)
    return frozenset(text[i : i + n] for i in range(max(1, len(text) - n + 1)))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Size of the intersection over size of the union, 0..1 (Jaccard 1912)."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if a or b else 0.0


def near_copies(
    rows: list[dict], against: list[dict], limit: float = 0.5
) -> list[tuple[str, str, float]]:
    """Pairs (id, id, similarity) of tickets in ``rows`` too like one in ``against``; lesson 03, section 3.3."""
    others = [(row["id"], shingles(row["ticket"])) for row in against]
    found = []
    for row in rows:
        mine = shingles(row["ticket"])
        for other, theirs in others:
            shorter, longer = sorted((len(mine), len(theirs)))
            if shorter <= limit * longer or other == row["id"]:
                continue  # even if all of the shorter one were shared
            if (similarity := jaccard(mine, theirs)) > limit:
                found.append((row["id"], other, round(similarity, 3)))
    return sorted(found, key=lambda pair: -pair[2])

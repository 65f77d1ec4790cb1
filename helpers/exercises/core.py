"""Check an answer, say what is wrong with it, give hints, show a solution, and remember what is done.

Introduced in lesson 00. An exercise's grader gets the learner's answer and raises ``Wrong`` with the cause; nothing
that a learner writes ends in a traceback.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import linecache
import os
import pprint
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from helpers import runtime

LESSONS = range(8)
_given: dict[str, int] = {}  # how many hints of an exercise were shown in this session


class Wrong(Exception):
    """The cause why an answer does not pass, in a sentence for the learner."""


class Empty(Exception):
    """Nothing was written yet: the answer, or what a function returned, is None or ``...``."""


@dataclass(frozen=True)
class Exercise:
    """One task. ``grade(answer, **given)`` returns what is right about an answer, or raises ``Wrong`` with the cause.

    ``expects`` says what an answer is, ``ours`` is one that passes, and ``why`` explains it.
    """

    id: str
    title: str
    expects: str
    grade: Callable[..., str]
    hints: tuple[str, str, str]
    ours: object
    why: str


def _exercises(lesson: int) -> tuple[Exercise, ...]:
    return importlib.import_module(f"helpers.exercises.lesson_{lesson:02d}").EXERCISES


def find(name: str) -> Exercise:
    """The exercise of that id; raises ValueError that lists the ids there are."""
    known = {exercise.id: exercise for lesson in LESSONS for exercise in _exercises(lesson)}
    if name not in known:
        raise ValueError(f"exercise {name!r} does not exist; one of {', '.join(known)}")
    return known[name]


def _is_empty(answer) -> bool:
    if isinstance(answer, dict):
        return not answer or any(_is_empty(value) for value in answer.values())
    return answer is None or answer is ...


def _where(error: Exception, source: str) -> str:
    """The learner's own line on the way to the error, and the error's text."""
    said = f"{type(error).__name__}: {error}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == source]
    if not frames:
        return f"it could not be called as the task says. {said}"
    line = frames[-1].line or linecache.getline(source, frames[-1].lineno).strip()
    return f"it stopped at line {frames[-1].lineno}, {line!r}, with {said}"


def _guarded(function: Callable) -> Callable:
    """The learner's function: called on copies of lists and dictionaries, its errors turned into ``Wrong``."""
    source = getattr(getattr(function, "__code__", None), "co_filename", "")

    def mine(*arguments):
        own = [copy.deepcopy(a) if isinstance(a, (list, dict)) else a for a in arguments]
        try:
            said = function(*own)
        except NotImplementedError:
            raise Empty from None
        except Exception as error:
            raise Wrong(_where(error, source)) from None
        if said is None or said is ...:
            raise Empty
        return said

    return mine


def check(name: str, answer, **given):
    """Grade an answer and print the verdict; returns the answer if it passes, else ours, so that a lesson goes on.

    ``given`` is what an exercise needs beside the answer (a tokenizer, a way to generate). Raises ValueError for an
    unknown id, and for nothing that the answer does.

    >>> best = check("E0.1", beats)
    """
    exercise = find(name)
    wants_function = callable(exercise.ours)
    try:
        if _is_empty(answer):
            raise Empty
        if wants_function and not callable(answer):
            raise Wrong(f"this is a {type(answer).__name__}; a function is expected, without ()")
        verdict = exercise.grade(_guarded(answer) if wants_function else answer, **given)
    except Empty:
        extra = " (Did you forget `return`?)" if wants_function and callable(answer) else ""
        print(f"{name} is still empty: write {exercise.expects}.{extra}")
    except Wrong as cause:
        print(f"{name} not yet: {cause}")
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        # an answer of another shape than the grader reads
        said = f"{type(error).__name__}: {error}"
        print(f"{name} not yet: the answer has another form than {exercise.expects} ({said}).")
    else:
        print(f"{name} done: {verdict}")
        _remember(name)
        print(_line(*_count(_done())))
        return answer
    print(f'What follows uses our answer. hint("{name}") helps, solution("{name}") shows ours.')
    return exercise.ours


def hint(name: str) -> None:
    """Print the next of the exercise's three hints; the third is repeated."""
    steps = find(name).hints
    _given[name] = min(_given.get(name, 0) + 1, len(steps))
    print(f"{name}, hint {_given[name]} of {len(steps)}: {steps[_given[name] - 1]}")


def solution(name: str) -> None:
    """Print our answer and why it is one. Others pass too: a check asks for properties."""
    exercise = find(name)
    ours = exercise.ours
    print(inspect.getsource(ours) if callable(ours) else pprint.pformat(ours, width=88))
    print(f"Why: {exercise.why}")


def progress_path() -> Path:
    """Where is kept what is done: ``runs/exercises.json``."""
    return runtime.runs_dir() / "exercises.json"


def _done() -> dict[str, str]:
    """Exercise id -> when it passed first; a file that cannot be read counts as empty, and is said so."""
    path = progress_path()
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    print(f"{path.name} cannot be read: the count of exercises starts anew.")
    return {}


def _remember(name: str) -> None:
    """Note a passed exercise, under a file lock, so that two notebooks lose none of each other's."""
    from filelock import FileLock

    path = progress_path()
    with FileLock(f"{path}.lock"):
        done = _done()
        done.setdefault(name, datetime.now(UTC).isoformat(timespec="seconds"))
        part = path.with_suffix(".json.part")
        part.write_text(json.dumps(done, indent=1), encoding="utf-8")
        os.replace(part, path)


def _count(done: dict[str, str]) -> tuple[int, int]:
    ids = [exercise.id for lesson in LESSONS for exercise in _exercises(lesson)]
    return sum(name in done for name in ids), len(ids)


def _line(count: int, total: int) -> str:
    return f"[{'#' * count}{'.' * (total - count)}] {count} of {total} exercises done"


def progress() -> None:
    """Print a line for each lesson, what is done and what is open, and one for all."""
    done = _done()
    for lesson in LESSONS:
        states = [f"{e.id} {'done' if e.id in done else 'open'}" for e in _exercises(lesson)]
        print(f"lesson {lesson:02d}: " + ", ".join(states))
    print(_line(*_count(done)))

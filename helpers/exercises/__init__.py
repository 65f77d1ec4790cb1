"""The exercises: ``check``, ``hint``, ``solution`` and ``progress`` for every lesson.

``core`` holds the four functions, and one module a lesson holds its tasks: how an answer is graded, three hints, and
an answer of ours. Introduced in lesson 00.
"""

from helpers.exercises.core import Exercise, Wrong, check, hint, progress, solution

__all__ = ["Exercise", "Wrong", "check", "hint", "progress", "solution"]

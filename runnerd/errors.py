"""errors: the few kinds of failure that people get to read. Each message is a whole sentence."""

from __future__ import annotations

from .model import Problem


class RunnerdError(Exception):
    """Something that a person can put right. The message says what and how."""


class Invalid(RunnerdError):
    """A file that cannot be accepted. `problems` holds every fault, at least one, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems[0].message)
        self.problems = problems


class Denied(RunnerdError):
    """A job that its submitter may not run. The code of each problem is the field that asks."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems[0].message)
        self.problems = problems


class NotStartable(RunnerdError):
    """An executor could not start a step."""


class SpoolError(RunnerdError):
    """The spool cannot be used as it is."""

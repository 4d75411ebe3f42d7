"""faults: take down what is wrong with a file, each fault at its place. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from .frozen import frozen
from .model import Problem
from .yamlsafe import Document, Entry, Node, cut

MOST = 100
"""Nobody reads more than the first faults, and a hostile file can have a hundred thousand."""


@frozen
class Faults:
    """The faults of one document; `path` is the field that is looked at."""

    document: Document
    path: str = ""
    _found: list[Problem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def full(self) -> bool:
        return len(self._found) >= MOST

    def below(self, name: str) -> Faults:
        """The same list, for what stands under a name."""
        return Faults(self.document, f"{self.path}.{name}" if self.path else name, self._found)

    def add(self, message: str, at: Node | Entry | None, *, code: str = "bad-value") -> None:
        where = f"`{cut(self.path)}`: " if self.path else ""
        self._found.append(self.document.problem(code, where + message, at))

    def take(self, problems: Iterable[Problem]) -> None:
        """Add what was found elsewhere in this document."""
        self._found.extend(problems)

    def unknown(
        self, name: str, known: Iterable[str], at: Node | Entry, *, what: str = "field"
    ) -> None:
        """A field that nobody declared."""
        full = f"{self.path}.{name}" if self.path else name
        hint = nearest(name, known) or _listed(known)
        message = f"unknown {what} `{cut(full)}`: {hint}"
        self._found.append(self.document.problem(f"unknown-{what}", message, at))

    def problems(self) -> tuple[Problem, ...]:
        """The first of them, in the order of the file."""
        return tuple(sorted(self._found, key=_place)[:MOST])


def nearest(name: str, known: Iterable[str]) -> str | None:
    """What somebody may have meant, as a question."""
    import difflib  # noqa: PLC0415  # for mistakes alone

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _listed(known: Iterable[str]) -> str:
    names = sorted(known)
    verb = "there are" if len(names) > 1 else "there is only"
    return f"{verb} {', '.join(names)}" if names else "there are none"


def _place(problem: Problem) -> tuple[int, int]:
    return problem.line or 0, problem.column or 0

"""entrypoints: plugins that other Python packages bring, by the names of their entry points.

A package's pyproject.toml says, and the name is the one that job files use:

    [project.entry-points."runnerd.executors"]
    NAME = "package.module:Class"

Guarantees: a plugin that cannot be used is left out, with a sentence why. It is code of the
            administrator's all the same: against one that means harm, or that never returns, there
            is no guard.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
FOREIGN = (Exception, SystemExit)  # what code of somebody else's may raise


class Unusable(Exception):
    """Why a plugin is left out."""


def load(
    group: str, taken: Collection[str], make: Callable[[EntryPoint], T]
) -> tuple[dict[str, T], dict[str, str]]:
    """All plugins of a group by name, and why others are left out. `taken`: built-in names.

    `make` makes one, or raises Unusable.
    """
    found: dict[str, T] = {}
    broken: dict[str, str] = {}
    if not _may_be_named(group):
        return found, broken
    from importlib.metadata import entry_points  # noqa: PLC0415  # large: a reader of mail, and more

    try:
        points = sorted(entry_points(group=group), key=lambda point: (point.name, point.value))
    except FOREIGN as error:  # what describes some package is damaged
        return found, {"*": f"packages cannot be asked for plugins: {worded(error)}"}
    for point in points:
        try:
            if point.name in broken:
                continue
            if point.name in found:
                del found[point.name]
                raise Unusable("two packages have a plugin of this name")
            found[point.name] = make(point)
        except Unusable as why:
            key = f"{point.name} ({point.value})" if point.name in taken else point.name
            broken[key] = str(why)
    return found, broken


def _may_be_named(group: str) -> bool:
    """Whether a package here names the group, or may do so in a way that is not known to us."""
    finders = [each for each in sys.meta_path if hasattr(each, "find_distributions")]
    try:
        return finders != [PathFinder] or any(group in said for said in _descriptions())
    except (OSError, ValueError):
        return True  # an archive, or something odd: let it be looked at properly


def _descriptions() -> Iterator[str]:
    """What the packages on Python's path say of their entry points."""
    for directory in map(Path, sys.path):
        if not directory.exists():
            continue
        for each in os.listdir(directory):
            if each.lower().endswith((".dist-info", ".egg-info")) or each.lower() == "egg-info":
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    yield (directory / each / "entry_points.txt").read_text("utf-8")


def made(point: EntryPoint, check: Callable[[Any], None]) -> Any:
    """What the entry point leads to, called without arguments and found good. Raises Unusable."""
    try:
        plugin = point.load()()
        check(plugin)
    except Unusable:
        raise
    except FOREIGN as error:
        raise Unusable(f"{point.value} failed to load: {worded(error)}") from error
    return plugin


def worded(error: BaseException) -> str:
    """A failure of somebody else's code in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__

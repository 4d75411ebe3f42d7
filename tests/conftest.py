"""What all tests share: the option for heavy ones, and a spool with a daemon."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from spoolbox import Opener, SpoolBox

from runnerd.spool import Spool


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take a while, too")
    parser.addoption("--heavy", action="store_true", help="run these, and those that take long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    heavy = config.getoption("--heavy")
    slow = heavy or config.getoption("--slow")
    for item in items:
        if item.get_closest_marker("heavy") and not heavy:
            item.add_marker(pytest.mark.skip(reason="takes long: --heavy"))
        if item.get_closest_marker("slow") and not slow:
            item.add_marker(pytest.mark.skip(reason="takes a while: --slow"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(autouse=True)
def _stay_here() -> Iterator[None]:
    """A job that is started in the tests' own process changes its directory."""
    here = Path.cwd()
    yield
    os.chdir(here)


@pytest.fixture
def open_spool() -> Iterator[Opener]:
    with contextlib.ExitStack() as stack:

        def open_one(root: Path, group: str | None = None) -> Spool:
            return stack.enter_context(contextlib.closing(Spool.open(root, group=group)))

        yield open_one


@pytest.fixture
def box(tmp_path: Path) -> Iterator[SpoolBox]:
    """A spool of its own; no daemon yet. Afterwards nothing of it may be left running."""
    spool_box = SpoolBox(tmp_path)
    yield spool_box
    spool_box.close()

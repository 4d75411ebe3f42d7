"""What the tests share that boot a Debian: the package, and a system with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import booted
import debian
import package
import pytest
from booted import Booted


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the whole run, which may have several processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def deb(shared: Path) -> Path:
    if shutil.which("dpkg-buildpackage") is None:
        pytest.skip("no dpkg-buildpackage to make a package")
    assert not package.missing()
    return package.built(shared)


@pytest.fixture(params=debian.RELEASES)
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Booted]:
    """A Debian without runnerd."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("no mmdebstrap to make a Debian")
    assert not booted.missing()
    with booted.booted(request.param, tmp_path) as system:
        yield system


@pytest.fixture
def system(bare: Booted, deb: Path) -> Booted:
    """A Debian where runnerd was installed, and so runs."""
    package.install(bare, deb)
    return bare

"""package: the Debian package of this tree, built once for a run of the tests, and a higher one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import debian
from booted import Booted

from runnerd import __version__

PROJECT = Path(__file__).parents[2]
HIGHER = "99.0"


def missing() -> list[str]:
    """What this machine lacks to build one."""
    needed = ("dpkg-buildpackage", "dh", "dh_python3", "lintian")
    return [each for each in needed if shutil.which(each) is None]


def built(shared: Path) -> Path:
    """The package. `shared`: a directory for all who test at the same time."""
    return _once(PROJECT, shared / "package") / f"runnerd_{__version__}_all.deb"


def higher(shared: Path) -> Path:
    """The same with a higher version and another runnerd.yaml."""
    tree = shared / "tree"
    with debian.locked(shared / "tree.lock"):
        if not tree.exists():
            _make_higher(tree)
    return _once(tree, shared / "higher") / f"runnerd_{HIGHER}_all.deb"


def install(system: Booted, deb: Path, *options: str) -> None:
    """As administrators do. Also for an upgrade."""
    shutil.copy(deb, system.path("/srv/runnerd.deb"))
    system.run("apt-get", "install", "-qq", "-y", *options, "/srv/runnerd.deb")
    system.path("/srv/runnerd.deb").unlink()


def _once(tree: Path, into: Path) -> Path:
    with debian.locked(into.with_suffix(".lock")):
        if not into.exists():
            new = into.with_suffix(".new")
            command = ["sh", str(tree / "packaging/build"), str(new)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            new.rename(into)
    return into


def _make_higher(tree: Path) -> None:
    new = tree.with_suffix(".new")
    shutil.copytree(
        PROJECT, new, ignore=shutil.ignore_patterns(".*", "__pycache__", "dist", "tests")
    )
    for name, old, fresh in (
        ("runnerd/__init__.py", f'"{__version__}"', f'"{HIGHER}"'),
        ("packaging/debian/changelog", f"({__version__})", f"({HIGHER})"),
        ("etc/runnerd.yaml", "\n\n", "\n# A line that this version brings.\n\n"),
    ):
        text = (new / name).read_text()
        assert old in text
        (new / name).write_text(text.replace(old, fresh, 1))
    new.rename(tree)

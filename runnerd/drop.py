"""drop: what a submitter does: write under a name that is no job yet, then rename.

Nobody sees half of it, and when it returns, the job is on disk. Works with no right but that of
dropping: the boxes cannot be listed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from . import ids
from .disk import rename_new
from .errors import RunnerdError
from .openat import sign


def drop_file(box: Path, name: str, data: bytes) -> None:
    """Drop a file. Raises FileExistsError if the name is taken, RunnerdError."""
    with _dropping(box, name) as (at, hidden, on_error):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(hidden, flags, 0o600, dir_fd=at)
        on_error.callback(os.unlink, hidden, dir_fd=at)
        with os.fdopen(fd, "wb") as new:
            _fill(fd, data)
            rename_new(hidden, name, at=at, to=at)
            on_error.pop_all()
            os.fsync(new.fileno())  # the new name as well: the drop box cannot be opened


def drop_bundle(
    box: Path, name: str, job_file: str, data: bytes, sources: Mapping[str, Path]
) -> None:
    """Drop a directory with a job file and copies of these, by their names there. Raises as above.

    The copies can be written by nobody else, whatever the mode of the originals.
    """
    with _dropping(box, name) as (at, hidden, on_error):
        bundle = box / hidden
        bundle.mkdir(0o700)
        on_error.callback(shutil.rmtree, bundle, ignore_errors=True)
        for target, source in sources.items():
            _copy(source, bundle / target)
        for each in bundle.rglob("*"):
            each.chmod(stat.S_IMODE(each.stat().st_mode) & 0o755)
            _sync(each)
        fd = os.open(bundle / job_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb"):
            _fill(fd, data)
        _sync(bundle)
        held = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rename_new(hidden, name, at=at, to=at)
            on_error.pop_all()
            os.fsync(held)
        finally:
            os.close(held)


def sources_of(inputs: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """What is to be copied, by the name that it gets. Raises RunnerdError."""
    found: dict[str, Path] = {}
    for each in inputs:
        path = Path(each)
        name = path.resolve().name if path.name in ("", "..") else path.name
        if not name or name in ids.JOB_FILES:
            raise RunnerdError(f"{each}: no input can have the name {name!a}")
        if name in found:
            raise RunnerdError(f"{each}: another input has this name: {found[name]}")
        found[name] = path
    return found


@contextlib.contextmanager
def _dropping(box: Path, name: str) -> Iterator[tuple[int, str, contextlib.ExitStack]]:
    """The box, a name of ours in it, and where to say what is to be undone."""
    try:
        at = os.open(box, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.ExitStack() as on_error:
                yield at, f".{name}.{secrets.token_hex(6)}.tmp", on_error
        finally:
            os.close(at)
    except FileExistsError:
        raise
    except OSError as error:
        raise RunnerdError(f"{box}: nothing can be dropped: {error.strerror}") from error


def _fill(fd: int, data: bytes) -> None:
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    if os.geteuid() == 0:
        sign(fd)
    os.fsync(fd)


def _copy(source: Path, target: Path) -> None:
    """Copy what a link leads to, for a bundle can hold none. Raises RunnerdError."""
    try:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    except shutil.Error as error:  # of a tree: all that went wrong, or the one thing that did
        found = error.args[0]
        path, _, why = found[0] if isinstance(found, list) else (source, None, found)
        raise RunnerdError(f"{path}: {why}") from error
    except OSError as error:
        raise RunnerdError(f"{error.filename or source}: {error.strerror}") from error


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

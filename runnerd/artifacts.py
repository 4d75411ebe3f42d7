"""artifacts: keep what a job made: the files below work/ that it names, copied into artifacts/.

A pattern is matched part by part, as a shell does: `*` and `?` stop at a slash and pass over names
with a leading dot, `**` is any number of directories. A directory that matches is kept whole.

Trust: work/ belongs to the job's user, who may change it at any moment. Every part of a path is
       opened by itself, with that user's rights and no more, and no link is followed, no FIFO
       waited for, no other file system entered. What is copied is what is hashed and listed.
Errors: OSError of our own side of the copy, too, leaves a file out, with a word about it: work/ is
       kept with the job, so nothing is lost.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .disk import DIRECTORY, Disk
from .jobdir import READABLE
from .model import Account, Artifact, Limits, When
from .outcome import ArtifactFile
from .units import size_in_words

MOST_BYTES = 1 << 30  # of all artifacts of a job, where its limits do not say
MOST_FILES = 1000
_MOST_NAMES = 100_000  # that are looked at
_DEEPEST = 50
_COMPLAINTS = 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GLOB = frozenset("*?[")


@dataclass(slots=True)
class Collected:
    """What was kept. `left_out`: how much was not; `complaints`: what first, and why.

    `missing`: the patterns of what had to be there, and is not.
    """

    files: list[ArtifactFile] = field(default_factory=list)
    left_out: int = 0
    complaints: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def leave_out(self, path: str, why: str) -> None:
        """Remember that something is not kept."""
        self.left_out += 1
        if self.left_out <= _COMPLAINTS:
            self.complaints.append(f"{path} was left out: {why}")

    def told(self) -> list[str]:
        """The complaints, for the job's log."""
        more = self.left_out - len(self.complaints)
        return [*self.complaints, *([f"and so were {more} more"] if more else [])]


def wanted(artifacts: Sequence[Artifact], *, good: bool) -> list[Artifact]:
    """The ones for a job that has ended so. What is required is so of a job that succeeded."""
    now = (When.ALWAYS, When.SUCCESS if good else When.FAILURE)
    return [each for each in artifacts if each.when in now]


def collect(
    artifacts: Sequence[Artifact],
    work_fd: int,
    kept_fd: int,
    account: Account,
    limits: Limits | None,
    disk: Disk,
) -> Collected:
    """Copy what matches from below one directory to below another, which is empty, and sync it."""
    limits = limits or Limits()
    copier = _Copier(
        work_fd,
        kept_fd,
        account,
        disk,
        bytes_left=MOST_BYTES if limits.artifacts_bytes is None else limits.artifacts_bytes,
        files_left=MOST_FILES if limits.artifact_files is None else limits.artifact_files,
    )
    for each in artifacts:
        if not copier.keep(parts_of(each.path)) and each.required:
            copier.found.missing.append(each.path)
    copier.sync()
    return copier.found


def parts_of(pattern: str) -> tuple[str, ...]:
    """The parts of a pattern. Pure."""
    return tuple(part for part in pattern.split("/") if part not in ("", "."))


def matches(name: str, part: str) -> bool:
    """Whether a name matches one part of a pattern. Pure."""
    hidden = name.startswith(".") and not part.startswith(".")
    return name == part or (not hidden and fnmatchcase(name, part))


@contextlib.contextmanager
def rights_of(account: Account) -> Iterator[None]:
    """Look at files as this user. Not for a process with threads.

    Our real and saved ids stay root's, so the user can neither trace nor signal us meanwhile, and
    file systems in user space that are the user's own do not answer us, nor keep us waiting.
    """
    if account.uid == os.geteuid():
        yield
        return
    own, groups = (os.geteuid(), os.getegid()), os.getgroups()
    try:
        os.setgroups(account.groups)
        os.setegid(account.gid)
        os.seteuid(account.uid)
        yield
    finally:
        os.seteuid(own[0])
        os.setegid(own[1])
        os.setgroups(groups)


@dataclass(slots=True)
class _Copier:
    """The way of files from `work_fd` to `kept_fd`."""

    work_fd: int
    kept_fd: int
    account: Account
    disk: Disk
    bytes_left: int
    files_left: int
    found: Collected = field(default_factory=Collected)
    _names_left: int = _MOST_NAMES
    _done: set[tuple[str, ...]] = field(default_factory=set)

    def keep(self, pattern: tuple[str, ...]) -> bool:
        """Copy what matches; whether all of that, and so something, is kept now."""
        before = self.found.left_out
        with rights_of(self.account):
            paths = list(self._matching(self.work_fd, pattern, ()))
        for path in paths:
            if path not in self._done:
                self._copy(path)
        return bool(paths) and self.found.left_out == before

    # --- with the rights of the job's user ------------------------------------------------------

    def _matching(
        self, dir_fd: int, pattern: tuple[str, ...], above: tuple[str, ...]
    ) -> Iterator[tuple[str, ...]]:
        """The paths of the files that match below a directory, each once."""
        if len(above) > _DEEPEST:
            self._complain(above, f"lies deeper than {_DEEPEST} directories")
            return
        first, rest = (pattern[0], pattern[1:]) if pattern else ("**", ())
        if first == "**":
            if rest:
                yield from self._matching(dir_fd, rest, above)
            names, deeper = self._names(dir_fd, above), pattern
            if pattern:
                names = [each for each in names if not each.startswith(".")]
        elif _GLOB & set(first):
            names = [each for each in self._names(dir_fd, above) if matches(each, first)]
            deeper = rest
        else:
            names, deeper = [first], rest
        for name in names:
            yield from self._matching_at(dir_fd, name, deeper, (*above, name), whole=not rest)

    def _matching_at(
        self,
        dir_fd: int,
        name: str,
        pattern: tuple[str, ...],
        path: tuple[str, ...],
        *,
        whole: bool,
    ) -> Iterator[tuple[str, ...]]:
        try:
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._complain(path, error.strerror or str(error))
            return
        if stat.S_ISDIR(status.st_mode):
            if status.st_dev != os.fstat(self.work_fd).st_dev:
                self._complain(path, "is another file system")
                return
            with self._opened(dir_fd, name, path) as inner:
                if inner is not None:
                    yield from self._matching(inner, pattern, path)
        elif whole and stat.S_ISREG(status.st_mode):
            yield path
        elif whole:
            self._complain(path, "is neither a file nor a directory")

    def _names(self, dir_fd: int, above: tuple[str, ...]) -> list[str]:
        names = []
        try:
            with os.scandir(dir_fd) as entries:
                for entry in entries:
                    self._names_left -= 1
                    if self._names_left < 0:
                        self._complain(above, f"there are more than {_MOST_NAMES} names")
                        break
                    names.append(entry.name)
        except OSError as error:
            self._complain(above, error.strerror or str(error))
        return sorted(names)

    @contextlib.contextmanager
    def _opened(self, dir_fd: int, name: str, path: tuple[str, ...]) -> Iterator[int | None]:
        """A directory, or None with a complaint."""
        try:
            fd = os.open(name, DIRECTORY, dir_fd=dir_fd)
        except OSError as error:
            self._complain(path, error.strerror or str(error))
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def _open_source(self, path: tuple[str, ...]) -> int:
        """Open a file below work/, part by part. Raises OSError."""
        with contextlib.ExitStack() as opened, rights_of(self.account):
            at = self.work_fd
            for part in path[:-1]:
                at = os.open(part, DIRECTORY, dir_fd=at)
                opened.callback(os.close, at)
            return os.open(path[-1], _FILE, dir_fd=at)

    # --- with ours ------------------------------------------------------------------------------

    def _copy(self, path: tuple[str, ...]) -> None:
        try:
            "/".join(path).encode()
            source = self._open_source(path)
        except UnicodeEncodeError:
            self._complain(path, "has a name that is not UTF-8")
            return
        except OSError as error:
            self._complain(path, error.strerror or str(error))
            return
        try:
            status = os.fstat(source)
            if not stat.S_ISREG(status.st_mode) or status.st_dev != os.fstat(self.work_fd).st_dev:
                self._complain(path, "is not a file any more")
            elif self.files_left == 0:
                self._complain(path, "there are too many files")
            elif status.st_size > self.bytes_left:
                room = size_in_words(self.bytes_left)
                self._complain(path, f"is larger than the {room} that are left for artifacts")
            else:
                self._copy_open(source, status, path)
        except OSError as error:
            self._complain(path, error.strerror or str(error))
        finally:
            os.close(source)

    def _copy_open(self, source: int, status: os.stat_result, path: tuple[str, ...]) -> None:
        import hashlib  # noqa: PLC0415  # with OpenSSL, for jobs with artifacts alone

        with contextlib.ExitStack() as opened:
            at = self.kept_fd
            for part in path[:-1]:
                at = self._directory(part, at)
                opened.callback(os.close, at)
            mode = READABLE | (status.st_mode & 0o111)
            target = self.disk.create(path[-1], mode, at=at)
            with os.fdopen(target, "r+b", buffering=0) as file:
                try:
                    size = self.disk.copy(source, target, status.st_size)
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    self.disk.sync(target)
                except OSError:
                    self.disk.remove(path[-1], at=at)
                    raise
        self.bytes_left -= size
        self.files_left -= 1
        self._done.add(path)
        self.found.files.append(ArtifactFile(path="/".join(path), size=size, sha256=digest))

    def _directory(self, name: str, at: int) -> int:
        try:
            return self.disk.mkdir(name, 0o755, at=at)
        except FileExistsError:
            return os.open(name, DIRECTORY, dir_fd=at)

    def sync(self) -> None:
        """Put the names on disk; their content is."""
        for directory in sorted({each[:-1] for each in self._done}, key=len, reverse=True):
            with contextlib.ExitStack() as opened:
                at = self.kept_fd
                for part in directory:
                    at = os.open(part, DIRECTORY, dir_fd=at)
                    opened.callback(os.close, at)
                self.disk.sync(at)
        self.disk.sync(self.kept_fd)

    def _complain(self, path: tuple[str, ...], why: str) -> None:
        shown = "/".join(path).encode("utf-8", "backslashreplace").decode()
        self.found.leave_out(shown or "work/", why)

"""fsck: look at all of a spool while no daemon serves it, and mend what is damaged.

Jobs whose runners live are left alone, and so is all that the daemon settles by itself when it
starts. What is wrong with a filed job, `damage` says and `mend` puts right.

Trust: as for the daemon; in incoming/ and control/, where strangers write, nothing is judged.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import debts, layout, recovery, spares, webhook
from .conclude import Origin, conclude_strange
from .damage import NOTES, WILL, Fault, Found, Wrong
from .disk import DIRECTORY, Disk
from .errors import SpoolError
from .kin import end_leftovers
from .layout import PRUNING, Place
from .mend import FiledJob, opened_anyhow
from .model import JobId, State
from .outbox import DEAD, Damaged
from .recovery import Finding, Traces
from .remains import examine, keep_damaged, set_aside
from .spool import Spool
from .traces import LOG, STATUS, TIMING

_MOST_ROUNDS = 20
_OLD_S = 86400.0
_PLAIN = (LOG, TIMING, STATUS, ".cancel")  # of a job in running/, beside its claim and result
_MOVING = {Fault.MISPLACED, Fault.WRONG_ID, Fault.DUPLICATE}
_TWICE = "a job with this id was filed before; this one was not run again, but set aside as it is"


def fsck(
    root: Path, origin: Origin, *, repair: bool, group: str | None = None, disk: Disk | None = None
) -> list[Found]:
    """All that was found, in the order of the directories.

    Raises SpoolError if there is no spool of ours, or if a daemon serves it.
    """
    return _Check(Path(os.path.realpath(root)), origin, disk or Disk(), repair=repair).run(group)


class _Check:
    def __init__(self, root: Path, origin: Origin, disk: Disk, *, repair: bool) -> None:
        self._root = root
        self._origin = origin
        self._disk = disk
        self._repair = repair
        self._found: dict[Found, None] = {}  # in order, and each once
        self._moved = False

    def run(self, group: str | None) -> list[Found]:
        places = layout.places(group)
        try:
            root_fd = os.open(self._root, DIRECTORY)
        except OSError as error:
            raise SpoolError(f"{self._root}: there is no spool here: {error.strerror}") from error
        fds = {".": root_fd}
        try:
            self._insist_on_ours(places, root_fd)
            for place in places:
                self._open(place, fds)
            if len(fds) <= len(places):
                return list(self._found)  # the rest can be looked at when these are mended
            spool = Spool(self._root, self._disk, fds)
        except BaseException:
            layout.close_all(fds)
            raise
        with contextlib.closing(spool):
            self._look(spool, places, fds)
        return list(self._found)

    def _look(self, spool: Spool, places: list[Place], fds: dict[str, int]) -> None:
        directories = {name: fds[name] for name in fds}
        spool.lock()
        for place in (layout.ROOT, *places):
            self._rights(place, directories)
        self._look_at_root(spool, {each.name for each in places})
        for name in spool.unfinished():
            self._look_at_running(spool, name)
        for _ in range(_MOST_ROUNDS):
            self._moved = False
            for state, fd in spool.filed_fds.items():
                for name in sorted(os.listdir(fd)):
                    self._look_at_filed(spool, state, name)
            if not self._moved:
                break
        self._look_at_outbox(spool, directories["outbox"])
        for box in ("incoming", "control"):
            self._look_for_old_drops(box, directories[box])

    # --- the spool's own directories ------------------------------------------------------------

    def _insist_on_ours(self, places: list[Place], root_fd: int) -> None:
        """Root must not take a spool over that is another user's."""
        owners = {os.fstat(root_fd).st_uid}
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                owners.add(os.stat(place.name, dir_fd=root_fd, follow_symlinks=False).st_uid)
        if os.geteuid() not in owners:
            uid = min(owners)
            raise SpoolError(f"{self._root} belongs to uid {uid}; run fsck as that user")

    def _open(self, place: Place, fds: dict[str, int]) -> None:
        """Open one directory; make it if it is missing, or if something else has its name."""
        at = fds["."]
        try:
            fds[place.name] = os.open(place.name, DIRECTORY, dir_fd=at)
        except FileNotFoundError:
            wrong = Wrong(Fault.MISSING, "", "this directory is missing", "make it")
        except PermissionError:
            remedy = f"change it to {place.mode:04o}"
            wrong = Wrong(Fault.MODE, "", "its mode keeps the daemon out", remedy)
        except OSError:
            remedy = f"rename it to {place.name}.damaged, and make the directory"
            wrong = Wrong(Fault.WRONG_KIND, "", "this is no directory", remedy)
        else:
            return

        def mend() -> None:
            if wrong.fault is Fault.MODE:
                with opened_anyhow(place.name, at=at) as fd:
                    self._disk.set_mode(fd, place.mode)
            elif wrong.fault is Fault.WRONG_KIND:
                keep_damaged(self._disk, place.name, at=at)
            fds[place.name] = layout.open_or_make(place, self._disk, at=at)

        self._report(place.name, wrong, mend)

    def _rights(self, place: Place, fds: dict[str, int]) -> None:
        fd = fds[place.name]
        path = self._root if place is layout.ROOT else self._root / place.name
        for _ in range(_MOST_ROUNDS):
            unfit = layout.unfit_for(place, os.fstat(fd), path)
            if unfit is None:
                break
            fault = Fault.OWNER if unfit.mode is None else Fault.MODE
            mode = unfit.mode

            def mend(mode: int | None = mode) -> None:
                if mode is None:
                    self._disk.give(fd, os.geteuid(), -1)
                else:
                    self._disk.set_mode(fd, mode)

            if not self._report(place.name, Wrong(fault, "", unfit.message, unfit.remedy), mend):
                break
        if os.fstat(fd).st_dev != os.fstat(fds["."]).st_dev:
            message = layout.other_file_system(self._root)
            self._report(place.name, Wrong(Fault.OTHER_DEVICE, "", message, "move it there"))

    def _look_at_root(self, spool: Spool, known: set[str]) -> None:
        for name in sorted(set(os.listdir(spool.root_fd)) - known):
            kind = os.stat(name, dir_fd=spool.root_fd, follow_symlinks=False).st_mode
            if name in (".lock", ".paused", debts.OWED, debts.SETTLING):
                if not stat.S_ISREG(kind):
                    remedy = f"rename it to {name[1:]}.damaged"
                    wrong = Wrong(Fault.WRONG_KIND, "", "this is no plain file", remedy)
                    self._report(
                        name,
                        wrong,
                        partial(keep_damaged, self._disk, name, at=spool.root_fd),
                    )
            elif spares.is_spare(name) and stat.S_ISFIFO(kind):
                continue  # of a runner; the daemon removes those that are left when it starts
            elif name == PRUNING:
                self._look_at_pruning(spool, kind)
            elif name == ".paused.new" and stat.S_ISREG(kind):
                wrong = Wrong(Fault.LEFTOVER, "", "this was to become .paused", "remove it")
                self._report(name, wrong, partial(self._disk.remove, name, at=spool.root_fd))
            elif name in {f".{each}.new" for each in known} and stat.S_ISDIR(kind):
                wrong = Wrong(Fault.LEFTOVER, "", "this was to become a directory", "remove it")
                self._report(name, wrong, partial(self._disk.rmdir, name, at=spool.root_fd))
            elif name.startswith(".") and ".retry." in name and _is_plain(kind):
                message = "the daemon submits it when it starts"
                self._report(name, Wrong(Fault.PENDING, "", message))
            else:
                self._report(name, Wrong(Fault.UNKNOWN, "", "this is none of the spool's names"))

    def _look_at_pruning(self, spool: Spool, kind: int) -> None:
        """Jobs of which a part may be gone: they had been filed, and were to be removed."""
        if stat.S_ISDIR(kind):
            message = "jobs that were being removed; the daemon goes on with that when it starts"
            self._report(PRUNING, Wrong(Fault.PENDING, "", message))
            return
        remedy = f"rename it to {PRUNING[1:]}.damaged"
        wrong = Wrong(Fault.WRONG_KIND, "", "this is no directory", remedy)
        self._report(PRUNING, wrong, partial(keep_damaged, self._disk, PRUNING, at=spool.root_fd))

    def _look_for_old_drops(self, box: str, fd: int) -> None:
        """Tell what somebody began to drop, long ago. It is not ours to remove."""
        for name in sorted(os.listdir(fd)):
            if name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if time.time() - status.st_mtime > _OLD_S:
                        message = f"not dropped yet, older than a day; of uid {status.st_uid}"
                        self._report(f"{box}/{name}", Wrong(Fault.UNKNOWN, "", message))

    # --- jobs -----------------------------------------------------------------------------------

    def _look_at_running(self, spool: Spool, name: str) -> None:
        path = f"running/{name}"
        try:
            traces, claimed = examine(spool, name)
        except FileNotFoundError:
            return  # its runner has filed it meanwhile
        except PermissionError:
            wrong = Wrong(Fault.MODE, "", "its mode keeps the daemon out", "let its owner read it")
            if self._report(path, wrong, partial(self._let_in, spool, name)):
                self._look_at_running(spool, name)
            return
        finding = recovery.classify(traces, boot_id=spool.boot_id)
        with contextlib.closing(claimed) if claimed is not None else contextlib.nullcontext():
            if finding is Finding.ALIVE:
                self._report(path, Wrong(Fault.RUNNING, "", "it runs; its runner lives"))
            elif finding is Finding.STRANGE or traces.filed:
                self._set_aside(spool, name, traces)
            else:
                self._odd_parts(spool, name)
                self._report(path, Wrong(Fault.PENDING, "", WILL[finding]))

    def _set_aside(self, spool: Spool, name: str, traces: Traces) -> None:
        if traces.filed:
            wrong = Wrong(
                Fault.DUPLICATE,
                "",
                "a job with this id was filed already",
                "do not run it again; move it to failed/, or where its result says, "
                "under the next free id",
            )
            result = conclude_strange(name, time.time(), self._origin, _TWICE)
        else:
            remedy = "move it to failed/ as it is, with a result that says so"
            wrong = Wrong(Fault.STRANGE, "", "this cannot be understood", remedy)
            result = conclude_strange(name, time.time(), self._origin)

        def mend() -> None:
            end_leftovers(spool.path_of(JobId(name)))
            if recovery.may_have_left(traces):
                debts.owe(spool)
            set_aside(spool, name, result)

        self._report(f"running/{name}", wrong, mend)

    def _odd_parts(self, spool: Spool, name: str) -> None:
        """Find what would keep a runner from its work: a directory where a file belongs."""
        with spool.open_running(name) as dir_fd:
            for part in os.listdir(dir_fd):
                kind = os.stat(part, dir_fd=dir_fd, follow_symlinks=False).st_mode
                odd = not stat.S_ISREG(kind) if part in _PLAIN else not stat.S_ISDIR(kind)
                if odd and part in (*_PLAIN, "work"):
                    remedy = f"rename it to {part.lstrip('.')}.damaged"
                    wrong = Wrong(Fault.WRONG_KIND, "", "this is not what it should be", remedy)
                    self._report(
                        f"running/{name}/{part}",
                        wrong,
                        partial(keep_damaged, self._disk, part, at=dir_fd),
                    )

    def _let_in(self, spool: Spool, name: str) -> None:
        """Let us read a job's directory, and what we have to read in it."""
        with opened_anyhow(name, at=spool.running_fd) as fd:
            self._disk.set_mode(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)
        with spool.open_running(name) as dir_fd:
            for part, mode in ((".claim", 0o600), ("result.json", 0o644)):
                with contextlib.suppress(FileNotFoundError), opened_anyhow(part, at=dir_fd) as fd:
                    if stat.S_ISREG(os.fstat(fd).st_mode):
                        self._disk.set_mode(fd, mode)

    def _look_at_filed(self, spool: Spool, place: State, name: str) -> None:
        """Mend one thing and look again, until nothing is wrong or can be mended."""
        hopeless: set[Wrong] = set()
        for _ in range(_MOST_ROUNDS):
            job = FiledJob(spool, place, name, self._origin)
            try:
                with job.opened() as wrongs:
                    todo = [each for each in wrongs if each.fault not in NOTES]
                    todo = [each for each in todo if each not in hopeless]
                    if not self._repair or not todo:
                        self._report_all(
                            place, name, [each for each in wrongs if each not in hopeless]
                        )
                        return
                    first = todo[0]
                    mended = self._report(
                        _path(place, name, first.file), first, partial(job.mend, first)
                    )
            except FileNotFoundError:
                return  # it was moved
            if not mended:
                hopeless.add(first)
            elif first.fault in _MOVING:
                self._moved = True

    def _report_all(self, place: State, name: str, wrongs: list[Wrong]) -> None:
        for each in wrongs:
            self._report(_path(place, name, each.file), each)

    # --- what is to be told ---------------------------------------------------------------------

    def _look_at_outbox(self, spool: Spool, outbox_fd: int) -> None:
        """Set aside what is no entry, under a name that says so. Its content is kept."""
        for name in sorted(os.listdir(outbox_fd)):
            path = f"outbox/{name}"
            entry = webhook.read_name(name)
            kind = os.stat(name, dir_fd=outbox_fd, follow_symlinks=False).st_mode
            if name == DEAD and stat.S_ISDIR(kind):
                continue
            if entry is None and name != DEAD:
                torn = name.startswith(".") and name.endswith(".new") and stat.S_ISREG(kind)
                if torn and webhook.read_name(name[1:].removesuffix(".new")) is not None:
                    message = "this was to become an entry; the daemon removes it when it starts"
                    self._report(path, Wrong(Fault.PENDING, "", message))
                else:
                    self._report(path, Wrong(Fault.UNKNOWN, "", "this is none of its names"))
                continue
            try:
                if entry is None:
                    raise Damaged("this is no directory")
                spool.outbox.read(entry)
            except Damaged as why:
                kept = f"{name.lstrip('.')}.damaged"
                wrong = Wrong(
                    Fault.BAD_ENTRY, "", f"this is no event: {why}", f"rename it to {kept}"
                )
                self._report(path, wrong, partial(spool.outbox.set_aside, name))
            except OSError as error:
                self._report(path, Wrong(Fault.MODE, "", f"it cannot be read: {error.strerror}"))
            else:
                if entry.hidden and not spool.is_running(entry.job):
                    message = "its job is filed; the daemon has it told when it starts"
                    self._report(path, Wrong(Fault.PENDING, "", message))

    # --- the report -----------------------------------------------------------------------------

    def _report(self, path: str, wrong: Wrong, mend: Callable[[], object] | None = None) -> bool:
        """Take it down, and mend it if that is wanted; whether it is mended."""
        message, mended = wrong.message, False
        if mend is not None and self._repair:
            try:
                mend()
            except OSError as error:
                message += f"; it could not be mended: {error.strerror}"
            else:
                mended = True
        found = Found(
            path=path, fault=wrong.fault, message=message, remedy=wrong.remedy, mended=mended
        )
        self._found[found] = None
        return mended


def _is_plain(kind: int) -> bool:
    return stat.S_ISREG(kind) or stat.S_ISDIR(kind)


def _path(place: State, name: str, file: str) -> str:
    return f"{place}/{name}/{file}" if file else f"{place}/{name}"

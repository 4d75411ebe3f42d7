"""intake: from a name in incoming/ to a place in the queue, and from there to a claim.

Errors: a submitter's fault becomes a filed result. Trouble with one name leaves that name alone;
        the machine's goes to `Trouble`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from . import events, ids, openat
from .admit import Accepted, file_refused, judge
from .conclude import Origin
from .configfile import Setup
from .jobdir import Claimed
from .model import JobSpec, Problem, Reason, Refusal
from .outcome import Result
from .schedule import DEFAULT_QUEUE, Queue, Queued
from .spool import Judged, Spool
from .trouble import Trouble, is_of_the_machine

JUDGE_FOR_S = 0.05  # between two looks at runners and signals


class Intake:
    """What the daemon knows of incoming/: a cache, made good by the next scan."""

    def __init__(
        self,
        spool: Spool,
        setup: Setup,
        queue: Queue,
        ended: deque[str],
        trouble: Trouble,
        origin: Origin,
        count: Callable[[Result], None],
    ) -> None:
        self.setup = setup
        self.woken = True
        self.unsettled = False  # something is to be looked at again soon
        self.told = False  # there is news in the outbox
        self._spool = spool
        self._queue = queue
        self._ended = ended  # jobs whose end others may wait for
        self._trouble = trouble
        self._origin = origin
        self._accepted = Accepted()
        self._count = count  # a job that was refused
        self._unjudged: deque[str] = deque()
        self._in_hand: Judged | None = None  # accepted just now, and still open
        self._stuck: set[str] = set()  # names that we cannot even move
        self.scanned_at = self.scan_cost_s = 0.0  # monotonic

    def __len__(self) -> int:
        """How many files are not judged yet."""
        return len(self._unjudged)

    # --- look -----------------------------------------------------------------------------------

    def scan(self, now: float) -> None:
        """Compare incoming/ with what we know of it; what is new is judged in order of arrival."""
        stuck = self._stuck if self.woken else set()  # now and then they get another chance
        self.woken = self.unsettled = False
        self.scanned_at = now
        try:
            found = self._spool.look()
        except OSError as error:
            self.cannot_look(error, now)
            return
        self._trouble.worked("look")
        self._trouble.forget_files(found)
        for name in self._queue.files() - found.keys():
            self._queue.discard(name)  # its submitter took it away
            self._accepted.forget(name)
        self._stuck &= found.keys()
        new = [
            name
            for name, inode in found.items()
            if self._queue.inode(name) != inode and name not in stuck
        ]
        self._unjudged = deque(sorted(new, key=lambda name: (self._spool.dropped_at(name), name)))
        self.scanned_at = time.monotonic()
        self.scan_cost_s = self.scanned_at - now

    def cannot_look(self, error: Exception, now: float) -> None:
        """Look again in a moment."""
        self.woken, self.unsettled = False, True
        self.scanned_at = now
        self._trouble.tell(error, "look")

    def judge_some(self) -> None:
        """Judge files for a short while: a hostile one may cost as much as a thousand others."""
        until = time.monotonic() + JUDGE_FOR_S
        while self._unjudged and time.monotonic() < until:
            self.let_go()
            self._in_hand = self._judge(self._unjudged.popleft())
            if self._in_hand is not None:
                self._line_up(self._in_hand)

    def let_go(self) -> None:
        """Whatever was judged last, its turn was not at once: others may write it again."""
        if self._in_hand is not None:
            self._in_hand.release()
            self._in_hand = None

    def _judge(self, name: str) -> Judged | None:
        """The file, open and accepted; None if it is gone, still being written, or was refused."""
        now = time.time()
        try:
            judged = judge(self._spool, name, self.setup, now=now, accepted=self._accepted)
        except FileNotFoundError:
            return None
        except openat.Busy:
            self.unsettled = True
            return None
        except OSError as error:
            self._cannot("judge", name, error)
            return None
        self._trouble.worked("judge", name)
        if not isinstance(judged.verdict, Refusal):
            return judged
        with judged:
            claimed = self._claim(judged, None)
        if claimed is not None:
            self._file(claimed)
        return None

    # --- the queue ------------------------------------------------------------------------------

    def _line_up(self, judged: Judged) -> None:
        """Give an accepted file its place, unless it can never have its turn."""
        queued = queued_of(judged, now=time.time())
        circle = self._queue.circle(queued)
        if circle is not None:
            message = f"the jobs need each other: {' -> '.join(circle)}"
            self._refuse(judged, Reason.INVALID, "needs", message)
            return
        open_needs = []
        for need in queued.needs:
            done = self._spool.ended(need)
            if done is False:
                self._refuse(judged, Reason.DEPENDENCY, "needs", failed_need(need))
                return
            if done is None:
                open_needs.append(need)
        self._queue.add(queued, open_needs=open_needs)

    def turn_away(self, queued: Queued, reason: Reason, code: str, message: str) -> bool:
        """Refuse a job that was to wait. False: its file is gone, or cannot be taken now."""
        judged = self._judge(queued.name)
        if judged is None:
            return False
        with judged:
            return self._refuse(judged, reason, code, message)

    def judge_at_once(self, job_id: str) -> None:
        """Give a job its place in the queue now, if its file still waits to be judged."""
        for suffix in (*ids.SUFFIXES, ""):
            name = job_id + suffix
            if name in self._unjudged and (judged := self._judge(name)) is not None:
                with judged:
                    self._line_up(judged)

    def claim(self, queued: Queued) -> Claimed | None:
        """Judge the file as it is now, and take it. None: it was refused, or is not that file."""
        judged = self._from_hand(queued.name) or self._judge(queued.name)
        if judged is None:
            return None
        with judged:
            if judged.status.st_ino != queued.inode:
                self._line_up(judged)  # replaced: that one has its own turn
                return None
            claimed = self._claim(judged, None)
        if claimed is None or claimed.claim.refusal is None:
            return claimed
        self._file(claimed)
        return None

    def _from_hand(self, name: str) -> Judged | None:
        """What was judged in the same turn of the loop is as good as judged now."""
        judged = self._in_hand
        if judged is None or judged.name != name:
            return None
        self._in_hand = None
        return judged

    def _refuse(self, judged: Judged, reason: Reason, code: str, message: str) -> bool:
        problem = Problem(code=code, message=message)
        refusal = Refusal(reason=reason, problems=(problem,))  # type: ignore[arg-type]  # one of
        claimed = self._claim(judged, refusal)
        if claimed is not None:
            self._file(claimed)
        return claimed is not None

    def _claim(self, judged: Judged, refusal: Refusal | None) -> Claimed | None:
        self._accepted.forget(judged.name)
        try:
            claimed = self._spool.claim(judged, refusal=refusal)
        except OSError as error:
            self._cannot("claim", judged.name, error)
            return None
        self._trouble.worked("claim", judged.name)
        self.woken = self.woken or claimed is None  # it was replaced or removed: look again
        return claimed

    def _file(self, claimed: Claimed) -> None:
        """Answer a job that will not run; later, if that cannot be written now."""
        self.told |= claimed.claim.callback is not None
        try:
            self._tell(file_refused(self._spool, claimed, self._origin, now=time.time()))
        except OSError as error:
            self._trouble.tell(error, "settle", claimed.id)
        finally:
            claimed.close()

    def _cannot(self, step: Literal["judge", "claim"], name: str, error: OSError) -> None:
        """Something in incoming/ cannot be read or moved: leave it, or wait for the machine."""
        if is_of_the_machine(error):
            self.unsettled = True
            self._trouble.tell(error, step, name)
        elif name not in self._stuck:
            self._stuck.add(name)  # a mount point, or another user's directory and we are not root
            events.log(events.FileStuck(file=name, why=str(error)))

    def _tell(self, result: Result | None) -> None:
        if result is not None and result.reason is not None:
            self._ended.append(result.id)
            self._count(result)
            events.log(
                events.JobRefused(
                    id=result.id,
                    reason=result.reason,
                    file=result.file,
                    message=result.message,
                    user=result.submitter,
                )
            )


def queued_of(judged: Judged, *, now: float) -> Queued:
    """What the queue has to know of an accepted file."""
    spec, status = judged.verdict, judged.status
    assert isinstance(spec, JobSpec)
    submitted_at = min(status.st_ctime, now)  # the clock may have been set back
    not_before = spec.not_before or 0.0
    if spec.delay_s is not None:
        not_before = submitted_at + spec.delay_s
    return Queued(
        name=judged.name,
        id=ids.wanted_id(judged.file)[0],
        dropped_at_ns=status.st_ctime_ns,
        inode=status.st_ino,
        queue=spec.queue or DEFAULT_QUEUE,
        priority=spec.priority,
        group=spec.concurrency.group if spec.concurrency else None,
        group_limit=spec.concurrency.limit if spec.concurrency else 1,
        not_before=not_before,
        delayed=spec.delay_s is not None,
        expires_at=None if spec.expires_s is None else submitted_at + spec.expires_s,
        needs=spec.needs,
    )


def failed_need(need: str) -> str:
    return f"the job {need}, which it needs, has failed"

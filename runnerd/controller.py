"""controller: do what is asked for in control/, if who asks may.

A request is removed after it was done, so one that a dying daemon has begun is done again by the
next. Errors: the machine's leave the request for later; any other is told, and ends it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from . import control, events
from .accounts import account_of
from .control import Request, Verb
from .controlbox import ControlBox
from .intake import Intake
from .model import JobId, Reason, State
from .schedule import Queue
from .spool import Spool
from .trouble import Trouble, is_of_the_machine

_NOTHING_LEFT = "its file was never read, or its inputs were taken by a retry before"
_WITH_NEWS = (State.RUNNING, State.FAILED, State.DONE)
_NOT_YOURS = "only the job's submitter and root may ask for that"


class _LaterError(Exception):
    """It cannot be done now; the request stays."""


class Controller:
    """The requests of one spool.

    `settle`: look again at a job in running/ that waits there. `hurry`: tell the news of a job now.
    """

    def __init__(
        self,
        spool: Spool,
        queue: Queue,
        intake: Intake,
        trouble: Trouble,
        settle: Callable[[str], None],
        hurry: Callable[[JobId], None],
    ) -> None:
        self._outbox = spool.outbox
        self._hurry = hurry
        self._box = ControlBox(spool)
        self._queue = queue
        self._intake = intake
        self._trouble = trouble
        self._settle = settle
        self.paused = self._box.is_paused

    def obey(self) -> None:
        """Do all that is asked for."""
        try:
            for request in self._box.requests():
                self._answer(request)
            if self._box.drop_staged():
                self._intake.woken = True
        except OSError as error:
            self._intake.unsettled = True
            self._trouble.tell(error, "obey")
        else:
            self._trouble.worked("obey")

    def _answer(self, request: Request) -> None:
        if ("settle", request.job_id) in self._trouble:
            self._intake.unsettled = True  # what is left of the job is in the way
            return
        account = account_of(request.uid)
        by = account.name if account else f"uid {request.uid}"
        word = f"{request.job_id or 'all jobs'}: {request.verb}"
        try:
            why = self._do(request, by)
        except _LaterError:
            return
        except OSError as error:
            if is_of_the_machine(error):
                raise
            why = str(error)
        self._box.settle(request)
        if request.verb is Verb.PING:
            return
        if why is None:
            events.log(events.RequestDone(request=word, by=by))
        else:
            events.log(events.RequestDenied(request=word, by=by, why=why))

    def _do(self, request: Request, by: str) -> str | None:
        """Do one thing; or why not."""
        if request.moved:
            return "others may have moved a file of root's here; ask by runnerctl"
        job_id = JobId(request.job_id or "")
        match request.verb:
            case Verb.PAUSE | Verb.RESUME:
                if not _may(request, None):
                    return _NOT_YOURS
                self.paused = request.verb is Verb.PAUSE
                self._box.set_paused(paused=self.paused)
                return None
            case Verb.CANCEL:
                return self._cancel(request, job_id, by)
            case Verb.RETRY:
                submitter = self._box.submitter_of(job_id, State.FAILED, State.DONE)
                if submitter is None:
                    return "no such job has ended"
                if not _may(request, submitter):
                    return _NOT_YOURS
                return None if self._box.stage(job_id) else _NOTHING_LEFT
            case Verb.TELL:
                submitter = self._box.submitter_of(job_id, *_WITH_NEWS)
                if not _may(request, submitter):
                    return _NOT_YOURS
                self._outbox.revive(job_id, now=time.time())
                self._hurry(job_id)
                return None
        return None  # PING: that it is taken away is the answer

    def _cancel(self, request: Request, job_id: JobId, by: str) -> str | None:
        """Cancel a job that runs, or one that waits; several may have asked for the same id."""
        running = self._box.submitter_of(job_id, State.RUNNING)
        self._intake.judge_at_once(job_id)
        queued = self._queue.find(job_id)
        waiting = queued is not None and queued.inode is None
        if running is not None and _may(request, running):
            self._box.cancel(job_id, by)
            if queued is not None and waiting:
                self._queue.discard(queued.name)
                self._settle(job_id)
            else:
                self._box.wake_runner(job_id)
            return None
        if queued is not None and not waiting:
            owner = self._box.owner_of(queued.name)
            if owner is not None and _may(request, owner):
                message = f"the job was cancelled by {by}"
                if not self._intake.turn_away(queued, Reason.CANCELLED, "control", message):
                    raise _LaterError
                self._queue.discard(queued.name)
                return None
        return "no such job waits or runs" if running is None and queued is None else _NOT_YOURS


def _may(request: Request, submitter_uid: int | None) -> bool:
    return control.may(request, submitter_uid=submitter_uid, own_uid=os.geteuid())

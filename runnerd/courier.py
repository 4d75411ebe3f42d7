"""courier: the part of the courier with the files: reads entries, signs them, minds their order.

A process of its own, started from the nursery when there is something to tell, and ended when
nothing waits for a while or the daemon is gone. What it knows is a cache of the outbox;
`deliveries` decides; the `carrier`, which it forks before it has read anything, has the network.

Guarantees: an entry is removed after its endpoint has taken it, and not before. A courier that dies
            is started again, and tells at most what was on its way a second time.
Errors:     what cannot be read or signed now is tried again; the end of the carrier is our own end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import socket
import time
from dataclasses import dataclass

from . import events, frames, history, messages, webhook
from .accounts import account_named
from .child import give_up_rights
from .deliveries import Deliveries
from .errors import NotStartable, RunnerdError
from .frozen import frozen
from .history import Delivery
from .messages import Hurry, Left, Orders, Rested, Wake
from .nursery import name_process
from .outbox import Damaged
from .processes import CARRIER_NAME
from .secretstore import SecretStore
from .settings import Callbacks
from .spool import Spool
from .webhook import Answer, Entry, EntryName, Parcel

LOOK_EVERY_S = 10.0
IDLE_S = 60.0
TROUBLE_S = 1.0


@dataclass(slots=True)
class _OnItsWay:
    name: EntryName
    entry: Entry


@frozen
class Courier:
    """What stays the same from one courier to the next."""

    spool: Spool
    secrets: SecretStore
    version: str

    def serve(self, daemon: socket.socket) -> None:
        """Deliver until nothing waits, or until the daemon is gone."""
        orders, _ = messages.receive(daemon, messages.LARGEST_ORDERS)
        if not isinstance(orders, Orders):
            return
        try:
            carrier = _start_carrier(orders)
            self.spool.follow()
            # One courier at a time: an earlier daemon's may be about to leave.
            fcntl.flock(self.spool.outbox.open_to_lock(), fcntl.LOCK_EX)
        except (OSError, RunnerdError) as error:
            events.log(events.OutboxTroubled(why=str(error)))
            return  # the daemon starts another one, in a while
        _Round(self, daemon, carrier, orders.settings).run()


class _Round:
    """The work of one courier. Times are monotonic."""

    def __init__(
        self, courier: Courier, daemon: socket.socket, carrier: socket.socket, settings: Callbacks
    ) -> None:
        self._spool = courier.spool
        self._outbox = courier.spool.outbox
        self._secrets = courier.secrets
        self._version = courier.version
        self._daemon = daemon
        self._carrier = carrier
        self._inbox = frames.Inbox(carrier)
        self._settings = settings
        self._deliveries = Deliveries(random.random)
        self._on_their_way: dict[int, _OnItsWay] = {}
        self._numbers = 0
        self._delivered: set[str] = set()  # and still there, because of a bad disk
        self._look_at = self._not_again_before = 0.0
        self._looked = False
        self._troubled = False
        self._wake = self._rested = 0
        self._busy_at = time.monotonic()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._daemon, select.POLLIN)
        poll.register(self._carrier, select.POLLIN)
        while True:
            now = time.monotonic()
            if now >= self._look_at:
                self._look(now)
            try:
                self._send_what_can()
            except messages.GONE:
                return  # the carrier is gone, and with it all that was on its way
            now = time.monotonic()
            if self._is_idle(now):
                self._say(Left(number=self._wake))
                return
            self._tell_rest(now)
            ready = {fd for fd, _ in poll.poll(self._patience_ms(now))}
            if self._daemon.fileno() in ready and not self._hear():
                return
            if self._carrier.fileno() in ready and not self._take_answers():
                return

    # --- what is there --------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Look at all of the outbox. A look that costs more is taken more rarely."""
        try:
            self._deliveries.look(self._outbox.names())
        except OSError as error:
            if not self._troubled:
                events.log(events.OutboxTroubled(why=str(error)))
            self._troubled = True
            self._look_at = now + TROUBLE_S
            return
        self._troubled, self._looked = False, True
        if len(self._deliveries):
            self._busy_at = now
        cost_s = time.monotonic() - now
        self._not_again_before = now + cost_s + min(1.0, 4 * cost_s)
        later = now + cost_s + LOOK_EVERY_S
        self._look_at = self._not_again_before if self._deliveries.wants_look else later

    def _hear(self) -> bool:
        """Take in what the daemon says; False if it is gone."""
        try:
            message, _ = messages.receive(self._daemon)
        except OSError:
            return False
        match message:
            case Wake(number=number):
                self._wake = number
            case Hurry(id=job_id):
                self._deliveries.hurry(job_id)
            case _:
                return False
        self._look_at = min(self._look_at, self._not_again_before)
        return True

    # --- deliver --------------------------------------------------------------------------------

    def _send_what_can(self) -> None:
        while (name := self._deliveries.next(time.monotonic())) is not None:
            self._send(name)

    def _send(self, name: EntryName) -> None:
        if str(name) in self._delivered:
            self._clear(name, None)
            return
        try:
            entry = self._outbox.read(name)
            parcel = self._parcel(entry)
        except FileNotFoundError:
            self._deliveries.dropped(name)  # a later one says more
        except Damaged as error:
            self._set_aside(name, str(error))
        except OSError as error:
            self._deliveries.answered(name, Answer(why=str(error)), time.monotonic())
        except (NotStartable, ValueError) as error:
            self._failed(name, entry, Answer(why=str(error)))
        else:
            self._on_their_way[parcel.number] = _OnItsWay(name, entry)
            frames.send(self._carrier, parcel)

    def _parcel(self, entry: Entry) -> Parcel:
        secret = None
        if entry.secret is not None:
            secret = self._secrets.values({"": entry.secret})[""]
        headers = webhook.headers(entry, secret=secret, now=time.time(), version=self._version)
        self._numbers += 1
        return Parcel(number=self._numbers, url=entry.url, headers=headers, body=entry.body)

    def _take_answers(self) -> bool:
        """Take in what the carrier says; False if it is gone."""
        try:
            answers = self._inbox.receive(Answer)
        except (EOFError, ConnectionResetError):
            return False
        for answer in answers:
            sent = self._on_their_way.pop(answer.number)
            if answer.delivered:
                self._note(sent.entry, answer, None)
                self._clear(sent.name, answer)
            elif answer.gone:
                self._bury(sent.name, sent.entry, answer)
            else:
                self._failed(sent.name, sent.entry, answer)
        return True

    def _clear(self, name: EntryName, answer: Answer | None) -> None:
        """Remove what was delivered. It is not sent again, though it cannot be removed yet."""
        try:
            self._outbox.remove(name)
        except OSError as error:
            self._delivered.add(str(name))
            self._deliveries.answered(name, Answer(why=str(error)), time.monotonic())
            return
        self._delivered.discard(str(name))
        self._deliveries.answered(name, answer or Answer(delivered=True), time.monotonic())

    def _failed(self, name: EntryName, entry: Entry, answer: Answer) -> None:
        age_s = time.time() - entry.since
        if age_s >= self._settings.give_up_s:
            self._bury(name, entry, answer)
            return
        wait_s = self._deliveries.answered(name, answer, time.monotonic())
        self._note(entry, answer, wait_s)
        if self._deliveries.failures(name) == 1:
            why = answer.why or ""
            events.log(events.NotDelivered(id=entry.job, news=name.news, url=entry.url, why=why))

    def _bury(self, name: EntryName, entry: Entry, answer: Answer) -> None:
        """Make a dead letter of it."""
        try:
            self._outbox.give_up(name)
        except OSError as error:
            self._deliveries.answered(name, Answer(why=str(error)), time.monotonic())
            return
        self._note(entry, answer, None)
        self._deliveries.buried(name, answer, time.monotonic())
        events.log(
            events.DeadLetter(id=entry.job, news=name.news, url=entry.url, why=answer.why or "")
        )

    def _set_aside(self, name: EntryName, why: str) -> None:
        try:
            self._outbox.set_aside(str(name))
        except OSError as error:
            self._deliveries.answered(name, Answer(why=str(error)), time.monotonic())
            return
        self._deliveries.dropped(name)
        events.log(events.EntryDamaged(name=str(name), why=why))

    def _note(self, entry: Entry, answer: Answer, wait_s: float | None) -> None:
        """Note the try in the job's directory, if that is there: it is only a view."""
        delivery = Delivery.of(entry, answer, now=time.time(), wait_s=wait_s)
        with contextlib.suppress(OSError):
            places = (self._spool.running_fd, *self._spool.filed_fds.values())
            history.note(self._spool.disk, places, entry.job, delivery)

    # --- rest -----------------------------------------------------------------------------------

    def _is_at_rest(self, now: float) -> bool:
        due = self._deliveries.due()
        waits = due is None or due > now
        looked = self._looked and self._look_at > now and not self._deliveries.wants_look
        return looked and waits and not self._on_their_way

    def _is_idle(self, now: float) -> bool:
        nothing = self._is_at_rest(now) and len(self._deliveries) == 0
        return nothing and now - self._busy_at >= IDLE_S

    def _tell_rest(self, now: float) -> None:
        """Say, once, that nothing can be told now."""
        if self._rested < self._wake and self._is_at_rest(now):
            self._rested = self._wake
            self._say(Rested(number=self._wake))

    def _say(self, message: Rested | Left) -> None:
        with contextlib.suppress(OSError):  # it is gone, as we shall see in a moment
            messages.send(self._daemon, message)

    def _patience_ms(self, now: float) -> float:
        due = self._deliveries.due()
        at = self._look_at if due is None else min(self._look_at, due)
        return max(0.0, at - now) * 1000 + 1


def _start_carrier(orders: Orders) -> socket.socket:
    """Fork the part with the network; our end of its socket."""
    account = None
    if os.geteuid() == 0:
        account = account_named(orders.settings.user)
        if account is None or account.uid == 0:
            raise RunnerdError(
                f"callbacks.user: {orders.settings.user} is no user without rights of this machine"
            )
    ours, theirs = socket.socketpair()
    if os.fork() != 0:
        theirs.close()
        return ours
    status = 0
    try:
        name_process(CARRIER_NAME)
        fd = theirs.detach()
        ours.detach()
        from .carrier import Carrier, drop_descriptors  # noqa: PLC0415  # large, and for it alone

        drop_descriptors(fd)
        os.chdir("/")
        if account is not None:
            give_up_rights(account)
        Carrier(socket.socket(fileno=fd), orders.settings, orders.targets).serve()
    except Exception as error:  # noqa: BLE001  # our own fault: say so and end
        events.log_crash(error)
        status = 70
    finally:
        os._exit(status)

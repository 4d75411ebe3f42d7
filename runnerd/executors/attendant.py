"""attendant: the process that looks after one container, from its image to its removal.

A child of the runner, forked and not started anew, for the libraries are loaded already. So the
supervision is that of any step: a descriptor tells its end, its output is the step's. It holds
nothing of the runner's but the pipe for that output and a socket: the lock of a job that outlives
its runner would make a dead job look alive.

    SIGTERM   the container is asked to end; before there is one, the attendant dies of it
    SIGUSR1   the container is killed
    the other end of the socket is closed: the runner is dead, and the container goes as well

Guarantees: it ends, and in bounded time after SIGUSR1, whatever the engine does. What it made is
            removed, or its report says that it may be there still.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from runnerd import events, records
from runnerd.frozen import frozen
from runnerd.model import Pull
from runnerd.outcome import Usage
from runnerd.processes import oom_kills
from runnerd.units import in_words, size_in_words

from . import pulls
from .container import Order
from .engine import Engine, EngineTrouble, Frames, Gone, ImageMissing, NameTaken, NoInit, State
from .meter import Meter
from .outside import mounted_here, seen_from_outside
from .patience import Patience

TITLE = "runnerd-attends"  # as the kernel knows it: at most 15 bytes
ENGINE_S = 60.0  # for one answer of the engine
ENDING_S = 5.0  # the same once the container is to end
AWAY_S = 5.0  # how long an engine may be away before its container is left for later
_LOOK_S, _MEASURE_S = 0.2, 2.0
_PIECE = 1 << 16
_LONGEST = 1000  # of what an engine says, in letters
_ASKING = (signal.SIGTERM, signal.SIGUSR1)
_KILLED = 128 + signal.SIGKILL  # as an exit status


@frozen(kw_only=True)
class Report:
    """How it went, for the runner. One of the first three is set.

    `trouble`: what went wrong with the engine. `left`: the container may still be there. `version`:
    of the engine's interface, if all went well.
    """

    exit_code: int | None = None
    limit: str | None = None
    trouble: str | None = None
    started: bool = False
    left: bool = False
    usage: Usage | None = None
    version: str | None = None


class Shared:
    """What the runner may know at any time: a page of memory that is both processes'."""

    _LAYOUT = struct.Struct("?7xdd")

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def close(self) -> None:
        self._page.close()

    def tell(
        self, *, made: bool = False, pulling_since: float = 0.0, pulled_s: float = 0.0
    ) -> None:
        self._LAYOUT.pack_into(self._page, 0, made, pulling_since, pulled_s)

    @property
    def made(self) -> bool:
        """Whether there may be a container."""
        return bool(self._LAYOUT.unpack_from(self._page)[0])

    @property
    def pulled_s(self) -> float:
        """For how long its image was fetched, or is by now."""
        _, since, took = self._LAYOUT.unpack_from(self._page)
        return float(took + (time.monotonic() - since if since else 0.0))


def attend(
    order: Order, output_fd: int, shared: Shared, version: str | None
) -> tuple[int, socket.socket]:
    """Fork an attendant: its process id, and our end of its socket. Raises OSError.

    `version`: as in the report of another before.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # What it is asked before it listens waits for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    try:
        pid = os.fork()
        if pid == 0:
            attendant = partial(_Attendant, order, output_fd, shared, theirs, version)
            _begin(attendant, output_fd, theirs)
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return pid, ours


def _begin(attendant: Callable[[], _Attendant], output_fd: int, sock: socket.socket) -> None:
    """What the new process does. Never returns."""
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_ASKING, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.chdir("/")
        for each in map(int, os.listdir("/proc/self/fd")):
            if each > 2 and each not in (output_fd, sock.fileno()):
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(each)
        with open("/proc/self/comm", "w") as name:  # noqa: PTH123  # ours alone, and no file
            name.write(TITLE)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
        report = attendant().run()
        if report.trouble is not None:  # an engine may say much, and over many lines
            report = replace(report, trouble=" ".join(report.trouble.split())[:_LONGEST])
        with contextlib.suppress(OSError):  # nobody is there to hear it
            sock.send(records.dumps(report))
        status = 0
    except Exception as error:  # noqa: BLE001  # our own fault: say so; the runner cleans up
        events.log_crash(error)
    finally:
        os._exit(status)


class _Attendant:
    """One container."""

    def __init__(
        self,
        order: Order,
        output_fd: int,
        shared: Shared,
        runner: socket.socket,
        version: str | None,
    ) -> None:
        self._order = order
        self._version = version
        self._output_fd = output_fd
        self._shared = shared
        self._runner = runner
        self._patience = Patience()
        self._asked: list[int] = []
        self._end_by: float | None = None
        self._oom_kills: int | None = None  # of the whole machine, before it started
        self._wakes, self._woken = socket.socketpair()
        for each in (self._wakes, self._woken):
            each.setblocking(False)  # noqa: FBT003
        self._frames = Frames()

    def run(self) -> Report:
        """All of it."""
        engine: Engine | None = None
        try:
            with self._patience.limit(ENGINE_S, _hangs("answer")):
                engine = Engine(timeout_s=ENGINE_S, version=self._version)
                self._look_from_outside(engine)
            try:
                self._create(engine)
                report = self._run(engine)
            except NoInit:
                self._order = self._order.without_init()
                engine.remove(self._order.name)
                self._make(engine)
                report = self._run(engine)
            if report.trouble is None:
                report = replace(report, version=engine.version)
        except EngineTrouble as error:
            report = Report(trouble=str(error))
        return replace(report, left=self._remove(engine)) if self._shared.made else report

    def _look_from_outside(self, engine: Engine) -> None:
        """Say what is to be mounted in the engine's words, should we be in a container of it."""
        here = mounted_here(engine)
        if here is not None:
            for each in self._order.body["HostConfig"]["Mounts"]:
                each["Source"] = seen_from_outside(each["Source"], here)

    # --- before the start -----------------------------------------------------------------------

    def _create(self, engine: Engine) -> None:
        """Make the container, of an image that is fetched if need be."""
        order = self._order
        if order.pull is Pull.ALWAYS:
            self._pull(engine)
        self._listen()
        try:
            self._make(engine)
        except ImageMissing:
            if order.pull is not Pull.MISSING:
                why = "and `pull` is never" if order.pull is Pull.NEVER else "any more"
                raise EngineTrouble(f"the image {order.image} is not here {why}") from None
            self._deafen()
            self._pull(engine)
            self._listen()
            self._make(engine)

    def _make(self, engine: Engine) -> None:
        order = self._order
        self._shared.tell(made=True, pulled_s=self._shared.pulled_s)
        with self._patience.limit(ENGINE_S, _hangs("make the container")):
            if order.is_again:
                engine.remove_all(order.of_job, but=order.is_beside)
            try:
                warnings = engine.create(order.name, order.body, order.platform)
            except NameTaken:  # by what an earlier job of this id has left
                engine.remove(order.name)
                warnings = engine.create(order.name, order.body, order.platform)
            for each in warnings:
                self._say(f"the engine warns: {each}")
            held = engine.state(order.name).held if order.must_hold else {}
            for name, (key, value) in order.must_hold.items():
                if held.get(key) != value:
                    raise EngineTrouble(f"the engine cannot hold a container to the limit {name}")

    def _pull(self, engine: Engine) -> None:
        order = self._order
        self._say(f"fetching the image {order.image}")
        began = time.monotonic()
        self._shared.tell(pulling_since=began)
        too_long = f"that took longer than {in_words(order.pull_timeout_s)}"
        try:
            with self._patience.limit(order.pull_timeout_s, too_long):
                self._follow(engine.pull(order.image, order.platform, order.login), began)
        except EngineTrouble as error:
            raise EngineTrouble(f"the image {order.image} cannot be fetched: {error}") from None
        self._shared.tell(pulled_s=time.monotonic() - began)

    def _follow(self, pulled: Iterator[Mapping[str, Any]], began: float) -> None:
        progress = pulls.Pull(began)
        for news in pulled:
            if "error" in news:
                raise EngineTrouble(str(news["error"]).strip())
            for line in progress.lines(news, time.monotonic()):
                self._say(line)
            if select.select([self._runner], [], [], 0)[0]:
                raise EngineTrouble("the runner has died")

    def _say(self, line: str) -> None:
        self._write(f"[runnerd: {line}]\n".encode("utf-8", "backslashreplace"))

    # --- signals --------------------------------------------------------------------------------

    def _listen(self) -> None:
        """From here on there may be a container, and to die would be to abandon it."""
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in _ASKING:
            signal.signal(number, self._note)

    def _deafen(self) -> None:
        """There is none yet after all."""
        self._shared.tell(pulled_s=self._shared.pulled_s)
        signal.set_wakeup_fd(-1)
        for number in _ASKING:
            signal.signal(number, signal.SIG_DFL)
        if self._asked:
            os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number: int, _: object) -> None:
        self._asked.append(number)
        if number == signal.SIGUSR1:
            self._patience.hurry()

    def _obey(self, engine: Engine, meter: Meter) -> None:
        """Do what the runner asked for."""
        with contextlib.suppress(BlockingIOError):
            self._wakes.recv(4096)
        while self._asked:
            kills = self._asked.pop(0) == signal.SIGUSR1
            if kills:
                self._end_by = time.monotonic() + 2 * ENDING_S
                meter.kill()
            number = signal.SIGKILL if kills else signal.SIGTERM
            try:
                with self._patience.limit(ENDING_S, _hangs("end the container")):
                    engine.kill(self._order.name, number)
            except EngineTrouble:
                if signal.SIGUSR1 not in self._asked:  # it will be tried again, by other means
                    raise

    # --- while it runs --------------------------------------------------------------------------

    def _run(self, engine: Engine) -> Report:
        order = self._order
        with self._patience.limit(ENGINE_S, _hangs("start the container")):
            stream = engine.attach(order.name)
            if self._asked:
                return Report(trouble="it was to end before its container had started")
            self._oom_kills = oom_kills()
            engine.start(order.name)
        meter = Meter(None, "")
        try:
            with self._patience.limit(ENGINE_S, _hangs("tell of the container")):
                begun = engine.state(order.name)
            meter = Meter(begun.pid, begun.id)
            return self._watch(engine, stream, meter)
        except EngineTrouble as error:
            meter.kill()  # the engine may be gone, and its containers not
            why = "the container was removed by somebody" if isinstance(error, Gone) else str(error)
            return Report(trouble=why, started=True, usage=meter.usage)
        finally:
            stream.close()

    def _watch(self, engine: Engine, stream: Any, meter: Meter) -> Report:
        """Pass its output on, until it has ended."""
        most = self._order.limits.cpu_time_s
        every_s = _MEASURE_S if most is None else _LOOK_S
        speaks, pause_s, look_at, limit = True, 0.001, time.monotonic(), None
        poll = select.poll()
        for each in (stream, self._wakes, self._runner):
            poll.register(each, select.POLLIN)
        while True:
            left_s = max(0.0, look_at - time.monotonic())
            ready = {fd for fd, _ in poll.poll(1000 * (left_s if speaks else pause_s) + 1)}
            if self._runner.fileno() in ready:
                raise EngineTrouble("the runner has died")
            if speaks and stream.fileno() in ready and not self._pass_on(stream.fileno()):
                speaks = False  # as a rule it ends now, and for a moment its cgroup is still there
                poll.unregister(stream)
                meter.look()
            self._obey(engine, meter)
            now = time.monotonic()
            if now >= look_at:
                meter.look()
                look_at = now + every_s
                if limit is None and most is not None and meter.cpu_s > most:
                    limit = f"the job used more CPU time than its limit of {in_words(most)}"
                    self._asked.append(signal.SIGUSR1)
            if self._end_by is not None and now > self._end_by:
                raise EngineTrouble("the container did not end when it was killed")
            if not speaks:
                bound_s = ENGINE_S if self._end_by is None else ENDING_S
                with self._patience.limit(bound_s, _hangs("tell of the container")):
                    state = engine.state(self._order.name)
                if not state.running:
                    return self._ended(state, meter, limit)
                pause_s = min(2 * pause_s, _LOOK_S)

    def _ended(self, state: State, meter: Meter, limit: str | None) -> Report:
        if self._lacked_memory(state, meter):
            most = self._order.limits.memory_bytes
            limit = "the job used more memory than " + (
                "the machine had" if most is None else f"its limit of {size_in_words(most)}"
            )
        exit_code = state.exit_code if limit is None else None
        return Report(exit_code=exit_code, limit=limit, started=True, usage=meter.usage)

    def _lacked_memory(self, state: State, meter: Meter) -> bool:
        """Whether it failed because the kernel had killed for want of memory."""
        if state.out_of_memory or meter.out_of_memory:
            return state.exit_code != 0
        # Of what is killed in its first moments the engine never learns why, and its cgroup is gone
        # before it can be read. The kernel counts them all.
        return (
            state.exit_code == _KILLED
            and self._end_by is None
            and self._order.limits.memory_bytes is not None
            and oom_kills() != self._oom_kills
        )

    def _pass_on(self, fd: int) -> bool:
        """Move some output. False at its end."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return True
        except OSError:  # the engine has gone
            return False
        for piece in self._frames.opened(data):
            self._write(piece)
        return bool(data)

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):  # the runner is dead, which its socket tells
            while view:
                view = view[os.write(self._output_fd, view) :]

    # --- the end --------------------------------------------------------------------------------

    def _remove(self, engine: Engine | None) -> bool:
        """Remove the container, as soon as the engine lets us; whether it is left after all."""
        until = time.monotonic() + AWAY_S
        while True:
            try:
                with self._patience.limit(ENDING_S, _hangs("remove the container")):
                    engine = engine or Engine(timeout_s=ENDING_S)
                    engine.remove(self._order.name)
            except EngineTrouble:
                engine = None  # its connection may be what is wrong
                if time.monotonic() >= until:
                    return True
                time.sleep(_LOOK_S)
            else:
                return False


def _hangs(what: str) -> str:
    return f"the container engine did not {what} in time"

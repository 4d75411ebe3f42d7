"""carrier: the part of the courier with the network, and with nothing else.

A process of its own that has given up root's rights for good, and has no descriptor of the spool:
it gets each request ready made and signed, and says what came of it. A thread for each try; the
main one reads requests, and cuts off whoever takes too long.

Trust: endpoints are chosen by submitters. An address is checked after its name was looked up, and
       the one that was checked is connected to. No redirect is followed, no cookie kept, no more
       than a little of an answer read, no variable of the environment asked.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from . import channels, events, frames
from .networks import forbidden
from .settings import Callbacks, Channel
from .webhook import Answer, Parcel, answer_of

MOST_OF_ANSWER = 1 << 16  # bytes; more of it, and the connection is not used again
_KEPT_SESSIONS = 32
_LOOK_EVERY_S = 0.2
_FOR_THE_REST_S = 1.0  # of an answer, after its status
_here = threading.local()  # the flight of this thread


class Forbidden(OSError):
    """The endpoint has an address that nothing may be sent to."""


class Flight:
    """One try, from its parcel to the end of its thread. The first answer counts."""

    def __init__(self, parcel: Parcel, deadline: float) -> None:
        self.parcel = parcel
        self.deadline = deadline  # monotonic
        self.since = time.monotonic()
        self._socket: socket.socket | None = None
        self._answered = threading.Lock()

    def holds(self, sock: socket.socket) -> None:
        self._socket = sock

    def cut_off(self) -> None:
        """End it: its thread's next read or write fails."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def may_answer(self) -> bool:
        return self._answered.acquire(blocking=False)


class Carrier:
    """Serves one courier, over a stream socket, until that closes it."""

    def __init__(
        self, courier: socket.socket, settings: Callbacks, targets: Mapping[str, Channel]
    ) -> None:
        self._courier = courier
        self._settings = settings
        self._targets = targets
        self._plugins, broken = channels.load() if targets else ({}, {})
        for name, why in broken.items():
            events.log(events.ChannelDisabled(name=name, why=why))
        self._flights: set[Flight] = set()
        self._sending = threading.Lock()
        self._sessions = Sessions(settings)

    def serve(self) -> None:
        """Until the courier is gone; tries that are on their way then are cut off with us."""
        inbox = frames.Inbox(self._courier)
        poll = select.poll()
        poll.register(self._courier, select.POLLIN)
        while True:
            if poll.poll(_LOOK_EVERY_S * 1000 if self._flights else None):
                try:
                    parcels = inbox.receive(Parcel)
                except (OSError, EOFError):
                    return
                for parcel in parcels:
                    self._start(parcel)
            self._cut_off_the_late()

    def _start(self, parcel: Parcel) -> None:
        deadline = time.monotonic() + 2 * self._settings.timeout_s + 1
        flight = Flight(parcel, deadline)
        self._flights.add(flight)
        thread = threading.Thread(target=self._fly, args=(flight,), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._answer(flight, Answer(down=True, why=str(error)))
            self._flights.discard(flight)

    def _fly(self, flight: Flight) -> None:
        _here.flight = flight
        parcel, timeout_s = flight.parcel, self._settings.timeout_s
        channel = self._targets.get(parcel.url)
        try:
            if channel is not None:
                answer = channels.by_channel(channel, parcel.body, timeout_s, self._plugins)
                self._answer(flight, answer)
            elif urlsplit(parcel.url).scheme in ("http", "https"):
                self._post(flight)
            else:
                why = f"there is no channel {parcel.url} any more"
                self._answer(flight, Answer(down=True, why=why))
        finally:
            # Only if we have a fault of our own: whoever waits for an answer gets one.
            self._answer(flight, Answer(why="the carrier failed; its log says more"))
            self._flights.discard(flight)

    def _answer(self, flight: Flight, answer: Answer) -> None:
        if not flight.may_answer():
            return
        took_s = round(time.monotonic() - flight.since, 3)
        made = replace(answer, number=flight.parcel.number, took_s=took_s)
        with self._sending, contextlib.suppress(OSError):
            frames.send(self._courier, made)

    def _cut_off_the_late(self) -> None:
        now = time.monotonic()
        for flight in [each for each in self._flights.copy() if each.deadline <= now]:
            flight.cut_off()
            why = f"no answer within {flight.deadline - flight.since:g} s"
            self._answer(flight, Answer(down=True, why=why))

    def _post(self, flight: Flight) -> None:
        """One request. Its status is the answer, and is not kept waiting for what follows it."""
        parcel, timeout_s = flight.parcel, self._settings.timeout_s
        session = self._sessions.take(parcel.url)
        try:
            with session.post(
                parcel.url,
                data=parcel.body.encode(),
                headers=dict(parcel.headers),
                timeout=(timeout_s, timeout_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                wait = response.headers.get("Retry-After")
                self._answer(flight, answer_of(response.status_code, wait, time.time()))
                # A short rest is read, so that the connection can be used again.
                flight.deadline = min(flight.deadline, time.monotonic() + _FOR_THE_REST_S)
                response.raw.read(MOST_OF_ANSWER, decode_content=False)
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            session.close()
            self._answer(flight, Answer(down=True, why=_words(error)))
        else:
            self._sessions.give_back(parcel.url, session)


class Sessions:
    """Sessions that are not in use, by the endpoints that they are connected to; a few in all."""

    def __init__(self, settings: Callbacks) -> None:
        self._settings = settings
        self._context = ssl.create_default_context()  # the system's store
        self._kept: list[tuple[str, requests.Session]] = []
        self._lock = threading.Lock()

    def take(self, url: str) -> requests.Session:
        """One that was there before, or a new one."""
        origin = _origin(url)
        with self._lock:
            for at in range(len(self._kept) - 1, -1, -1):
                if self._kept[at][0] == origin:
                    return self._kept.pop(at)[1]
        return make_session(self._settings, self._context)

    def give_back(self, url: str, session: requests.Session) -> None:
        with self._lock:
            self._kept.append((_origin(url), session))
            old = self._kept.pop(0)[1] if len(self._kept) > _KEPT_SESSIONS else None
        if old is not None:
            old.close()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class Session(requests.Session):
    """A session that would not even look where a redirect leads."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  # its interface
        return None


def make_session(settings: Callbacks, context: ssl.SSLContext) -> requests.Session:
    """A session of ours: nothing of the environment, no cookies, our own connections."""
    session = Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.pop("Accept-Encoding", None)
    if settings.proxy is not None:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    adapter = Adapter(settings, context)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class Adapter(HTTPAdapter):
    """Connections that check whom they lead to, and that trust whom this machine trusts."""

    def __init__(self, settings: Callbacks, context: ssl.SSLContext) -> None:
        self._networks = settings.networks
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self._networks)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = _pools(("0.0.0.0/0", "::/0"))  # the administrator's own
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ARG002
        """The system's store is in the context; the one of requests is not added to it."""
        conn.cert_reqs = "CERT_REQUIRED"


def _pools(networks: Sequence[str]) -> dict[str, Any]:
    """The classes that make connections, by scheme: urllib3 1.26 and 2 have the same hook."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self.host, self.port or 80, self.timeout, networks)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self.host, self.port or 443, self.timeout, networks)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def connect(host: str, port: int, timeout: Any, networks: Sequence[str]) -> socket.socket:
    """A connection to an address of this host that is allowed."""
    failed: OSError = Forbidden(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM
    ):
        why = forbidden(str(address[0]), networks)
        if why is not None:
            failed = Forbidden(f"{host} leads where nothing may be sent: {why}")
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout if isinstance(timeout, int | float) else None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            flight: Flight | None = getattr(_here, "flight", None)
            if flight is not None:
                flight.holds(sock)
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
            continue
        return sock
    raise failed


def _words(error: Exception) -> str:
    """Why it failed: the innermost cause, without the layers above it."""
    inner: BaseException = error
    seen = set()
    while id(inner) not in seen:
        seen.add(id(inner))
        reason = getattr(inner, "reason", None)
        args = (each for each in inner.args if isinstance(each, BaseException))
        below = reason if isinstance(reason, BaseException) else next(args, None)
        inner = below or inner.__cause__ or inner
    if isinstance(inner, TimeoutError):
        return "it did not answer in time"
    text = " ".join(str(inner).split())
    return f"{type(inner).__name__}: {text[:300]}" if text else type(inner).__name__


def drop_descriptors(keep: int) -> None:
    """Close all that this process has inherited, but the standard streams and one more."""
    for each in os.listdir("/proc/self/fd"):
        if int(each) > 2 and int(each) != keep:
            with contextlib.suppress(OSError):
                os.close(int(each))

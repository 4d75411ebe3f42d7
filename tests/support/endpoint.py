"""An HTTPS endpoint on loopback, with a certificate of its own making, that believes nobody.

Each request is verified with `standardwebhooks` and parsed with `cloudevents`, as a receiver would
do it; what does not hold is kept in `wrong`. `behave` decides what becomes of a request.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"a secret of the backend").decode()
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Told:
    """One request that was taken, or not."""

    job: str
    type: str
    id: str
    data: dict[str, Any]
    at: float
    path: str


Behaviour = Callable[["Handler", Told], int | None]
"""The status of the answer, or None if it was given, or never will be."""


@dataclass
class Endpoint:
    """One server. `taken`: what it answered with 2xx, in that order; `asked`: all there was."""

    ca: trustme.CA
    behave: Behaviour = lambda *_: 204
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    secret: str | None = SECRET
    taken: list[Told] = field(default_factory=list)
    asked: list[Told] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.endpoint = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*self.names).configure_cert(context)
        self._server.context = context
        self.port = self._server.server_address[1]
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, path: str = "/hook") -> str:
        return f"https://localhost:{self.port}{path}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, fact: Callable[[], bool], within_s: float = PATIENCE_S) -> bool:
        """Until the fact holds after some request."""
        with self.changed:
            return self.changed.wait_for(fact, within_s)

    def has(self, count: int) -> Callable[[], bool]:
        return lambda: len({each.id for each in self.taken}) >= count

    def by_job(self) -> dict[str, list[str]]:
        """The types of the events that were taken, in order, for each job; each event once."""
        found: dict[str, list[str]] = defaultdict(list)
        seen = set()
        for each in self.taken:
            if each.id not in seen:
                seen.add(each.id)
                found[each.job].append(each.type.removeprefix("runnerd.job."))
        return dict(found)

    def verified(self, headers: dict[str, str], body: bytes, path: str) -> Told:
        if self.secret is not None:
            Webhook(self.secret).verify(body, headers)
        event = from_structured_event(HTTPMessage(headers=headers, body=body))
        data = event.get_data()
        if isinstance(data, str | bytes):
            data = json.loads(data)
        assert headers["content-type"].startswith("application/cloudevents+json")
        assert event.get_id() == headers["webhook-id"]
        assert event.get_source().endswith("/runnerd")
        assert event.get_time() is not None
        assert isinstance(data, dict)
        subject = event.get_subject()
        assert subject is not None
        assert subject == data["id"]
        return Told(subject, event.get_type(), event.get_id(), data, time.monotonic(), path)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    endpoint: Endpoint
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake is made in the request's own thread: a client may never make it."""
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a client does that is killed, or that does not trust us, is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            told = endpoint.verified(headers, body, self.path)
        except Exception as error:  # noqa: BLE001  # whatever a receiver would not take
            endpoint.wrong.append(f"{type(error).__name__}: {error}: {body[:200]!r}")
            self.answer(400)
            return
        with endpoint.changed:
            endpoint.asked.append(told)
            endpoint.changed.notify_all()
        status = endpoint.behave(self, told)
        if status is None:
            self.close_connection = True
            return
        with endpoint.changed:
            if 200 <= status < 300:
                endpoint.taken.append(told)
            endpoint.changed.notify_all()
        self.answer(status)

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reset(self) -> None:
        """End the connection with a RST."""
        self.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


def trust(ca: trustme.CA, directory: Path) -> Path:
    """A file that makes a process trust this authority: SSL_CERT_FILE."""
    path = directory / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path

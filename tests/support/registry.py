"""A registry of images on loopback, with one image, which wants a login or keeps one waiting."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """Serves `NAME:1`, whose one layer is a tar archive. Close it after use.

    `login`: user:password, without which nobody gets anything. `held`: layers are sent when it is
    set, and `asked` is set when one is asked for.
    """

    def __init__(self, layer: bytes, *, login: str | None = None) -> None:
        self.login = login
        self.held, self.asked = threading.Event(), threading.Event()
        self.held.set()
        packed = gzip.compress(layer, mtime=0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
                "history": [{"created_by": "tests"}],
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _part("application/vnd.docker.container.image.v1+json", config),
                "layers": [_part("application/vnd.docker.image.rootfs.diff.tar.gzip", packed)],
            }
        ).encode()
        self.blobs = {digest(each): each for each in (packed, config)}
        self.layer = digest(packed)
        self.manifests = {"1": manifest, digest(manifest): manifest}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _part(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(data), "digest": digest(data)}


def _handler(  # noqa: C901  # a class, with all of its methods
    registry: Registry,
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Authorization", "").removeprefix("Basic ")
            if registry.login and base64.b64decode(wanted).decode() != registry.login:
                self._answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="tests"'})
                return
            kind, _, name = self.path.rpartition("/")
            if self.path == "/v2/":
                self._answer(200, b"{}", {})
            elif kind.endswith("/manifests") and name in registry.manifests:
                data = registry.manifests[name]
                more = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest(data)}
                self._answer(200, data, more)
            elif kind.endswith("/blobs") and name in registry.blobs:
                if name == registry.layer:
                    registry.asked.set()
                    registry.held.wait()
                self._answer(200, registry.blobs[name], {})
            else:
                self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', {})

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: int, data: bytes, more: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    return Handler

"""places: kinds of paths and addresses. What they say is checked as text; the rest is the user's.

Pure.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from .faults import Faults
from .frozen import frozen
from .kinds import CONTROL, SCALAR, Schema, unexpected
from .model import Mount
from .names import CHANNEL
from .yamlsafe import Node

LONGEST_PATH = 1000


@frozen
class Below:
    """A path, or a pattern of paths, that stays below a directory."""

    directory: str

    def describe(self) -> str:
        return f"a path below {self.directory}, without .. and not starting with /"

    def read(self, node: Node, faults: Faults) -> str | None:
        text = node.value
        if isinstance(text, str) and _stays_below(text):
            return text
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        return {"type": SCALAR, "pattern": r"^[^/]", "maxLength": LONGEST_PATH}


def _stays_below(path: str) -> bool:
    ordinary = (
        0 < len(path) <= LONGEST_PATH and not CONTROL.search(path) and not path.startswith("/")
    )
    return ordinary and ".." not in path.split("/")


@frozen
class Address:
    """An address to post to, or (`channels`) a channel of the configuration."""

    channels: bool = True

    def describe(self) -> str:
        channel = ", or a channel, like command:log" if self.channels else ""
        return f"an http or https address, like https://backend.example/hook{channel}"

    def read(self, node: Node, faults: Faults) -> str | None:
        text = node.value
        if isinstance(text, str) and (_is_address(text) or (self.channels and is_channel(text))):
            return text
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        channel = f"|^{CHANNEL}$" if self.channels else ""
        pattern = f"^https?://[^/@?#]+([/?][^#]*)?${channel}"
        return {"type": "string", "pattern": pattern, "maxLength": 2000}


def is_channel(url: str) -> bool:
    """Whether a callback's address names a channel: KIND:NAME."""
    return re.fullmatch(CHANNEL, url, re.ASCII) is not None


@frozen
class Network:
    """Addresses of the Internet, by their common start."""

    def describe(self) -> str:
        return "a network, like 10.0.0.0/8 or fd00::/8"

    def read(self, node: Node, faults: Faults) -> str | None:
        if isinstance(node.value, str):
            try:
                return str(ipaddress.ip_network(node.value))
            except ValueError as error:
                faults.add(f"expected {self.describe()}: {error}", node)
                return None
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^[0-9A-Fa-f.:]+(/[0-9]+)?$"}


def _is_address(text: str) -> bool:
    """An address that every library reads alike: no user, no fragment, no odd character."""
    if len(text) > 2000 or not re.fullmatch(r"[!-~]+", text) or "\\" in text:
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = parts.username is None and parts.password is None and not parts.fragment
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


@frozen
class MountText:
    """A directory of this machine and where a container sees it: /srv/data:/data:ro.

    `alone`: without the second part, as a policy names it.
    """

    alone: bool = False

    def describe(self) -> str:
        if self.alone:
            return "an absolute path, and :ro if it may only be read, like /srv/data:ro"
        return (
            "a directory and where a container sees it, like /srv/data:/data or /srv/data:/data:ro"
        )

    def read(self, node: Node, faults: Faults) -> Mount | None:
        if isinstance(node.value, str) and not CONTROL.search(node.value):
            bare = node.value.removesuffix(":ro").removesuffix(":rw")
            source, *others = bare.split(":")
            target = others[0] if others else source
            wanted = 0 if self.alone else 1
            if len(others) == wanted and all(map(is_absolute, (source, target))):
                return Mount(source=source, target=target, read_only=node.value.endswith(":ro"))
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        path = "/[^:]*"
        return {"type": "string", "pattern": f"^{path}{'' if self.alone else ':' + path}(:r[ow])?$"}


def is_absolute(path: str) -> bool:
    """An absolute path without detours, so that what it lies below can be told from its text."""
    parts = path.split("/")
    return path.startswith("/") and not {".", ".."} & set(parts) and len(path) <= LONGEST_PATH


def lies_below(path: str, directory: str) -> bool:
    """Whether one absolute path is the other or lies below it, as far as their texts tell."""
    parts = [part for part in path.split("/") if part]
    above = [part for part in directory.split("/") if part]
    return parts[: len(above)] == above

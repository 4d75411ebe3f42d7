"""secretstore: secrets by name, from the administrator's directory or from systemd's credentials.

A secret is a file. Its last line end is no part of it. One that others can read is refused: it is
none any more. Values are read when a job starts and are never written anywhere by us.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from .errors import NotStartable
from .frozen import frozen
from .kinds import LONGEST_ARGUMENT
from .redact import SHORTEST

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def secret_store(directory: Path) -> SecretStore:
    """The secrets of this process: the directory's, and systemd's where there are any."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return SecretStore(directory, Path(credentials) if credentials else None)


@frozen
class SecretStore:
    """`credentials`: systemd's directory for this service (systemd.exec(5), LoadCredential=)."""

    directory: Path
    credentials: Path | None = None

    def values(self, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """The values for variables that are to hold the secrets of these names.

        Raises NotStartable if one cannot be had.
        """
        return {variable: self._value(name) for variable, name in wanted.items()}

    def _value(self, name: str) -> bytes:
        for directory, private in ((self.directory, True), (self.credentials, False)):
            if directory is None:
                continue
            try:
                fd = os.open(directory / name, _FLAGS)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unusable(name, error.strerror or str(error)) from None
            with os.fdopen(fd, "rb") as file:
                _check(name, os.fstat(fd), private=private)
                data = file.read(LONGEST_ARGUMENT + 2)
            return _checked(name, data)
        raise _unusable(name, "there is no such secret")


def _check(name: str, status: os.stat_result, *, private: bool) -> None:
    """Of a credential systemd took care; its directory is open to the service alone."""
    if not stat.S_ISREG(status.st_mode):
        raise _unusable(name, "it is no plain file")
    if private and stat.S_IMODE(status.st_mode) & 0o077:
        raise _unusable(name, "others than its owner can read it (chmod 0600)")
    if private and status.st_uid not in (0, os.geteuid()):
        raise _unusable(name, f"its file belongs to uid {status.st_uid}")


def _checked(name: str, data: bytes) -> bytes:
    value = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(value) > LONGEST_ARGUMENT:
        raise _unusable(name, f"it is longer than {LONGEST_ARGUMENT // 1024} KiB")
    if len(value) < SHORTEST:
        raise _unusable(name, f"it is shorter than {SHORTEST} bytes, which cannot be hidden")
    if b"\0" in value:
        raise _unusable(name, "it holds a NUL character")
    return value


def _unusable(name: str, why: str) -> NotStartable:
    return NotStartable(f"the secret {name} cannot be used: {why}")

"""configfile: find the configuration and the spool, for the daemon and for the people's tools."""

from __future__ import annotations

import os
from pathlib import Path

from .complaints import complain
from .config import Config, read_config
from .errors import Invalid, RunnerdError

CONFIG_FILE = Path("/etc/runnerd/runnerd.yaml")


def load_config(file: Path | None) -> Config:
    """The configuration, or the defaults where there is no file and none was asked for.

    Raises RunnerdError with the position of what is wrong.
    """
    path = file or CONFIG_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if file is not None:
            raise RunnerdError(f"{file}: there is no such file") from None
        data = b""
    except OSError as error:
        raise RunnerdError(f"{path}: {error.strerror}") from error
    try:
        return read_config(data, cpus=len(os.sched_getaffinity(0)))
    except Invalid as invalid:
        raise RunnerdError(complain(invalid.problems, str(path)).rstrip()) from invalid


def spool_root(config: Config) -> Path:
    """The configured spool, or else root's, or else the one in the user's state directory."""
    if config.spool is not None:
        return Path(config.spool)
    if os.geteuid() == 0:
        return Path("/var/spool/runner")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "runnerd/spool"

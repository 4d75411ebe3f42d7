"""configfile: find and read what the administrator set up: configuration, templates, the spool.

For the daemon and for the people's tools. Files that somebody else could have written are refused:
they say what runs as whom.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path

from . import ids
from .catalogue import Catalogue
from .complaints import complain
from .config import Config, read_config
from .errors import Invalid, RunnerdError
from .frozen import frozen
from .templates import Template, read_template

CONFIG_FILE = Path("/etc/runnerd/runnerd.yaml")
SPOOL = Path("/var/spool/runner")
TEMPLATE_SUFFIX = ".yaml"


@frozen(kw_only=True)
class Setup:
    """All that jobs are judged by. A template that is None is broken; `faults` say why."""

    config: Config
    secrets: Path
    executors: Catalogue
    programs: Path
    templates: Mapping[str, Template | None] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def load_setup(file: Path | None, catalogue: Callable[[Path], Catalogue]) -> Setup:
    """Configuration, executors and templates. `catalogue`: with the executables of a directory.

    Raises RunnerdError for the configuration, with the position of what is wrong.
    """
    config = load_config(file)
    programs = Path(config.executors)
    executors = catalogue(programs)
    beside = _beside(file)
    templates, faults = _load_templates(config, template_directory(config, file), executors)
    return Setup(
        config=config,
        secrets=Path(config.secrets) if config.secrets else beside / "secrets",
        executors=executors,
        programs=programs,
        templates=templates,
        faults=faults,
    )


def load_config(file: Path | None) -> Config:
    """The configuration, or the defaults where there is no file and none was asked for.

    Raises RunnerdError with the position of what is wrong.
    """
    path = file or CONFIG_FILE
    try:
        data = _read_trusted(path)
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


def served_spool(config: Config) -> Path:
    """The spool for those who submit: `spool_root`, or the machine's if that is not there."""
    root = spool_root(config)
    return SPOOL if config.spool is None and not root.is_dir() and SPOOL.is_dir() else root


def spool_root(config: Config) -> Path:
    """The configured spool, or else root's, or else the one in the user's state directory."""
    if config.spool is not None:
        return Path(config.spool)
    if os.geteuid() == 0:
        return SPOOL
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "runnerd/spool"


def template_names(file: Path | None) -> list[str]:
    """The names of the templates, good or not. Raises RunnerdError or OSError."""
    directory = template_directory(load_config(file), file)
    return sorted(each.stem for each in directory.iterdir() if _is_template(each))


def _beside(file: Path | None) -> Path:
    """Where templates and secrets lie, if the configuration does not say it."""
    return (file or CONFIG_FILE).absolute().parent


def template_directory(config: Config, file: Path | None) -> Path:
    """Where the templates are, whether it is there or not."""
    beside = _beside(file)
    return Path(config.templates) if config.templates else beside / "jobs.d"


def _load_templates(
    config: Config, directory: Path, executors: Catalogue
) -> tuple[dict[str, Template | None], tuple[str, ...]]:
    """All templates. One that is broken stops no other."""
    found: dict[str, Template | None] = {}
    faults: list[str] = []
    try:
        paths = sorted(each for each in directory.iterdir() if _is_template(each))
        if paths:
            distrust(directory.stat(), directory)
    except FileNotFoundError:
        if config.templates is not None:
            faults.append(f"{directory}: there is no such directory")
        return found, tuple(faults)
    except (OSError, RunnerdError) as error:
        return found, (_worded(directory, error),)
    for path in paths:
        found[path.stem] = None
        try:
            data = _read_trusted(path)
            found[path.stem] = read_template(path.stem, data, executors=executors)
        except Invalid as invalid:
            faults.append(complain(invalid.problems, str(path)).rstrip())
        except (OSError, RunnerdError) as error:
            faults.append(_worded(path, error))
    return found, tuple(faults)


def _is_template(path: Path) -> bool:
    """Editors leave other names behind."""
    return path.suffix == TEMPLATE_SUFFIX and ids.is_id(path.stem)


def _read_trusted(path: Path) -> bytes:
    with path.open("rb") as file:
        distrust(os.fstat(file.fileno()), path)
        return file.read()


def distrust(status: os.stat_result, path: Path) -> None:
    """Refuse what another user owns or may write. A group may, unless the daemon is root."""
    forbidden = 0o022 if os.geteuid() == 0 else 0o002
    if status.st_uid not in (0, os.geteuid()):
        raise RunnerdError(f"{path}: belongs to uid {status.st_uid}; run: chown root {path}")
    if stat.S_IMODE(status.st_mode) & forbidden:
        raise RunnerdError(f"{path}: others may write it; run: chmod go-w {path}")


def _worded(path: Path, error: OSError | RunnerdError) -> str:
    return f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)

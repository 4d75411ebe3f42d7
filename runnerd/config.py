"""config: the administrator's file -> Config. Pure; every key is declared in `fields`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import Invalid
from .fields import CONFIG, check
from .yamlsafe import read


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The daemon's settings. `spool` is None where the administrator leaves it to us."""

    spool: str | None
    slots: int
    group: str
    runner_idle_s: float
    rescan_s: float


def read_config(data: bytes, *, cpus: int) -> Config:
    """Read the configuration; what is not there has its default. Raises Invalid."""
    values: dict[str, Any] = {}
    try:
        document = read(data)
    except Invalid as invalid:
        if invalid.problems[0].code != "empty":
            raise
    else:
        values, problems = check(document, CONFIG)
        if problems:
            raise Invalid(problems)
    return Config(
        spool=values.get("spool"),
        slots=values.get("slots") or cpus,
        group=values.get("group", "runner"),
        runner_idle_s=values.get("runner_idle", 60.0),
        rescan_s=values.get("rescan", 10.0),
    )

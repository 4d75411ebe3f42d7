"""What is said in two places, in the code and for systemd and Debian, is said alike."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from runnerd import __version__, layout
from runnerd.configfile import SPOOL

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "packaging/debian"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Of the daemon of a further spool, or of a user's: which file, and what it hangs on. Nobody but
# the system's has an alert, and a user's journal has the limits of the user's manager.
_OWN = re.compile(
    r"(Description|After|RequiresMountsFor|PartOf|WantedBy|ExecStart|LogRateLimit\w+)=|\[|$"
)


def test_there_is_one_version() -> None:
    assert PROJECT["dynamic"] == ["version"]
    for name in ("changelog", "runnerd.NEWS"):
        latest = (DEBIAN / name).read_text().partition(")")[0]
        assert latest == f"runnerd ({__version__}"


def test_debian_knows_all_dependencies_with_their_bounds() -> None:
    overrides = (DEBIAN / "py3dist-overrides").read_text().splitlines()
    known = dict(each.split(" ", 1) for each in overrides)  # PEP386: with the bound
    names = [re.split(r"[<>=~!]", each)[0] for each in PROJECT["dependencies"]]
    assert sorted(known) == sorted(names)
    assert {each for each in known.values() if not each.endswith("; PEP386")} == set()
    control = (DEBIAN / "control").read_text()
    for each in known.values():
        assert f" {each.removesuffix('; PEP386')},\n" in control, "the manual's build needs it"
    assert f" python3 ({PROJECT['requires-python'].replace('>=', '>= ')}~),\n" in control


def test_the_spool_that_systemd_makes_is_the_one_that_the_daemon_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)  # who may give directories to a group
    lines = [
        line.split()
        for line in (ROOT / "systemd/tmpfiles.conf").read_text().splitlines()
        if not line.startswith("#")
    ]
    made = {place.name: place for place in (layout.ROOT, *layout.places("root"))}
    for kind, path, mode, user, group, age in lines:
        place = made.pop(str(Path(path).relative_to(SPOOL)))
        assert (kind, user, age) == ("d", ":root", "-")
        assert mode == f":{place.mode:04o}"
        assert group == (":runner" if place.gid is not None else ":root")
    assert made == {}
    assert "\ng runner -\n" in (ROOT / "systemd/sysusers.conf").read_text()


def test_further_daemons_run_with_the_settings_of_the_first() -> None:
    def settings(name: str, config: str) -> list[str]:
        lines = (ROOT / "systemd" / name).read_text().splitlines()
        said = [each.replace(f" --config {config}", "") for each in lines]
        return [each for each in said if not each.startswith("#") and not _OWN.match(each)]

    first = settings("runnerd.service", "-")
    assert "KillMode=process" in first
    assert settings("runnerd@.service", "/etc/runnerd/%i/runnerd.yaml") == first
    assert settings("user/runnerd.service", "%E/runnerd/runnerd.yaml") == first

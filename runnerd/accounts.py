"""accounts: who a user id is, and with which groups its jobs run."""

from __future__ import annotations

import os
import pwd
import time

from .model import Account

_KEPT_S = (
    30.0  # a change of groups reaches new jobs after that; asking may cost a network round trip
)
_known: dict[int, tuple[float, Account | None]] = {}


def account_of(uid: int) -> Account | None:
    """The account of a user, or None if there is none. Our own user always has one."""
    now = time.monotonic()
    kept_until, account = _known.get(uid, (0.0, None))
    if now >= kept_until:
        account = _look_up(uid)
        _known[uid] = now + _KEPT_S, account
    return account


def own_account() -> Account:
    """Who this process is."""
    account = account_of(os.geteuid())
    assert account is not None
    return account


def _look_up(uid: int) -> Account | None:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return _nameless() if uid == os.geteuid() else None
    return Account(
        uid=uid,
        gid=entry.pw_gid,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        name=entry.pw_name,
        home=entry.pw_dir,
        shell=entry.pw_shell or "/bin/sh",
    )


def _nameless() -> Account:
    """A container's user often has no entry."""
    groups = tuple(os.getgroups())
    uid, gid, shell = os.geteuid(), os.getegid(), "/bin/sh"
    return Account(uid=uid, gid=gid, groups=groups, name=str(uid), home="/", shell=shell)

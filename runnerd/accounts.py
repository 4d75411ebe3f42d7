"""accounts: who a user id is, and with which groups its jobs run.

Answers are kept for half a minute: a change of groups reaches new jobs after that, and asking may
cost a network round trip.

Errors: OSError where the machine cannot tell now; that is not the same as "there is none".
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .model import Account

K = TypeVar("K", int, str, tuple[int, ...])
V = TypeVar("V")
_KEPT_S = 30.0
_kept: dict[tuple[object, object], tuple[float, Any]] = {}


def account_of(uid: int) -> Account | None:
    """The account of a user, or None if there is none. Our own user always has one."""
    return _keep(_by_uid, uid)


def account_named(name: str) -> Account | None:
    """The account of that name, or None if there is none."""
    return _keep(_by_name, name)


def groups_of(account: Account) -> frozenset[str]:
    """The names of the groups that an account is in."""
    return _keep(_group_names, account.groups)


def is_private_group(account: Account | None, gid: int) -> bool:
    """Whether nobody but this user is in the group, as in the scheme of user private groups."""
    if account is None or account.gid != gid or _keep(_group_name, gid) != account.name:
        return False
    primary = _keep(_users_of_group, gid)
    return {*grp.getgrgid(gid).gr_mem, *primary} <= {account.name}


def own_account() -> Account:
    """Who this process is."""
    account = account_of(os.geteuid())
    assert account is not None
    return account


def _keep(look_up: Callable[[K], V], key: K) -> V:
    now = time.monotonic()
    kept_until, kept = _kept.get((look_up, key), (0.0, None))
    answer: V = kept
    if now >= kept_until:
        answer = look_up(key)
        _insist_on_files()
        _kept[look_up, key] = now + _KEPT_S, answer
    return answer


def _insist_on_files() -> None:
    """Raise OSError if an answer may be wrong because the machine had no descriptors, a bad disk.

    To the C library a file that it cannot open holds nobody: "no such user" would be a refusal.
    """
    with contextlib.ExitStack() as opened:
        for path in ("/etc/passwd", "/etc/group"):
            with contextlib.suppress(FileNotFoundError):
                opened.callback(os.close, os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _by_uid(uid: int) -> Account | None:
    try:
        return _account(pwd.getpwuid(uid))
    except KeyError:
        return _nameless() if uid == os.geteuid() else None


def _by_name(name: str) -> Account | None:
    try:
        return _account(pwd.getpwnam(name))
    except KeyError:
        return None


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def _group_names(gids: tuple[int, ...]) -> frozenset[str]:
    return frozenset(name for gid in gids if (name := _group_name(gid)) is not None)


def _users_of_group(gid: int) -> frozenset[str]:
    """Whose primary group it is."""
    return frozenset(each.pw_name for each in pwd.getpwall() if each.pw_gid == gid)


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(
        uid=entry.pw_uid,
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

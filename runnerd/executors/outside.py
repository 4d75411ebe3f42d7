"""outside: paths of the container that we run in, as its engine knows them.

An engine mounts directories of its own machine. Where runnerd itself is in a container of that
engine, as its image is, the two differ: a path must lie in something that the engine has mounted
here, a volume or a directory, and then the engine can mount the same into another container.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from runnerd.places import lies_below

from .engine import Engine, EngineTrouble, Gone

_MOUNTS = Path("/proc/self/mountinfo")
# Files that an engine mounts from a directory of the container's, which has its id for a name.
_OWN_FILE = re.compile(r"/([0-9a-f]{64})/(?:userdata/)?(?:hostname|hosts|resolv\.conf) /etc/")


def mounted_here(engine: Engine) -> Mapping[str, str] | None:
    """What the engine has mounted into our container: its paths by ours. None: we are in none.

    Raises EngineTrouble.
    """
    own_id = container_id(_MOUNTS.read_text("utf-8", "surrogateescape"))
    if own_id is None:
        return None
    try:
        return engine.mounts(own_id)
    except Gone:
        return None  # a container of another engine's


def container_id(mountinfo: str) -> str | None:
    """Which container /proc/self/mountinfo is of (proc(5)). Pure."""
    found = _OWN_FILE.search(mountinfo)
    return found[1] if found else None


def seen_from_outside(path: str, mounts: Mapping[str, str]) -> str:
    """A path of ours as one of the engine's. Pure. Raises EngineTrouble."""
    above = [each for each in mounts if lies_below(path, each)]
    if not above:
        message = f"runnerd runs in a container, and {path} is in none of its mounts: the engine"
        raise EngineTrouble(f"{message} cannot see it; mount a volume there")
    nearest = max(above, key=len)
    return mounts[nearest].rstrip("/") + path[len(nearest.rstrip("/")) :]

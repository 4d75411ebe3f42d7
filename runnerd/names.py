"""names: kinds of names that several declarations use. Pure."""

from __future__ import annotations

from . import ids
from .kinds import Matching

WORD = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"

ID = Matching(ids.PATTERN, "the id of a job")
STEP_ID = Matching(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", "the id of a step: letters, digits, _ and -")
_ACCOUNT = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"
USER = Matching(_ACCOUNT, "the name of a user")
GROUP = Matching(_ACCOUNT, "the name of a group")
CONTAINER_USER = Matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?", "a user, and perhaps :group"
)
CAPABILITY = Matching(r"[A-Z_]{1,40}", "a capability, like NET_BIND_SERVICE")
EXECUTOR = Matching(r"[a-z][a-z0-9_-]{0,31}", "the name of an executor, like shell")
TEMPLATE_NAME = Matching(NAME, "the name of a template, like create-vhost")
SECRET = Matching(NAME, "the name of a secret: letters, digits and . _ -")
CHANNEL = rf"[a-z][a-z0-9-]{{0,31}}:{NAME}"
QUEUE = Matching(NAME, "the name of a queue")
DIRECTORY = Matching(r"/[^\x00-\x1f\x7f]*", "an absolute path", 4000)
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,126}"
VARIABLE_RULE = "letters, digits and _, no digit first"
GLOB = r"[A-Za-z0-9*?.:/@_-]{1,200}"

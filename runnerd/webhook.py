"""webhook: what is told of a job, and how it looks on its way: event -> entry -> request. Pure.

An entry is a file of the outbox and holds all of an event that must not change between two tries:
its id, its body, whom it is for, and the name of the secret that signs it, never the secret.

Formats: CloudEvents 1.0 in structured mode (cloudevents.io), signed as Standard Webhooks says
(standardwebhooks.com). An event that is made again after a crash has the same id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from . import ids, records
from .frozen import frozen
from .model import Claim, JobId, News
from .units import rfc3339

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
LONGEST_WAIT_S = 86400.0  # of what an endpoint may ask for
_SPACE = "6f1f2c3a-9c0e-4f0b-8f55-0d6a4e1b7f21"
_PREFIX = "whsec_"
_NAME = re.compile(
    rf"(?P<hidden>\.?)(?P<job>{ids.PATTERN})~(?P<number>\d{{12}})~(?P<key>[0-9a-f]{{12}})\.json",
    re.ASCII,
)
_FINISHED_ATTEMPT, _LAST_OF_ATTEMPT = 9999, 99_999_999


@frozen
class EntryName:
    """The name of an entry. `number` grows with the events of a job; `key` is of its endpoint."""

    job: JobId
    number: int
    key: str
    hidden: bool = False

    def __str__(self) -> str:
        return f"{'.' if self.hidden else ''}{self.job}~{self.number:012}~{self.key}.json"

    @property
    def news(self) -> News:
        """What the event tells."""
        attempt, of_attempt = divmod(self.number, _LAST_OF_ATTEMPT + 1)
        if attempt == _FINISHED_ATTEMPT:
            return News.FINISHED
        return {0: News.STARTED, _LAST_OF_ATTEMPT: News.RETRYING}.get(of_attempt, News.PROGRESS)

    @property
    def attempt(self) -> int:
        return self.number // (_LAST_OF_ATTEMPT + 1)


@frozen(kw_only=True)
class Entry:
    """One event for one endpoint. `since`: when it was put there, from which on it grows old."""

    schema: int = 1
    job: JobId
    number: int
    id: str
    type: str
    url: str
    secret: str | None
    since: float
    body: str

    @property
    def name(self) -> EntryName:
        return EntryName(self.job, self.number, key_of(self.url))


@frozen(kw_only=True)
class Parcel:
    """A try to deliver an entry, as the part with the network gets it."""

    number: int
    url: str
    headers: Mapping[str, str]
    body: str


@frozen(kw_only=True)
class Answer:
    """What came of it. `gone`: the endpoint wants no more of it; `down`: it takes nothing now."""

    number: int = 0
    delivered: bool = False
    gone: bool = False
    down: bool = False
    status: int | None = None
    why: str | None = None
    wait_s: float | None = None
    took_s: float = 0.0


def read_name(name: str) -> EntryName | None:
    """What the name of a file in the outbox says, or None if it is none of an entry."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return EntryName(
        JobId(found["job"]), int(found["number"]), found["key"], hidden=bool(found["hidden"])
    )


def key_of(url: str) -> str:
    """A short name for an endpoint."""
    from hashlib import sha256  # noqa: PLC0415  # OpenSSL: large, and for jobs with callbacks alone

    return sha256(url.encode()).hexdigest()[:12]


def number_of(news: News, *, attempt: int = 0, step: int = 0) -> int:
    """The place of an event among those of its job. `step`: of progress, from 1."""
    if news is News.FINISHED:
        attempt = _FINISHED_ATTEMPT
    of_attempt = {News.PROGRESS: min(step, _LAST_OF_ATTEMPT - 1), News.RETRYING: _LAST_OF_ATTEMPT}
    return attempt * (_LAST_OF_ATTEMPT + 1) + of_attempt.get(news, 0)


def event(
    claim: Claim,
    news: News,
    data: Any,
    *,
    host: str,
    now: float,
    at: float | None = None,
    attempt: int = 0,
    step: int = 0,
) -> Entry | None:
    """The entry for some news of a job, or None if nobody wants them. `at`: when it happened."""
    callback = claim.callback
    if callback is None or news not in callback.events:
        return None
    from uuid import UUID, uuid5  # noqa: PLC0415  # as above

    number = number_of(news, attempt=attempt, step=step)
    # The boot and the time of the submission make the job unique, whatever its name.
    job = f"{claim.boot_id} {claim.submitted_at!r} {claim.id}"
    event_id = str(uuid5(UUID(_SPACE), f"{job} {number}"))
    kind = f"runnerd.job.{news}"
    body = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"//{host}/runnerd",
        "type": kind,
        "subject": claim.id,
        "time": rfc3339(now if at is None else at),
        "datacontenttype": "application/json",
        "data": records.plain(data),
    }
    return Entry(
        job=claim.id,
        number=number,
        id=event_id,
        type=kind,
        url=callback.url,
        secret=callback.secret,
        since=now,
        body=json.dumps(body),
    )


# --- the request --------------------------------------------------------------------------------


def headers(entry: Entry, *, secret: bytes | None, now: float, version: str) -> dict[str, str]:
    """The headers of one try. Raises ValueError if the secret is none."""
    stamp = str(int(now))
    found = {
        "Content-Type": CONTENT_TYPE,
        "User-Agent": f"runnerd/{version}",
        "webhook-id": entry.id,
        "webhook-timestamp": stamp,
    }
    if secret is not None:
        found["webhook-signature"] = signature(secret, entry.id, stamp, entry.body)
    return found


def signature(secret: bytes, event_id: str, stamp: str, body: str) -> str:
    """`secret` is `whsec_` and Base64, or the key itself."""
    import base64  # noqa: PLC0415  # as above
    import hmac  # noqa: PLC0415

    signed = f"{event_id}.{stamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, "sha256")).decode()


def _key(secret: bytes) -> bytes:
    if not secret.startswith(_PREFIX.encode()):
        return secret
    from base64 import b64decode  # noqa: PLC0415  # as above

    try:
        return b64decode(secret.removeprefix(_PREFIX.encode()) + b"==", validate=False)
    except ValueError:
        raise ValueError("its value starts with whsec_, and no Base64 follows") from None


# --- the answer ---------------------------------------------------------------------------------


def answer_of(status: int, retry_after: str | None, now: float) -> Answer:
    """What an HTTP status means. Redirects are not followed: they lead where no policy looked."""
    if 200 <= status < 300:
        return Answer(delivered=True, status=status)
    if status == 410:
        return Answer(gone=True, status=status, why="the endpoint wants no more events (410)")
    wait_s = None if retry_after is None else wait_of(retry_after, now)
    why = f"the endpoint answered with status {status}"
    if 300 <= status < 400:
        why += ", and redirects are not followed"
    down = status in (429, 502, 503, 504)
    return Answer(down=down, status=status, why=why, wait_s=wait_s)


def wait_of(retry_after: str, now: float) -> float | None:
    """Seconds from Retry-After: a number, or a date. None if it is neither."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  # as above

    text = retry_after.strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return min(float(text), LONGEST_WAIT_S)
    try:
        date = parsedate_to_datetime(text)
        until = date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, until - now), LONGEST_WAIT_S)

"""tasks: what the queues in Python run: the command of our jobs, and a byte for each that ended.

Each queue's own worker imports this module, and so does who fills the queue. BENCH_PEER says which
queue it is, BENCH_DIR where its files are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(os.environ.get("BENCH_DIR", "."))
REDIS = f"unix://{HERE}/redis.sock"


def work() -> None:
    """One job. That it has ended is a byte in a file."""
    subprocess.run(["sh", "-c", "true"], check=True)
    with (HERE / "ended").open("ab") as ended:
        ended.write(b".")


def queue(kind: str) -> tuple[Any, Callable[[], Any]]:
    """The application, for its worker, and what puts one job into the queue."""
    match kind:
        case "huey-sqlite":
            from huey import SqliteHuey  # noqa: PLC0415  # each is here or not

            app = SqliteHuey(filename=str(HERE / "huey.db"), fsync=True)
            return app, app.task()(work)
        case "huey-redis":
            from huey import RedisHuey  # noqa: PLC0415

            app = RedisHuey(url=REDIS)
            return app, app.task()(work)
        case "celery":
            from celery import Celery  # noqa: PLC0415

            app = Celery("tasks", broker=f"redis+socket://{HERE}/redis.sock")
            app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)
            return app, app.task(work, name="work").delay
        case _:
            from redis import Redis  # noqa: PLC0415
            from rq import Queue  # noqa: PLC0415

            app = Queue(connection=Redis.from_url(REDIS))
            return app, lambda: app.enqueue("tasks.work")


app, put = queue(os.environ["BENCH_PEER"]) if "BENCH_PEER" in os.environ else (None, work)


def fill() -> None:
    """Put as many jobs into the queue as the input says."""
    print("ready", flush=True)
    for _ in range(int(sys.stdin.readline())):
        put()

"""features: what each of them costs a job, one at a time, in CPU time of ours and the job's."""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.bench.measure import JOB, median, serving

OTHER = "nobody"


def show(options: argparse.Namespace) -> None:
    found: dict[str, list[float]] = defaultdict(list)
    with endpoint() as url:
        config = {
            "callbacks": "{networks: [127.0.0.0/8]}",
            "policy": f"[{{users: [{OTHER}], executors: [shell]}}]",
        }
        for _ in range(options.rounds):
            for name, text in jobs(url).items():
                uid = pwd.getpwnam(OTHER).pw_uid if name == "of another user" else None
                with serving(1, options.dir, **config) as served:
                    files = served.stage("j", options.each, text, uid)
                    spent = served.cpu_s()
                    served.burst_s(files)
                    found[name].append((served.cpu_s() - spent) / options.each * 1000)
    base = median(found["plain"])
    print(f"\n{'what a job costs':34} {'CPU ms':>8} {'of plain':>9}")
    for name, times in found.items():
        print(f"  {name:32} {median(times):8.2f} {median(times) / base:9.2f}")


def jobs(url: str) -> dict[str, str]:
    """A job with each feature."""
    texts = {
        "plain": JOB,
        "a script": "run: 'true'\n",
        "limits of a process": f"{JOB}limits: {{open_files: 256, file_size: 1G}}\n",
        "limits of all of it": f"{JOB}limits: {{memory: 1G, processes: 100}}\n",
        "two steps": "steps: [{command: [sh, -c, 'true']}, {command: [sh, -c, 'true']}]\n",
        "an artifact": "run: echo x > a\nartifacts: [a]\n",
        "a callback": f"{JOB}callback: {{url: '{url}'}}\n",
    }
    return {**texts, "of another user": JOB} if os.geteuid() == 0 else texts


class _Taken(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def endpoint() -> Iterator[str]:
    """Somebody who takes all events."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()

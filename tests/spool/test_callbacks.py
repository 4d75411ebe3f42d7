"""Callbacks: what a backend gets to know of its jobs, over real HTTPS."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import partial
from pathlib import Path

import psutil
import pytest
import trustme
from endpoint import PATIENCE_S, SECRET, Behaviour, Endpoint, Handler, Told, trust
from invariant import named
from spoolbox import SpoolBox, until

from runnerd.conclude import Origin
from runnerd.damage import Fault
from runnerd.fsck import fsck

pytestmark = pytest.mark.slow

Make = Callable[..., Endpoint]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def endpoints(authority: trustme.CA) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def make(behave: object = None, **more: object) -> Endpoint:
            if behave is not None:
                more["behave"] = behave
            made = Endpoint(**{"ca": authority, **more})  # type: ignore[arg-type]  # a test's own
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may look into: who talks to the network is nobody."""
    with tempfile.TemporaryDirectory(prefix="runnerd-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def told(
    box: SpoolBox, authority: trustme.CA, public: Path, monkeypatch: pytest.MonkeyPatch
) -> SpoolBox:
    """A spool whose daemon trusts our endpoints, once it is started with `CALLBACKS`."""
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(authority, public)))
    box.secret("backend", SECRET)
    return box


CALLBACKS = "{networks: [127.0.0.0/8], timeout: 2s}"


def job(
    endpoint: Endpoint, events: str = "[finished]", run: str = "echo hi", more: str = ""
) -> str:
    callback = f"{{url: {endpoint.url()}, events: {events}, secret: backend}}"
    return f"run: |\n  {run}\ncallback: {callback}\n{more}"


def left(box: SpoolBox) -> list[str]:
    return sorted(each.name for each in box.path("outbox").iterdir() if each.name != "dead")


def history(box: SpoolBox, job_id: str) -> list[dict[str, object]]:
    for place in ("done", "failed", "running"):
        path = box.path(place, job_id, "deliveries.jsonl")
        if path.exists():
            return [json.loads(line) for line in path.read_text().splitlines()]
    return []


def tried(box: SpoolBox, job_id: str) -> bool:
    return bool(history(box, job_id))


def test_a_job_is_told_of_when_it_starts_and_when_it_has_ended(
    told: SpoolBox, endpoints: Make
) -> None:
    endpoint = endpoints()
    told.start(callbacks=CALLBACKS)
    result = told.run("a", job(endpoint, "[started, finished]"))
    assert endpoint.wait(endpoint.has(2)), told.log.read_text()
    assert endpoint.wrong == []
    started, finished = endpoint.taken
    assert started.type == "runnerd.job.started"
    assert started.data["state"] == "running"
    assert finished.type == "runnerd.job.finished"
    assert finished.data["outputs"] == {}
    assert finished.data["state"] == result.state == "done"
    assert finished.data == json.loads(told.path("done", "a", "result.json").read_text())
    until(lambda: not left(told), "entries stay")
    assert [each["delivered"] for each in history(told, "a")] == [True, True]


# --- what an endpoint may do --------------------------------------------------------------------


def first(*answers: object) -> Behaviour:
    """Behave so at the first requests, and well after that."""
    left_over = list(answers)

    def behave(handler: Handler, _: Told) -> int | None:
        with handler.server.endpoint.changed:
            act = left_over.pop(0) if left_over else 204
        return act(handler) if callable(act) else act  # type: ignore[return-value]

    return behave


def slow(handler: Handler) -> None:
    """Take the request, and never answer."""
    handler.server.endpoint.closing.wait(PATIENCE_S)


def dripping(handler: Handler) -> None:
    """Answer, a letter at a time, for ever."""
    with contextlib.suppress(OSError):
        while not handler.server.endpoint.closing.wait(0.05):
            handler.wfile.write(b"H")
            handler.wfile.flush()


def resetting(handler: Handler) -> None:
    handler.reset()


def talking_rubbish(handler: Handler) -> None:
    handler.wfile.write(b"\x00\xff this is no HTTP\r\n\r\n")


def redirecting(handler: Handler) -> None:
    """Away, with a body that never ends."""
    endless(handler, b"302 Found\r\nLocation: https://localhost/elsewhere")


def failing_at_length(handler: Handler) -> None:
    endless(handler, b"500 Oops")


def endless(handler: Handler, status: bytes) -> None:
    handler.wfile.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
    with contextlib.suppress(OSError):
        while not handler.server.endpoint.closing.is_set():
            handler.wfile.write(b"x" * 65536)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (500, "status 500"),
        (404, "status 404"),
        (503, "status 503"),
        (resetting, "Remote"),
        (talking_rubbish, "BadStatusLine"),
        (redirecting, "redirects are not followed"),
        (failing_at_length, "status 500"),
        (slow, "time"),
        (dripping, "within"),
    ],
)
def test_whatever_an_endpoint_does_it_is_told_in_the_end(
    told: SpoolBox, endpoints: Make, bad: object, why: str
) -> None:
    endpoint = endpoints(first(bad))
    told.start(callbacks="{networks: [127.0.0.0/8], timeout: 1s}")
    told.run("a", job(endpoint, "[started, finished]"))
    assert endpoint.wait(endpoint.has(2)), told.log.read_text()
    assert endpoint.by_job() == {"a": ["started", "finished"]}
    assert endpoint.wrong == []
    until(lambda: not left(told), "entries stay")
    failed, *good = history(told, "a")
    assert why in str(failed["why"])
    assert failed["again_at"] is not None
    assert [each["delivered"] for each in good] == [True, True]
    assert len({each.id for each in endpoint.asked}) == 2


def test_an_answer_that_never_ends_is_an_answer(told: SpoolBox, endpoints: Make) -> None:
    endpoint = endpoints(first(lambda handler: endless(handler, b"200 OK")))
    told.start(callbacks=CALLBACKS)
    told.run("a", job(endpoint))
    until(lambda: not left(told), "entries stay")
    assert [each["status"] for each in history(told, "a")] == [200]
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_an_endpoint_that_asks_for_time_gets_it(
    told: SpoolBox, endpoints: Make, *, as_date: bool
) -> None:
    def busy(handler: Handler) -> None:
        value = formatdate(time.time() + 3, usegmt=True) if as_date else "2"
        handler.answer(429, Retry_After=value)

    endpoint = endpoints(first(busy))
    told.start(callbacks=CALLBACKS)
    told.run("a", job(endpoint))
    assert endpoint.wait(endpoint.has(1)), told.log.read_text()
    before, after = endpoint.asked
    assert 1.9 < after.at - before.at < 10


def test_an_endpoint_that_is_gone_is_left_alone(told: SpoolBox, endpoints: Make) -> None:
    endpoint = endpoints(first(410))
    told.start(callbacks=CALLBACKS)
    told.run("a", job(endpoint))
    until(lambda: not left(told), "entries stay")
    assert len(list(told.path("outbox", "dead").iterdir())) == 1
    assert len(endpoint.asked) == 1
    until(partial(tried, told, "a"), "it is not noted")
    assert "410" in str(history(told, "a")[0]["why"])


def test_what_nobody_takes_becomes_a_dead_letter(told: SpoolBox, endpoints: Make) -> None:
    endpoint = endpoints(lambda *_: 500)
    told.start(callbacks="{networks: [127.0.0.0/8], give_up: 1s}")
    told.run("a", job(endpoint))
    until(lambda: not left(told), "it is never given up")
    (dead,) = told.path("outbox", "dead").iterdir()
    assert json.loads(dead.read_text())["job"] == "a"
    told.says("given up")


def test_a_certificate_that_nobody_vouches_for_gets_nothing(
    told: SpoolBox, endpoints: Make
) -> None:
    endpoint, wrong_name = endpoints(ca=trustme.CA()), endpoints(names=("elsewhere.example",))
    told.start(callbacks=CALLBACKS)
    for name, each in {"a": endpoint, "b": wrong_name}.items():
        told.run(name, job(each))
        until(partial(tried, told, name), "it is not tried")
        assert "certificate" in str(history(told, name)[0]["why"]).lower()
    assert endpoint.asked == wrong_name.asked == []
    assert len(left(told)) == 2


def test_an_address_that_is_not_allowed_gets_nothing(told: SpoolBox, endpoints: Make) -> None:
    endpoint = endpoints()
    told.start()
    told.run("a", job(endpoint))
    until(lambda: bool(history(told, "a")), "it is not tried")
    assert "not on the public Internet" in str(history(told, "a")[0]["why"])
    assert endpoint.asked == []


def test_nothing_of_the_environment_is_asked(
    told: SpoolBox, endpoints: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    endpoint = endpoints()
    told.start(callbacks=CALLBACKS)
    told.run("a", job(endpoint))
    assert endpoint.wait(endpoint.has(1)), told.log.read_text()


# --- which jobs, which news ---------------------------------------------------------------------


def test_progress_is_told_now_and_then_and_at_the_end(told: SpoolBox, endpoints: Make) -> None:
    endpoint = endpoints()
    told.start(callbacks=CALLBACKS)
    run = "for n in 10 20 30 40; do echo $n half >> $RUNNER_PROGRESS; sleep 0.2; done"
    told.run("a", job(endpoint, "[progress, finished]", run))
    assert endpoint.wait(lambda: endpoint.by_job().get("a", [])[-1:] == ["finished"])
    percents = [each.data["percent"] for each in endpoint.taken[:-1]]
    assert percents == [10, 40]


def test_each_attempt_is_told(told: SpoolBox, endpoints: Make) -> None:
    endpoint = endpoints()
    told.start(callbacks=CALLBACKS)
    events = "[started, retrying, finished]"
    told.run("a", job(endpoint, events, "[ $RUNNER_ATTEMPT -gt 1 ]", "retry: {max: 2, delay: 0}\n"))
    assert endpoint.wait(endpoint.has(4)), told.log.read_text()
    assert endpoint.by_job() == {"a": ["started", "retrying", "started", "finished"]}
    assert endpoint.taken[1].data["failed"]["reason"] == "exit"
    assert [each.data.get("attempt") for each in endpoint.taken] == [1, 1, 2, None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("run: true\nzzz: 1\n", "invalid"),
        ("run: true\nqueue: none\n", "invalid"),
        ("run: true\nneeds: [gone]\n", "dependency"),
        ("run: true\ndelay: 1h\nexpires: 0.1s\n", "expired"),
    ],
)
def test_what_is_refused_is_told_as_well(
    told: SpoolBox, endpoints: Make, text: str, reason: str
) -> None:
    endpoint = endpoints()
    told.start(callbacks=CALLBACKS)
    told.run("gone", "run: exit 1\n")
    told.drop("a", f"{text}callback: {{url: {endpoint.url()}, secret: backend}}\n")
    assert endpoint.wait(endpoint.has(1)), told.log.read_text()
    assert endpoint.taken[0].data["reason"] == reason


def test_jobs_without_a_callback_have_that_of_the_configuration(
    told: SpoolBox, endpoints: Make
) -> None:
    endpoint = endpoints()
    url = f"url: {endpoint.url()}, secret: backend, events: [started, finished]"
    told.start(callbacks=f"{{networks: [127.0.0.0/8], {url}}}")
    told.run("a", "run: true\n")
    told.run("b", "run: [\n")
    assert endpoint.wait(endpoint.has(3)), told.log.read_text()
    assert endpoint.by_job() == {"a": ["started", "finished"], "b": ["finished"]}


def test_a_secret_that_is_missing_is_waited_for(told: SpoolBox, endpoints: Make) -> None:
    endpoint = endpoints()
    told.start(callbacks=CALLBACKS)
    (told.scratch / "secrets/backend").unlink()
    told.run("a", job(endpoint))
    until(lambda: bool(history(told, "a")), "it is not tried")
    assert "there is no such secret" in str(history(told, "a")[0]["why"])
    told.secret("backend", SECRET)
    assert endpoint.wait(endpoint.has(1)), told.log.read_text()
    assert SECRET not in told.log.read_text()


# --- channels -----------------------------------------------------------------------------------


def test_a_command_gets_the_event_on_its_standard_input(told: SpoolBox, public: Path) -> None:
    path = public / "events"
    path.touch()
    path.chmod(0o666)
    told.start(channels=f"{{log: {{command: [sh, -c, 'cat >> {path}']}}}}")
    told.run("a", 'run: true\ncallback: {url: "command:log"}\n')
    until(lambda: not left(told), "entries stay")
    (event,) = map(json.loads, path.read_text().splitlines())
    assert event["subject"] == "a"


def test_a_unix_socket_gets_a_line(told: SpoolBox, public: Path) -> None:
    path = public / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        listener.settimeout(PATIENCE_S)
        told.start(channels=f"{{bus: {{unix: {path}}}}}")
        told.run("a", 'run: true\ncallback: {url: "unix:bus"}\n')
        connection, _ = listener.accept()
        with connection, connection.makefile() as lines:
            assert json.loads(lines.readline())["subject"] == "a"
    until(lambda: not left(told), "entries stay")


def test_a_channel_that_is_not_there_is_told_with_its_place(told: SpoolBox) -> None:
    told.start(channels="{log: {command: [cat]}}")
    result = told.run("a", 'run: true\ncallback: {url: "command:lok"}\n')
    assert result.reason == "invalid"
    assert result.error is not None
    assert (result.error.line, result.error.code) == (2, "callback")
    assert "there are command:log" in result.error.message


def test_a_plugin_of_a_python_package_is_a_channel(
    told: SpoolBox, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (public / "told_by_file.py").write_text(PLUGIN)
    metadata = public / "told_by_file-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: told-by-file\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[runnerd.callbacks]\nfile = told_by_file:ByFile\nbroken = told_by_file:Nothing\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(public))
    path = public / "events"
    path.touch()
    path.chmod(0o666)
    told.start(
        channels=f"{{good: {{plugin: file, options: {{path: {path}}}}}, bad: {{plugin: broken}}}}"
    )
    told.run("a", 'run: true\ncallback: {url: "file:good"}\n')
    until(lambda: not left(told), "entries stay")
    assert json.loads(path.read_text())["subject"] == "a"
    told.run("b", 'run: true\ncallback: {url: "broken:bad"}\n')
    until(partial(tried, told, "b"), "it is not tried")
    assert "cannot be used here" in str(history(told, "b")[0]["why"])
    told.says("the channel plugin broken is disabled")


PLUGIN = """
from pathlib import Path

class ByFile:
    def deliver(self, event, options, timeout_s):
        Path(options["path"]).write_text(event)

class Nothing:
    pass
"""


# --- rights -------------------------------------------------------------------------------------


def test_who_talks_to_the_network_has_no_rights_and_nothing_of_the_spool(
    told: SpoolBox, endpoints: Make
) -> None:
    endpoint = endpoints()
    told.start(callbacks=CALLBACKS)
    told.run("a", job(endpoint))
    assert endpoint.wait(endpoint.has(1))
    carrier = carrier_of(told)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        assert set(carrier.uids()) == {nobody.pw_uid}
        assert set(carrier.gids()) == {nobody.pw_gid}
        status = Path(f"/proc/{carrier.pid}/status").read_text()
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "\nCapPrm:\t0000000000000000\n" in status
    targets = [str(each.readlink()) for each in Path(f"/proc/{carrier.pid}/fd").iterdir()]
    assert not [each for each in targets if each.startswith(str(told.root))]


def courier_of(box: SpoolBox) -> psutil.Process:
    (found,) = named(box.nursery().children(), "runnerd-courier")
    return found


def carrier_of(box: SpoolBox) -> psutil.Process:
    (found,) = courier_of(box).children()
    return found


# --- for people ---------------------------------------------------------------------------------


def ctl(box: SpoolBox, *words: str) -> str:
    program = [sys.executable, "-c", "from runnerd.ctl import main; main()"]
    command = [*program, "--spool", str(box.root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_people_see_what_waits_and_why_and_may_have_it_told_again(
    told: SpoolBox, endpoints: Make
) -> None:
    good = threading.Event()
    endpoint = endpoints(lambda *_: 204 if good.is_set() else 500)
    told.start(callbacks="{networks: [127.0.0.0/8], give_up: 1s}")
    assert "nothing waits" in ctl(told, "callbacks")
    told.run("a", job(endpoint))
    until(partial(tried, told, "a"), "it is not tried")
    (event,) = json.loads(ctl(told, "callbacks", "--json"))["events"]
    assert (event["id"], event["event"], event["url"]) == ("a", "finished", endpoint.url())
    assert "status 500" in event["why"]
    until(lambda: not left(told), "it is never given up")
    assert json.loads(ctl(told, "callbacks", "--json"))["dead"] == 1
    good.set()
    ctl(told, "callbacks", "retry", "a")
    assert endpoint.wait(endpoint.has(1)), told.log.read_text()
    until(lambda: "nothing waits" in ctl(told, "callbacks"), "it still waits")
    assert len({each.id for each in endpoint.asked}) == 1
    shown = ctl(told, "show", "a")
    assert "finished" in shown
    assert "not told, the endpoint answered with status 500" in shown


def test_a_damaged_entry_is_set_aside_by_the_courier_and_by_fsck(
    told: SpoolBox, endpoints: Make
) -> None:
    endpoint = endpoints(lambda *_: 500)
    told.start(callbacks=CALLBACKS)
    told.run("a", job(endpoint))
    until(partial(tried, told, "a"), "it is not tried")
    (name,) = left(told)
    other = name.replace("a~", "b~")
    told.path("outbox", other).write_text("{")
    told.control("pause")
    until(lambda: f"{other}.damaged" in left(told), "it is not set aside")
    assert told.path("outbox", f"{other}.damaged").read_text() == "{"
    told.stop()
    told.path("outbox", name).write_bytes(b"\x00" * 100)
    found = fsck(told.root, Origin(host="h", version="v"), repair=True)
    assert [each.path for each in found if each.fault is Fault.BAD_ENTRY] == [f"outbox/{name}"]
    assert told.path("outbox", f"{name}.damaged").read_bytes() == b"\x00" * 100
    again = fsck(told.root, Origin(host="h", version="v"), repair=False)
    assert not [each for each in again if each.is_open]


# --- many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [60, pytest.param(1000, marks=pytest.mark.heavy)])
def test_who_is_killed_is_replaced_and_all_is_told_in_order(
    told: SpoolBox, endpoints: Make, jobs: int
) -> None:
    """By kill -9 of courier, carrier and daemon, and with an endpoint that is up half the time."""
    numbers = random.Random(1)  # noqa: S311  # the same each time
    refused: Counter[str] = Counter()  # of each event, and of all since one was taken

    def moody(handler: Handler, news: Told) -> int | None:
        # By chance it would be a bad moment again and again, after ever longer pauses.
        tired = refused[news.id] == 5 or refused[""] == 8
        if int(time.monotonic() * 2) % 2 == 0 or tired:
            refused[""] = 0
            return 204
        refused.update(("", news.id))
        status = numbers.choice([500, 503, None])
        if status is None:
            resetting(handler)
        return status

    endpoint = endpoints(moody)
    told.start(callbacks=CALLBACKS)
    for number in range(jobs):
        told.drop(f"job-{number}", job(endpoint, "[started, finished]"))
        if number % (jobs // 6) == 5:
            victim = numbers.choice([courier_of, carrier_of, None])
            if victim is None:
                told.kill()
                told.start(callbacks=CALLBACKS)
            else:
                with contextlib.suppress(ValueError, psutil.NoSuchProcess):
                    victim(told).kill()
    for number in range(jobs):
        told.result(f"job-{number}", 120)
    assert endpoint.wait(endpoint.has(2 * jobs), 240), state(told)
    until(lambda: not left(told), "entries stay")
    assert endpoint.wrong == []
    assert endpoint.by_job() == {f"job-{n}": ["started", "finished"] for n in range(jobs)}
    assert "Traceback" not in told.log.read_text()


def test_a_dead_endpoint_with_a_thousand_events_delays_nobody_else(
    told: SpoolBox, endpoints: Make
) -> None:
    healthy, dead = endpoints(), endpoints(slow)
    told.start(callbacks=CALLBACKS)
    told.run("first", job(healthy))
    assert healthy.wait(healthy.has(1))
    before = min(delay_of(told, healthy, f"b{n}") for n in range(8))
    told.run("dead", job(dead))
    until(lambda: bool(left(told)), "nothing waits")
    (name,) = left(told)
    entry = json.loads(told.path("outbox", name).read_text())
    for number in range(1000):
        other = f"dead-{number}"
        path = told.path("outbox", name.replace("dead~", f"{other}~"))
        path.write_text(json.dumps({**entry, "job": other}))
    assert dead.wait(lambda: len(dead.asked) > 0)
    beside = min(delay_of(told, healthy, f"a{n}") for n in range(8))
    assert len(left(told)) > 1000
    assert beside < before + 0.1  # the least of several: the machine may be busy


@pytest.mark.heavy
def test_a_hundred_thousand_waiting_events_take_little_memory(
    told: SpoolBox, endpoints: Make
) -> None:
    healthy = endpoints()
    told.start(callbacks=CALLBACKS)
    told.run("dead", "run: true\ncallback: http://127.0.0.1:1/\n")
    (name,) = left(told)
    entry = json.loads(told.path("outbox", name).read_text())
    told.run("warm", job(healthy))
    assert healthy.wait(healthy.has(1))
    before = memory_of(told)
    for number in range(100_000):
        other = f"dead-{number}"
        path = told.path("outbox", name.replace("dead~", f"{other}~"))
        path.write_text(json.dumps({**entry, "job": other}))
    delay = delay_of(told, healthy, "a")
    assert delay < 10, delay
    used = memory_of(told) - before
    print(f"memory of 100,000 events: {used >> 10} KiB; delay of another: {delay:.3f} s")
    assert used < 12 << 20  # their names alone take as much


def memory_of(box: SpoolBox) -> int:
    """What courier and carrier have for themselves."""
    both = (courier_of(box), carrier_of(box))
    return sum(each.memory_full_info().uss for each in both)


def test_posts_go_through_the_proxy_of_the_configuration(told: SpoolBox, endpoints: Make) -> None:
    """It gets a CONNECT, and what follows is between us and the endpoint."""
    endpoint = endpoints()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked: list[bytes] = []
        thread = threading.Thread(target=be_proxy, args=(listener, asked))
        thread.start()
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        told.start(callbacks=f"{{proxy: {proxy}, timeout: 2s}}")
        told.run("a", job(endpoint))
        assert endpoint.wait(endpoint.has(1)), told.log.read_text()
        told.stop()
        thread.join()
    assert asked == [f"CONNECT localhost:{endpoint.port} HTTP/1.".encode()]


def be_proxy(listener: socket.socket, asked: list[bytes]) -> None:
    """Serve one CONNECT, to its end, which either side may make an abrupt one."""
    client, _ = listener.accept()
    head = client.recv(65536)
    asked.append(head[: head.index(b"HTTP/1.") + 7])
    target = head.split()[1].decode().split(":")
    server = socket.create_connection((target[0], int(target[1])))
    with client, server, contextlib.suppress(ConnectionError):
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        other = {client: server, server: client}
        while True:
            for sock in select.select(list(other), [], [])[0]:
                data = sock.recv(65536)
                if not data:
                    return
                other[sock].sendall(data)


def state(box: SpoolBox) -> str:
    """What waits and why, and the end of the log, for people who wonder."""
    waits = {name: history(box, name.partition("~")[0])[-1:] for name in left(box)}
    return f"{waits}\n{box.log.read_text()[-3000:]}"


def delay_of(box: SpoolBox, endpoint: Endpoint, job_id: str) -> float:
    """From the job's end to its event."""
    box.run(job_id, job(endpoint))
    ended = time.monotonic()
    assert endpoint.wait(lambda: job_id in endpoint.by_job()), box.log.read_text()
    at = next(each.at for each in endpoint.taken if each.job == job_id)
    return max(0.0, at - ended)

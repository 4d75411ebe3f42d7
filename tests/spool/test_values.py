"""What submitters write into fields: it arrives byte for byte, and nothing looks into it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from spoolbox import SpoolBox, until

from runnerd.model import Reason, State

TEMPLATE = """
allow: {groups: [nogroup]}
params:
  text: {multiline: true, allow_dash: true, max_length: 100000}
job:
  labels: {text: "${TEXT}"}
  env: {FILLED: "<${TEXT}>"}
  run: env -0; printf '%s\\0' "$PARAM_TEXT"
"""


def nasty(mark: Path) -> list[str]:
    """Values, each of which would leave a mark if anything looked into it."""
    commands = (
        *("$({})", "`{}`", "; {}", "| {}", "&& {}", "|| {} #", "& {}", "' ; {} ; '", '" ; {} ; "'),
        *("${{IFS}}$({})", "$(({}))", "<({})", "() {{ :; }}; {}", "%s$({})", "\\$({})", "!{}"),
        *(
            "-c {}",
            "--help",
            "-rf",
            "-",
            "--",
            "*",
            "?",
            "~root",
            "$HOME",
            "${{HOME}}",
            "{{{{a}}}}",
        ),
        *("\\", "\\\\", "a\\nb", "%n%s%x", "'", '"', "null", "true", "1e3", "", " ", "\t"),
        *("\U0001f600", "é", "e\u0301", "..", "../../etc/passwd", "/etc/shadow", "=", "A=b"),
        *("x" * 100_000, "<%= {} %>", "{{{{ {} }}}}", "${{jndi:ldap://x}}", "#{{{}}}", "@file"),
    )
    return [command.format(f"touch {mark}") for command in commands]


@pytest.fixture
def mark(box: SpoolBox) -> Path:
    return box.scratch / "mark"


def variables(output: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in output.split("\0") if "=" in line)


def test_variables_and_arguments_arrive_as_they_are(box: SpoolBox, mark: Path) -> None:
    box.start()
    values = nasty(mark)
    for index, value in enumerate(values):
        job = {"command": ["env", "-0", f"ARG={value}"], "env": {"VALUE": value}}
        box.drop(f"j{index}", json.dumps(job))
    for index, value in enumerate(values):
        assert box.result(f"j{index}").state is State.DONE
        found = variables(box.output(f"j{index}"))
        assert (found["VALUE"], found["ARG"]) == (value, value)
    assert not mark.exists()


def test_parameters_arrive_as_they_are(box: SpoolBox, mark: Path) -> None:
    box.template("t", TEMPLATE)
    box.start()
    values = [*nasty(mark), f"a\n$(touch {mark})\nb"]
    for index, value in enumerate(values):
        box.drop(f"j{index}", json.dumps({"uses": "t", "with": {"text": value}, "name": "n"}))
    for index, value in enumerate(values):
        result = box.result(f"j{index}")
        if len(value) > 1000:  # more than a label holds
            assert result.reason is Reason.INVALID
            continue
        assert result.labels == {"text": value}, result.message
        found = variables(box.output(f"j{index}"))
        assert (found["PARAM_TEXT"], found["FILLED"]) == (value, f"<{value}>")
        assert box.output(f"j{index}").endswith(f"\0{value}\0")
        assert value not in result.parameters
    assert not mark.exists()


@pytest.mark.heavy
@pytest.mark.parametrize("field", ["name", "labels", "with", "secrets", "user", "uses", "executor"])
def test_whatever_stands_in_a_field_nothing_is_interpreted(
    box: SpoolBox, mark: Path, field: str
) -> None:
    """Names and labels are kept as they are; what must have a form has it, or is refused."""
    box.template("t", TEMPLATE)
    box.start()
    values = [value for value in nasty(mark) if len(value) < 200]
    for index, value in enumerate(values):
        job: dict[str, object] = {"run": "id -u"}
        if field in ("with", "uses"):
            job = {"uses": "t", "with": {"text": "x"}}
        job[field] = {"v": value} if field in ("labels", "with", "secrets") else value
        box.drop(f"j{index}", json.dumps(job))
    for index, value in enumerate(values):
        result = box.result(f"j{index}")
        if result.state is State.DONE:
            assert field in ("name", "labels")
            assert (result.name, dict(result.labels)) in ((value, {}), (None, {"v": value}))
        else:
            refused = (Reason.INVALID, Reason.EXECUTOR if field == "secrets" else Reason.DENIED)
            assert result.reason in refused
            assert "Traceback" not in box.output(f"j{index}")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b'run: x\nenv: {A: "a\\0b"}', "a NUL character cannot be passed to a program"),
        (b'command: [x, "a\\0b"]', "a NUL character cannot be passed to a program"),
        (b'run: "a\\0b"', "a NUL character cannot be passed to a program"),
        (b'uses: t\nwith: {text: "a\\0b"}', "a NUL character cannot be passed to a program"),
        (b"run: x\nenv: {A: a\0b}", "the character U+0000 must not stand"),
        (b"run: x\nenv: {A: \xff\xfe}", "byte 0xff is not UTF-8"),
        (b"uses: t\nwith: {text: \xc3\x28}", "byte 0xc3 is not UTF-8"),
        (b"run: x\nenv: {A: " + b"x" * 130_000 + b"}", "longer than 120 KiB"),
        (b"uses: t\nwith: {text: " + b"x" * 100_001 + b"}", "at most 100000 characters"),
    ],
)
def test_what_cannot_be_passed_on_is_refused(box: SpoolBox, data: bytes, part: str) -> None:
    box.template("t", TEMPLATE)
    box.start()
    result = box.run("j", data)
    assert result.reason is Reason.INVALID
    assert part in result.message
    assert result.error is not None
    assert result.error.line is not None


def test_values_of_variables_and_parameters_are_in_no_result(box: SpoolBox) -> None:
    box.template("t", TEMPLATE.replace("env -0; ", ""))
    box.start()
    box.run("one", "run: 'true'\nenv: {TOKEN: s3cret-value}")
    box.run("two", "uses: t\nname: n\nlabels: {text: x}\nwith: {text: ''}")
    one, two = box.result("one"), box.result("two")
    assert (one.env, one.parameters, one.template) == (("TOKEN",), (), None)
    assert (two.env, two.parameters, two.template) == (("FILLED", "PARAM_TEXT"), ("text",), "t")
    for name in ("result.json", "output.log"):
        assert "s3cret-value" not in box.path("done", "one", name).read_text()
    assert "s3cret-value" not in box.log.read_text()


def test_a_template_that_is_broken_is_told_and_stops_nothing_else(box: SpoolBox) -> None:
    box.template("t", TEMPLATE)
    box.template("broken", "allow: {groups: [nogroup]}\njob: {rn: x}")
    box.start()
    box.says("broken.yaml:2:7: unknown field `rn`: did you mean `run`?")
    assert "the template broken is broken" in box.run("j", "uses: broken").message
    assert box.run("k", "uses: t\nwith: {text: a}").state is State.DONE


def test_a_template_that_others_can_write_is_not_used(box: SpoolBox) -> None:
    box.template("t", TEMPLATE)
    (box.scratch / "jobs.d/t.yaml").chmod(0o666)
    box.start()
    box.says("others may write it; run: chmod go-w")
    assert box.run("j", "uses: t\nwith: {text: a}").reason is Reason.INVALID


def test_reload_takes_templates_over_or_keeps_the_old_ones(box: SpoolBox) -> None:
    box.template("t", TEMPLATE)
    box.start()
    box.template("new", "allow: {}\njob: {run: 'echo new'}")
    box.reload()
    box.says("configuration reloaded: 2 slots, 2 templates")
    assert box.run("j", "uses: new").state is State.DONE
    box.template("new", "allow: {}\njob: {run: ''}")
    box.reload()
    assert "configuration not reloaded, the old one stays" in box.log.read_text()
    assert box.run("k", "uses: new").state is State.DONE


def test_a_taken_id_can_be_rejected(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: echo first")
    box.drop("j", "run: echo second\non_duplicate: reject")
    result = box.result("j.2")
    assert (result.reason, result.started_at) == (Reason.DUPLICATE, None)
    assert result.message == "there is a job j already, and `on_duplicate` is reject"
    assert box.output("j") == "first\n"
    until(lambda: "refused as duplicate" in box.log.read_text(), "nothing was said")
    assert box.run("fresh", "run: echo x\non_duplicate: reject").state is State.DONE


def test_kill_after_is_heeded(box: SpoolBox) -> None:
    box.start()
    job = "run: trap '' TERM; sleep 1000 & wait; wait\ntimeout: 0.2s\nkill_after: 0.1s\n"
    result = box.run("j", job)
    assert result.reason is Reason.TIMEOUT
    assert result.duration_s is not None
    assert result.duration_s < 5  # by default it would be ten


def test_a_json_file_is_json(box: SpoolBox) -> None:
    box.start()
    text = json.dumps({"run": "echo 'a/b \u2028 \x7f'"}, ensure_ascii=False, indent="\t")
    box.drop("j.json", text.replace("/", "\\/"))
    assert box.result("j").state is State.DONE
    assert box.output("j") == "a/b \u2028 \x7f\n"
    box.drop("k.json", "run: echo x")
    assert box.result("k").message == "line 1, column 1: this is not JSON: Expecting value"


def test_the_examples_work(box: SpoolBox) -> None:
    examples = Path(__file__).parents[2] / "etc/examples"
    box.start()
    for name in ("invoice.yaml", "invoice.json"):
        box.drop(
            f"{name.replace('.', '-')}.{name.rpartition('.')[2]}", (examples / name).read_text()
        )
    assert box.result("invoice-yaml").state is State.DONE
    assert box.output("invoice-yaml") == "Invoice 4711 for Example Ltd\n"
    assert box.result("invoice-json").state is State.DONE
    assert box.output("invoice-json") == "no shell looks at $this\n"

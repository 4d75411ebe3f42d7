"""scenarios: small spools, each a way that a job can go, for the crash tests.

A job's work is one line with its id in the file of effects. What a scenario expects is what happens
without a fault, as `state` or `state reason`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WORK = 'echo "$RUNNER_JOB_ID" >> {effects}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Files by name for incoming/ (those with a slash in a bundle), requests for control/, and what
    comes of them, by id.

    `is_new`: the spool itself is not there yet. `links` are symbolic ones in incoming/. `before`:
    files that are run to their end first, without a fault. In all of them `{root}` and `{effects}`
    stand for the spool and the file of effects. `config`: more of the configuration for the rest,
    in which `{told}` is the file that events are told to; `news`: those that are wanted. `pruned`:
    ids that the daemon is to remove.
    """

    is_new: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    requests: tuple[str, ...] = ()
    before: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    pruned: tuple[str, ...] = ()
    expected: Mapping[str, str]
    news: tuple[str, ...] = ()


NEWS = ("started", "retrying", "finished")
TOLD = (
    "channels: {log: {command: [sh, -c, 'cat >> {told}']}}\n"
    f"callbacks: {{url: command:log, events: [{', '.join(NEWS)}]}}\n"
)


SCENARIOS: Mapping[str, Scenario] = {
    "new spool": Scenario(is_new=True, expected={}),
    "job": Scenario(
        files={"job.yaml": f"run: '{WORK}; echo printed'\n"},
        expected={"job": "done"},
    ),
    "two jobs": Scenario(
        files={
            "a.yaml": f"run: '{WORK}'\n",
            "b.json": '{"run": "echo \\"$RUNNER_JOB_ID\\" >> {effects}"}\n',
        },
        expected={"a": "done", "b": "done"},
    ),
    "failing job": Scenario(
        files={"job.yaml": f"run: '{WORK}; exit 3'\n"},
        expected={"job": "failed exit"},
    ),
    "retry": Scenario(
        files={
            "job.yaml": f"run: '{WORK}; [ $RUNNER_ATTEMPT -gt 1 ]'\n"
            "retry: {max: 3, delay: 0, on: [exit, interrupted]}\n"
        },
        expected={"job": "done"},
    ),
    "retry, not if interrupted": Scenario(
        files={
            "job.yaml": f"run: '{WORK}; [ $RUNNER_ATTEMPT -gt 1 ]'\n"
            "retry: {max: 3, delay: 0, on: [exit]}\n"
        },
        expected={"job": "done"},
    ),
    "artifacts": Scenario(
        files={
            "job.yaml": f"run: '{WORK}; mkdir -p d; echo a > a; echo b > d/b; "
            "[ $RUNNER_ATTEMPT -gt 1 ]'\n"
            "artifacts: [a, d]\nretry: {max: 2, delay: 0, on: [exit, interrupted]}\n"
        },
        expected={"job": "done"},
    ),
    "bundle": Scenario(
        files={
            "job/job.yaml": f'run: \'{WORK}; [ "$(cat a d/b)" = ab ]; '
            "[ $RUNNER_ATTEMPT -gt 1 ]'\n"
            "retry: {max: 2, delay: 0, on: [exit, interrupted]}\n",
            "job/a": "a",
            "job/d/b": "b",
        },
        expected={"job": "done"},
    ),
    "bundle anew": Scenario(
        before={"job/job.yaml": f"run: '{WORK}; cat a'\n", "job/a": "a"},
        requests=("job.retry",),
        expected={"job": "done", "job.2": "done"},
    ),
    "steps": Scenario(
        files={
            "job.yaml": "steps:\n"
            f"  - {{id: work, run: '{WORK}; echo k=v >> $RUNNER_OUTPUT'}}\n"
            "  - {id: beside, run: 'echo 50 half >> $RUNNER_PROGRESS', needs: []}\n"
            "  - {id: last, run: '[ $STEP_WORK_K = v ]', needs: [work, beside]}\n"
        },
        expected={"job": "done"},
    ),
    "limits": Scenario(
        files={"job.yaml": f"run: '{WORK}'\nlimits: {{open_files: 99, memory: 512M}}\n"},
        expected={"job": "done"},
    ),
    "cancel what runs": Scenario(
        files={"job.yaml": f"run: '{WORK}; : > {{root}}/control/job.cancel; sleep 60'\n"},
        expected={"job": "failed cancelled"},
    ),
    "cancel what waits": Scenario(
        files={"job.yaml": f"run: '{WORK}'\ndelay: 1h\n"},
        requests=("job.cancel",),
        expected={"job": "failed cancelled"},
    ),
    "submit anew": Scenario(
        before={"job.yaml": f"run: '{WORK}'\n"},
        requests=("job.retry",),
        expected={"job": "done", "job.2": "done"},
    ),
    "pause and resume": Scenario(
        files={"job.yaml": f"run: '{WORK}'\n"},
        requests=("pause", "resume"),
        expected={"job": "done"},
    ),
    "invalid": Scenario(
        files={"job.yaml": "run: [\n"},
        expected={"job": "failed invalid"},
    ),
    "duplicate": Scenario(
        before={"job.yaml": f"run: '{WORK}'\n"},
        files={"job.yaml": "run: echo never\non_duplicate: reject\n"},
        expected={"job": "done", "job.2": "failed duplicate"},
    ),
    "dependency": Scenario(
        files={
            "a.yaml": f"run: '{WORK}; exit 1'\n",
            "b.yaml": "run: echo never\nneeds: [a]\n",
        },
        expected={"a": "failed exit", "b": "failed dependency"},
    ),
    "prune": Scenario(
        before={
            "a.yaml": f"run: '{WORK}; mkdir -p d/e; echo x > d/e/f; mkdir g'\n",
            "b.yaml": f"run: '{WORK}; exit 1'\n",
            "c.yaml": f"run: '{WORK}'\n",
        },
        config="retention: {done: {count: 0}}\n",
        pruned=("a", "c"),
        files={"d.yaml": f"run: '{WORK}; exit 3'\n"},
        expected={"b": "failed exit", "d": "failed exit"},
    ),
    "told": Scenario(
        files={"job.yaml": f"run: '{WORK}'\n"},
        expected={"job": "done"},
        config=TOLD,
        news=NEWS,
    ),
    "told of each attempt": Scenario(
        files={
            "job.yaml": f"run: '{WORK}; [ $RUNNER_ATTEMPT -gt 1 ]'\n"
            "retry: {max: 3, delay: 0, on: [exit, interrupted]}\n"
        },
        expected={"job": "done"},
        config=TOLD,
        news=NEWS,
    ),
    "told of what is refused": Scenario(
        files={
            "a.yaml": f"run: '{WORK}; exit 1'\n",
            "b.yaml": "run: echo never\nneeds: [a]\n",
            "c.yaml": "run: [\n",
        },
        expected={"a": "failed exit", "b": "failed dependency", "c": "failed invalid"},
        config=TOLD,
        news=NEWS,
    ),
    "symbolic link": Scenario(
        links={"job.yaml": "/etc/passwd"},
        expected={"job": "failed invalid"},
    ),
}

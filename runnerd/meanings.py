"""meanings: what the words mean that runnerd writes: states, reasons, news, fields of its files.

For the JSON Schemas and the manual. A test knows that none is missing. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model import News, Problem, Reason, State
from .outcome import ArtifactFile, Attempt, Result, Status, StepResult, Usage

STATES: Mapping[State, str] = {
    State.QUEUED: "It waits, as a file in incoming/.",
    State.RUNNING: "It was claimed: it runs, or waits for its next attempt.",
    State.DONE: "It succeeded.",
    State.FAILED: "It did not succeed, or was refused. The reason says why.",
}

REASONS: Mapping[Reason, str] = {
    Reason.EXIT: "Its program exited with a status other than 0; see exit_code.",
    Reason.SIGNAL: "A signal ended it that was not runnerd's; see signal.",
    Reason.TIMEOUT: "It ran longer than its timeout, or a step longer than its own.",
    Reason.LIMIT: "It took more than one of its limits allows; the message names the limit.",
    Reason.CANCELLED: "Somebody cancelled it; the message names whom.",
    Reason.INVALID: "Its file is no good job file; error says where. Nothing of it has run.",
    Reason.DENIED: "The policy does not allow it to its submitter. Nothing of it has run.",
    Reason.DUPLICATE: "Its id is taken, and it says on_duplicate: reject. Nothing of it has run.",
    Reason.DEPENDENCY: "A job that it needs has failed. Nothing of it has run.",
    Reason.EXPIRED: "It was not started before it expired. Nothing of it has run.",
    Reason.INTERRUPTED: "Nobody saw it end: the machine stopped, or its runner was killed. "
    "How far it came is not known.",
    Reason.EXECUTOR: "It could not be started, or its executor failed.",
    Reason.ARTIFACT: "It succeeded, but an artifact that it requires could not be kept.",
}

NEWS: Mapping[News, str] = {
    News.STARTED: "Its first attempt has begun. The data are its status.",
    News.PROGRESS: "It told its progress. The data are its status.",
    News.RETRYING: "An attempt has failed, and there will be another one. The data are its status.",
    News.FINISHED: "It lies in done/ or failed/. The data are its result.",
}

FIELDS: Mapping[Any, Mapping[str, str]] = {
    Result: {
        "schema": "The version of this form.",
        "id": "The job's id.",
        "file": "The name of the file as it was dropped.",
        "name": "Its name for people.",
        "state": "done or failed.",
        "reason": "Why it failed, in one word; null if it did not.",
        "message": "The same as a sentence for people.",
        "exit_code": "The exit status of the last attempt, if it exited.",
        "signal": "The signal that ended the last attempt, like SIGSEGV.",
        "submitter": "The user who dropped it.",
        "user": "The user whom it ran as.",
        "host": "The machine.",
        "executor": "What ran it, or its first step.",
        "submitted_at": "When it was dropped.",
        "started_at": "When the first attempt began; null if it never did.",
        "finished_at": "When it ended.",
        "duration_s": "How long the last attempt took, measured, in seconds.",
        "attempts": "Each try at it.",
        "steps": "Each step of it, if it has steps.",
        "outputs": "The values that it handed on, by their keys.",
        "usage": "What the last attempt used; null where nobody measured.",
        "artifacts": "The files below artifacts/.",
        "truncated": "What of it is not whole: output, artifacts.",
        "labels": "Its labels.",
        "template": "The template that it used.",
        "parameters": "The names of the parameters that it gave to the template.",
        "env": "The names of its variables.",
        "secrets": "The names of its secrets.",
        "error": "The first thing that is wrong with its file, if that was refused.",
        "errors": "All that is wrong with it.",
        "runnerd": "The version of runnerd that wrote this.",
    },
    Attempt: {
        "number": "It counts from 1.",
        "started_at": "When it began.",
        "finished_at": "When it ended.",
        "duration_s": "How long it took, measured, in seconds.",
        "reason": "Why it failed, in one word.",
        "exit_code": "Its exit status, if it exited.",
        "signal": "The signal that ended it.",
        "message": "How it ended, as a sentence.",
        "log": "The file of its output in the job's directory.",
    },
    StepResult: {
        "id": "Its id, or its number.",
        "name": "Its name for people.",
        "executor": "What ran it.",
        "state": "done, failed or skipped.",
        "reason": "Why it failed, in one word.",
        "message": "How it ended, as a sentence.",
        "exit_code": "Its exit status, if it exited.",
        "signal": "The signal that ended it.",
        "started_at": "When it began.",
        "finished_at": "When it ended.",
        "duration_s": "How long it took, measured, in seconds.",
        "log_start": "Where its part of output.log begins, in bytes.",
        "log_end": "Where that ends.",
        "outputs": "The values that it handed on.",
    },
    Usage: {
        "cpu_user_s": "CPU time in user mode, in seconds.",
        "cpu_system_s": "CPU time in the kernel, in seconds.",
        "max_memory_bytes": "The most memory that it used at once.",
        "read_bytes": "Bytes read from disks.",
        "write_bytes": "Bytes written to disks.",
    },
    ArtifactFile: {
        "path": "Its path below artifacts/.",
        "size": "Its size in bytes.",
        "sha256": "The SHA-256 of its content, in hexadecimal.",
    },
    Problem: {
        "code": "A word for the kind of fault.",
        "message": "What is wrong, as a sentence.",
        "line": "The line in the file, from 1.",
        "column": "The column, from 1.",
        "snippet": "The text of that line.",
    },
    Status: {
        "id": "The job's id.",
        "name": "Its name for people.",
        "state": "running.",
        "pid": "The main process of the step that was started last.",
        "attempt": "The number of the attempt, from 1.",
        "started_at": "When the attempt began.",
        "queue": "Its queue.",
        "group": "Its concurrency group.",
        "step": "The step that runs.",
        "steps_done": "How many steps have ended.",
        "steps": "How many steps it has.",
        "percent": "How far it says that it is.",
        "progress": "What it says that it does.",
        "retry_at": "When its next attempt starts, if the last one has failed.",
    },
}

"""runnerd: a spool daemon that runs jobs. Dropping a YAML file into a directory is its API.

The way of a job, and who takes it a step further:

    incoming/NAME.yaml            running/ID/                       done/ID/ or failed/ID/
    ------------------            -----------                       ----------------------
      | wake       watch
      | look       spool       which names are there (intake)
      | judge      openat      open it once, keep writers out
                   bundle      a directory: its job file, and inputs beside that, for work/
      |            yamlsafe    bytes -> Node, with positions
      |            parse       Node -> JobSpec, by the declaration in fields
      |            policy      may this submitter (accounts) do that?
      |            templates   uses/with (parameters) -> the administrator's job
      | order      schedule    which job is next
      | claim      spool         -> job.yaml, .claim (locked)
      |            daemon      decides all of the above, in one loop
      | hand over  running     who looks after each job until it is filed
                   slots       one runner for each slot; messages; nursery starts them
                   runner      secure, prepare (jobdir, spares), attempt, postpone (retry) or file
                   job         the steps of one attempt (workflow), and what they hand on (handover)
                   secretstore names -> values, only now
                   executors   start a step, say how to wait for it and to end it: the shell, ssh,
                               docker (an attendant looks after each container), plugins in Python,
                               programs in any language (description)
                   limits      fences around it (cgroup, rlimits), before its first instruction
                   supervise   wait, end in time; progress -> status.json
                   output      pipe -> output.log, without secrets (redact)
                   artifacts   work/ -> artifacts/, what the job wants kept
                   conclude    outcome -> result
                   filing      result.json, the event that tells of it, then the rename  -> filed

    What is told of a job (callbacks); its claim says whom to tell:

      | write      webhook     event -> entry; telling while the job runs, filing when it ends
      | keep       outbox      a file for each, hidden until what it tells has happened
      | send       post        the daemon's side: one courier, while there is something to tell
                   courier     reads, signs, removes what was taken; notes each try (history)
                   deliveries  what is tried next, and when again
                   carrier     no rights, no files: HTTPS, to allowed networks, and channels
                   frames      between these two

    what may be written:  fields (job), config, templates: declared with kinds, names, places,
                          patterns and shapes; catalogue adds the options of the executors that
                          are here, entrypoints finds plugins; faults: what is wrong;
                          meanings: of what runnerd writes; schema: for editors
    requests:             control (what is asked, and who may), controlbox (on disk), controller
    after a crash:        remains looks at a directory in running/, recovery says what it means,
                          salvage does it, kin ends leftovers, sweeper has containers removed,
                          as long as debts says so; adopted: what an earlier daemon started lives
                          on; trouble: the machine has no room
    metrics:              figures for Prometheus, as a file
    not kept for ever:    retention says which filed jobs go, prune removes them; pruner has a
                          runner do it
    after worse:          damage says what is wrong with a spool, fsck looks for it while no daemon
                          serves, mend puts filed jobs right
    for people:           api (Python), drop, ctl (runnerctl), complaints (errors as text)
    words:                model, settings, outcome (frozen), records (JSON), units, ids, errors,
                          events, which go to the journal, or to standard error

Imports point one way: words <- decisions (pure: what may be written, catalogue yamlsafe parse
parameters policy complaints schedule workflow handover retry control recovery damage conclude
retention redact webhook deliveries networks meanings) <- disk (disk layout openat traces spool
filing bundle remains spares jobdir outbox history controlbox admit accounts child watch processes
kin messages frames nursery entrypoints configfile secretstore mend fsck debts prune journal) <-
daemon (daemon clock intake controller running slots adopted salvage sweeper errand trouble post
pruner metrics service) | runner (runner job supervise progress telling executors limits rlimits
cgroup output artifacts) | courier (courier carrier channels) | people (api drop ctl). The four at
the end do not know each other; only `__main__` and `ctl.run` put parts together. A test reads the
imports.

The states of a job on disk; nothing else is state, and each step is one row further:

    row  incoming/  running/ID/  .claim  job.yaml  result.json  filed   after a crash
    S0   file       -            -       -         -            -       nothing to do
    S1   file       +            + or -  -         -            -       remove the directory
    S2   -          +            +       +         -            -       lock held: runs; free: not
                                                                        started, interrupted, or it
                                                                        waits for its next attempt
    S3   -          +            +       +         +            -       finish the rename
    S4   -          -            -       -         -            +       nothing to do

A result counts once it is whole: also in S3, with no name yet but that of its new file.
`.claim` is locked by whoever looks after the job. Its first line is what the daemon decided; each
further line says that an attempt may have begun, or that it failed and when the next one may start.
`job.yaml` without `.claim` is being put back: S0. Between S3 and S4 the event that tells of the end
lies hidden in outbox/; it is shown when the job is filed. A filed job leaves by a rename into
`.pruning`, where nothing is a job any more. A bundle is `job.yaml` as well, a directory, until its
inputs are in work/; then it is `dropped`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Job", "Spool"]

if TYPE_CHECKING:
    from .api import Job, Spool


def __getattr__(name: str) -> Any:
    """Load the Python API when somebody asks for it: the programs do not need it."""
    if name in __all__:
        from . import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

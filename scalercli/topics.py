"""The pages of ``scalercli help TOPIC``. Tables are made from the code that they describe."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import NamedTuple

from protocol.control import CancelOutcome, ShownState
from scalercli import exits, settings

_WIDTH = 78
_INDENT = "    "


class Topic(NamedTuple):
    name: str
    title: str
    page: Callable[[], str]


def _table(rows: list[tuple[str, str]]) -> str:
    """Two columns, the second one wrapped."""
    wide = max(len(left) for left, _ in rows) + 2
    lines = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, _WIDTH - len(_INDENT) - wide) or [""]
        lines += [f"{_INDENT}{left:<{wide}}{first}", *(f"{_INDENT}{'':<{wide}}{line}" for line in more)]
    return "\n".join(lines)


def _exit_codes() -> str:
    codes = _table([(str(int(code)), meaning.replace("`", "")) for code, meaning in exits.MEANINGS.items()])
    order = " ".join(map(str, exits.WORST_FIRST))
    states = _table([(state.label, str(int(exits.of_state(state)))) for state in ShownState])
    return f"""\
CODES
{codes}

SEVERAL TASKS, ONE CODE
    A command that is about several tasks exits with the worst of their
    codes. From the worst on:

        {order}

    With -o jsonl, each line has its own code, as "exit".

WHICH CODE A TASK HAS
    wait, result, run and status --exit-status exit by how tasks are:

{states}

COMMANDS AS TASKS
    scalercli run -- COMMAND exits with the command's own code. So that the
    two can't be mixed up, an error of scalercli itself is {int(exits.ExitCode.INTERNAL)} there, and a
    message on stderr says what happened.

EXAMPLES
    scalercli wait @last || echo "it ended with $?"
    scalercli cancel @last --ok already-done,not-found    # 0 for these, too
"""


def _environment() -> str:
    rows = [(known.variable, f"{known.what} ({known.flag or 'no option'})") for known in settings.KNOWN.values()]
    return f"""\
VARIABLES
{_table(rows + list(settings.VARIABLES.items()))}
{_table([("TERM=dumb", "no colour, no bars that are redrawn")])}

    An option wins over a variable, a variable over a configuration file
    (scalercli help configuration). A variable that is empty counts as not
    set. scalercli config list shows what holds and where it comes from.

DIRECTORIES
    Sessions keep their ledger, their logs and their locks in
    $XDG_STATE_HOME/scalercli (~/.local/state/scalercli), their sockets in
    $XDG_RUNTIME_DIR/scalercli, or in /tmp/scalercli-UID where there is no
    such directory or its name is too long for a socket. The user's
    configuration file is $XDG_CONFIG_HOME/scalercli/scalercli.toml
    (~/.config/scalercli/scalercli.toml). All of it is for the user alone:
    directories have the mode 0700, ledgers and sockets 0600.

WHAT TASKS GET
    A command that is run by a cluster on this machine gets the directory and
    the environment of the shell that submitted it. Elsewhere it gets those of
    the worker: an environment has secrets. --env NAME=VALUE and --cwd DIR set
    them.

SECRETS
    There is none in an option or in a variable, where other processes can see
    them: keys are files, and options name the files (scalercli help access).
"""


def _ids() -> str:
    states = _table([(state.label, _STATES[state]) for state in ShownState])
    return f"""\
TASK IDS
    A task has an id of 32 hex digits, chosen when it is submitted. Wherever a
    command takes an ID, it takes

{_table(_FORMS_OF_IDS)}

    With -, a line is an id (what follows it in the line is not read), or a
    JSON object with an "id", as every command prints with -o jsonl. On a
    terminal, ids are shortened to 12 digits; in a pipe they are whole.

SESSIONS
    The tasks of one user on one cluster are a session. An agent in the
    background holds it, since a scheduler cancels the tasks of a client that
    leaves, and writes what becomes of each task to a ledger. The ledger keeps
    tasks that are over for 7 days. The agent ends by itself when it has
    nothing to do (idle_seconds); the ledger stays.

STATES
{states}

    A scheduler that answers no status queries (OpenGRIS Scaler) is watched
    instead: then states are inferred from what it publishes, and say so.
"""


_FORMS_OF_IDS = [
    ("a whole id", "as submit prints it"),
    ("a prefix", "of 6 digits or more, if it is unique in the session"),
    ("@last", "the task that was submitted last"),
    ("-", "ids from stdin, one per line"),
]

_STATES = {
    ShownState.PENDING: "handed over; the scheduler does not tell how far it is",
    ShownState.QUEUED: "no worker runs it yet",
    ShownState.RUNNING: "a worker runs it",
    ShownState.CANCELING: "a cancel was sent and is not answered yet",
    ShownState.SUCCESS: "it has returned; a command has exited with 0",
    ShownState.FAILED: "it has raised; a command has exited with another code",
    ShownState.CANCELED: "it will not run to its end, and the scheduler has said so",
    ShownState.WORKER_DIED: "too many workers were lost while they ran it",
    ShownState.LOST: "nobody can know any more how it ended; the reason says why",
    ShownState.NOT_FOUND: "no task has that id",
    ShownState.WAITING: "it waits for tasks that it was submitted after (--after)",
    ShownState.TIMED_OUT: "it ran longer than its --timeout, and was canceled",
}


def _pipelines() -> str:
    modes = _table(
        [
            ("text", "on a terminal a table with colours; in a pipe columns with tabs between them, and no header"),
            ("json", "one document: an array, or an object where there is one answer only"),
            ("jsonl", "one object per line, as soon as there is one"),
            ("ids", "one id per line"),
            ("none", "nothing; the exit code tells"),
        ]
    )
    return f"""\
OUTPUT
    -o MODE (--output) chooses how answers are printed; --json is -o json, -q
    is -o none without notes:

{modes}

    Answers are on stdout, everything else is on stderr, and flushed line by
    line. Every JSON object has a "schema"; fields are only ever added.

INPUT
    Stdin is read only where - is given, and by map, whose default it is.
    Every command that takes ids takes them from any command that prints tasks.

LARGE INPUTS
    map reads as fast as tasks are taken, and so needs little memory for any
    number of lines. When the reader of a pipe goes away, the command before
    it ends with {int(exits.ExitCode.CLOSED_PIPE)}, and tasks that were submitted go on.

CTRL-C
    wait, logs, result and status -w detach: the tasks go on. run cancels its
    task and waits for the answer; a second Ctrl-C does not wait. submit and
    map stop sending and say how many were sent.

EXAMPLES
    seq 100 | scalercli map math:sqrt | scalercli wait - -o jsonl \\
        | jq -r .state | sort | uniq -c
    scalercli status -o jsonl | jq -c 'select(.state=="running")' \\
        | scalercli cancel - -o jsonl | jq -r .outcome
    scalercli submit -- sh -c 'sleep 1; echo READY; sleep 60' \\
        | scalercli logs -f - | grep -m1 READY
"""


def _configuration() -> str:
    rows = [(known.name, f"{known.what}. Default: {_plain(known.default)}") for known in settings.KNOWN.values()]
    here, user = settings.files()
    return f"""\
ORDER
    A value is taken from the first of these that has it:

    1. the option of the command
    2. the variable SCALERCLI_NAME (scalercli help environment)
    3. ./{here}
    4. {user}
    5. the default

SETTINGS
{_table(rows)}

    [clusters] holds lines NAME = "tcp://HOST:PORT" (scalercli help clusters);
    those of both files count.

EXAMPLE OF A FILE
    cluster = "lab"
    idle_seconds = 3600
    timeout = "30s"

    [clusters]
    lab = "tcp://10.0.0.5:6378"

    Nothing else may stand there: a name or a value that can't be is an error
    that names file and line.

COMMANDS
    scalercli config list             # each value, and who set it
    scalercli config set timeout 30s  # in the user's file; comments stay
    scalercli config path             # which files are read
"""


def _plain(value: object) -> str:
    return "none" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


_FORMS_OF_CLUSTERS = [
    ("embedded", "scheduler, object storage and workers on this machine; the first command that needs one starts it"),
    ("NAME", "another such cluster, made by scalercli cluster up --name NAME"),
    ("NAME", "a line in [clusters] of a configuration file"),
    ("tcp://HOST:PORT", "any running scheduler of the protocol: ours, or OpenGRIS Scaler"),
]


def _clusters() -> str:
    idle = settings.DEFAULT_IDLE_SECONDS / 60
    return f"""\
WHICH CLUSTER
    A command uses the cluster that --cluster, SCALERCLI_CLUSTER or the
    configuration names, and else the default cluster on this machine, which
    is called embedded. A name is one of

{_table(_FORMS_OF_CLUSTERS)}

    scalercli cluster use NAME writes it to the configuration file.
    scalercli cluster list shows all, and marks the one that commands use.

STARTING AND ENDING
    cluster up starts a cluster and keeps it until cluster down. --workers
    says how many tasks run at once; auto is one per core. With
    --memory-limit-per-task 2G one that uses more, with what it starts, gets a
    MemoryError or is killed. With --idle-timeout 1h the cluster ends by itself
    after an hour without tasks; one that a command has started on its own does
    after idle_seconds ({idle:g} minutes).

    cluster down ends the cluster and its session; tasks that are not over are
    canceled, and stderr says how many. --drain 10m lets them end first. Ledger
    and logs stay. For a cluster elsewhere, only the session with it ends.

WHEN SOMETHING DIES
    A worker process that is killed is started again at once, and the log says
    so. Its tasks run again; one that has lost three workers ends as
    worker-died. If it ends more than five times in a minute, the cluster ends.

    A session whose agent or whose scheduler was killed is noticed by the next
    command that needs it: it says so on stderr and starts the cluster again as
    it was. Tasks that were not over are lost then, and say so; scalercli retry
    submits them again. Sockets and locks that a reboot has left do not matter.
    scalercli doctor shows what is left over, and what to do.

LOGS
    scalercli cluster logs -f shows what scheduler, workers, object storage and
    session agent say; --role chooses.

FOR OTHER PROGRAMS
    A program that uses a Scaler client works with a cluster on this machine:

    scalercli cluster status -o json | jq -r .scheduler_address
"""


def _cancel() -> str:
    outcomes = _table(
        [(f"{outcome.label} ({int(exits.OF_OUTCOME[outcome])})", _OUTCOMES[outcome]) for outcome in _OUTCOMES]
        + [(f"unconfirmed ({int(exits.ExitCode.TIMED_OUT)})", "no answer came within --timeout")]
    )
    return f"""\
WHAT IT MEANS
    A cancel is confirmed, not hoped for: the command returns when the worker
    has said what became of the task, through the scheduler. If it ran, its
    process has been killed by then.

OUTCOMES AND EXIT CODES
{outcomes}

    --ok OUTCOMES counts some of them as 0, for a clean-up that may be late:
    scalercli cancel --all --ok already-done,not-found

FORCE
    Without --no-force a running task is killed. With it, only what has not
    started is canceled; a task that runs is refused, and runs on.

WHEN A RESULT IS QUICKER
    A task may end while its cancel is under way. Then the outcome is
    already-done and its result is not kept: after a cancel, a task never shows
    one. A task whose result was there before is left alone, and its result can
    still be had; nothing is sent.

SEVERAL
    All cancels are sent first, then the answers are awaited. Ctrl-C stops
    waiting; what was sent stays sent. --no-wait does not wait at all.

    SPEC.md, section 6, has the rules for implementations.
"""


_OUTCOMES = {
    CancelOutcome.CANCELED: "it will not run to its end",
    CancelOutcome.ALREADY_DONE: "it was over before the cancel reached it",
    CancelOutcome.REFUSED: "it runs on (--no-force)",
    CancelOutcome.NOT_FOUND: "neither the session nor the scheduler knows it",
}


def _access() -> str:
    roles = _table(list(_ROLES.items()))
    unreachable, usage = int(exits.ExitCode.UNREACHABLE), int(exits.ExitCode.USAGE)
    return f"""\
WHY
    Tasks are code: who may submit one can run anything that the workers' user
    can. Without keys, everybody who reaches the ports of a cluster may. So
    scheduler and object storage listen on a loopback address only, where
    every user of the machine reaches them; for another address they want
    keys, or --insecure. cluster up --secure starts a cluster on this machine
    with keys of its own, which commands find by themselves.

KEYS
    scalercli keys new NAME makes NAME.key, which is secret, has the mode 0600
    and never leaves the machine where it is used, and NAME.pub, which anybody
    may see. The cluster has one, and every person and every machine with
    workers has one. A list of allowed keys is a directory with a public key
    in each file; scalercli keys allow and revoke put them there and take them
    away, and a cluster that runs follows within a second.

WHO SAYS WHAT
    scheduler, object-storage   --key-file CLUSTER.key --allow DIRECTORY
    worker, worker-manager      --key-file NAME.key --server-key CLUSTER.pub
    all other commands          the same two, before the command's name

    or as settings: SCALERCLI_KEY_FILE, SCALERCLI_SERVER_KEY, key_file and
    server_key in a configuration file, or for one cluster in [clusters]:

    lab = {{ address = "tcp://10.0.0.5:6378", key_file = "ada.key",
            server_key = "lab.pub" }}

    A path in a file is meant from the directory of that file. A session keeps
    the key that it was started with, until cluster down.

ROLES
    keys allow --role says what a key is for:

{roles}

    The cluster's own key may be used for all of them.

WHAT IT GIVES
    Scheduler, workers, clients and object storage know each other by their
    keys, and all that they say is encrypted (CURVE and TLS 1.3). A client can
    neither cancel tasks of another one, nor read, change or delete its
    objects. Nobody can speak in the name of another one. Who is revoked is
    cut off, his tasks are canceled, and those that a revoked worker held go
    to others. What it does not give stands in SPEC.md, section 11.

WHEN IT FAILS
    Both sides say why: the command, and the log of scheduler or object
    storage. The exit code is {unreachable}; {usage} for a key file that can't be used.
"""


_ROLES = {
    "client": "submits tasks, and cancels, reads and asks about them",
    "worker": "runs tasks; with client, too, if they submit tasks of their own",
    "manager": "starts and stops workers: scalercli worker-manager; with worker, too, for those it starts",
    "monitor": "watches what happens in the whole cluster: scalercli top",
}

TOPICS = {
    topic.name: topic
    for topic in (
        Topic("exit-codes", "what the exit code of a command says", _exit_codes),
        Topic("environment", "variables that are read, and directories that are used", _environment),
        Topic("ids", "how tasks are named, what a session is, and the states of a task", _ids),
        Topic("pipelines", "output modes, ids from stdin, Ctrl-C, closed pipes", _pipelines),
        Topic("configuration", "settings, the files they come from, and their order", _configuration),
        Topic("clusters", "the cluster on this machine, others by name, and those elsewhere", _clusters),
        Topic("access", "keys: who may use a cluster, and how a cluster knows them", _access),
        Topic("cancel", "what a cancel reports, and when it is refused", _cancel),
    )
}


def page(topic: Topic) -> str:
    """The whole page, as it is printed."""
    head = f"NAME\n{_INDENT}scalercli help {topic.name} - {topic.title}\n\n"
    others = ", ".join(name for name in TOPICS if name != topic.name)
    see = textwrap.fill(others, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return f"{head}{topic.page()}\nSEE ALSO\n{see}\n"

"""The examples of every command's ``--help``. A test runs each of them in a real shell, in this order."""

from __future__ import annotations

from typing import Any, NamedTuple

REMOTE = "a cluster elsewhere"
FOREGROUND = "a terminal: it runs until it is ended"
FILES = "files of yours"
_ROOM = 73


class Example(NamedTuple):
    line: str
    what: str
    needs: str = ""
    """Why no test runs it; empty: one does."""
    code: int = 0
    """Its exit code."""


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "": (
        Example("scalercli run math:factorial 20", "call a function on the cluster"),
        Example("scalercli run -- sh -c 'echo hi; exit 3'", "run a command there; exit with its code", code=3),
        Example("id=$(scalercli submit time:sleep 30); scalercli cancel $id", "submit, then cancel"),
        Example("scalercli help pipelines", "how commands work together"),
    ),
    "submit": (
        Example("scalercli submit math:factorial 20", "prints the task's id"),
        Example(
            "scalercli submit --name nightly --retries 3 -- sh -c 'date; uptime'", "a command, tried again if lost"
        ),
        Example("scalercli submit --after @last builtins:print done", "when the one before has succeeded"),
    ),
    "run": (
        Example("scalercli run math:factorial 20", "a function; prints 2432902008176640000"),
        Example("scalercli run builtins:sorted '[3, 1, 2]' reverse=true", "JSON arguments, and a keyword"),
        Example("scalercli run -- sh -c 'echo hi; exit 3'", "a command; exits with its code", code=3),
    ),
    "map": (
        Example("seq 5 | scalercli map math:factorial --ordered --results", "one task per line; results in order"),
        Example("seq 100 | scalercli map math:sqrt | scalercli wait - -q", "submit all, then wait for all"),
        Example(
            "printf '%s\\n' a b | scalercli map --ordered --results -- sh -c 'echo \"$1\" | tr a-z A-Z' _ {}",
            "a command per line, {} is the line",
        ),
    ),
    "status": (
        Example("scalercli status", "all tasks of the session"),
        Example("scalercli status @last", "the last one"),
        Example("scalercli status --state running -o ids", "the ids of those that run"),
        Example("scalercli status -o jsonl | jq -r .state | sort | uniq -c", "how many are in each state"),
    ),
    "wait": (
        Example("scalercli wait @last --timeout 1m", "until the last one is over"),
        Example("seq 10 | scalercli map math:sqrt | scalercli wait -", "until all of them are"),
    ),
    "result": (
        Example("scalercli run math:sqrt 16 >/dev/null; scalercli result @last", "again, what it returned"),
        Example("scalercli result @last -o jsonl | jq .result", "as JSON"),
    ),
    "logs": (
        Example(
            "scalercli submit -- sh -c 'echo one; echo two >&2' | scalercli logs -f -", "what it prints, as it does"
        ),
        Example("scalercli logs @last", "what it has printed"),
    ),
    "cancel": (
        Example("scalercli submit time:sleep 60 | scalercli cancel -", "the worker has killed it when this returns"),
        Example("scalercli cancel --state queued --ok already-done", "whatever has not begun"),
        Example("scalercli cancel --all", "all that are not over"),
    ),
    "retry": (
        Example("scalercli run math:sqrt -1 || scalercli retry @last", "submit it again, as it was"),
        Example("scalercli status --state lost | scalercli retry - | scalercli wait -", "all that were lost", code=0),
    ),
    "explain": (Example("scalercli explain @last", "why it waits, or how it ended"),),
    "top": (
        Example("scalercli top", "q or Ctrl-C leaves", FOREGROUND),
        Example("scalercli top --once -o json | jq .workers", "one look, for a program"),
    ),
    "cluster up": (
        Example("scalercli cluster up --workers auto", "one slot per core"),
        Example("scalercli cluster up --name mine --workers 1 --secure", "which no other user of the machine can use"),
        Example("scalercli cluster up --name lab --workers 1 --idle-timeout 1h", "another one beside it"),
    ),
    "cluster status": (
        Example("scalercli cluster status", "addresses, workers, tasks"),
        Example("scalercli cluster status -o json | jq -r .scheduler_address", "for a script"),
    ),
    "cluster list": (Example("scalercli cluster list", "all, and which one commands use"),),
    "cluster use": (
        Example("scalercli cluster use lab", "from now on"),
        Example("scalercli cluster use embedded", "back to the default"),
        Example("scalercli cluster use tcp://10.0.0.5:6378", "one elsewhere", REMOTE),
    ),
    "cluster logs": (
        Example("scalercli cluster logs --role scheduler -n 20", "the last 20 lines of one role"),
        Example("scalercli cluster logs -f", "all roles, as they come", FOREGROUND),
    ),
    "cluster down": (
        Example("scalercli cluster down lab", "one of them"),
        Example("scalercli cluster down --all", "all of them, and all sessions"),
    ),
    "config list": (
        Example("scalercli config list", "every setting and who set it"),
        Example("SCALERCLI_OUTPUT=json scalercli config list | jq '.[] | select(.origin != \"default\")'", "as JSON"),
    ),
    "config path": (Example("scalercli config path", "which files are read"),),
    "config set": (Example("scalercli config set timeout 30s", "for all commands of this user"),),
    "config get": (Example("scalercli config get timeout", "one value"),),
    "keys new": (
        Example("scalercli keys new lab", "of a cluster, or of a person or machine that uses it"),
        Example("scalercli keys new ada -d ./ada", "somewhere else: ./ada/ada.key and ./ada/ada.pub"),
    ),
    "keys list": (Example("scalercli keys list -o jsonl | jq -r .name", "yours, and those that are allowed"),),
    "keys show": (
        Example("scalercli keys show lab", "one of yours"),
        Example("scalercli keys show ada/ada.pub", "any key file: compare the fingerprint"),
    ),
    "keys allow": (
        Example("scalercli keys allow ada/ada.pub", "its owner may submit tasks from now on"),
        Example("scalercli keys allow w1.pub --role worker", "a worker", FILES),
    ),
    "keys revoke": (Example("scalercli keys revoke ada", "and not any more"),),
    "doctor": (
        Example("scalercli doctor", "what is wrong, and what to do"),
        Example("scalercli doctor --cluster tcp://10.0.0.5:6378", "of a cluster elsewhere", REMOTE),
        Example("scalercli doctor --json | jq '.[] | select(.ok | not)'", "for a program"),
    ),
    "completion": (Example('eval "$(scalercli completion bash)"', "put this into ~/.bashrc"),),
    "help": (
        Example("scalercli help", "the topics"),
        Example("scalercli help exit-codes", "one of them"),
        Example("scalercli help cluster up", "a command, as --help shows it"),
    ),
    "scheduler": (
        Example(
            "scalercli scheduler tcp://127.0.0.1:6378 --object-storage-address tcp://127.0.0.1:6379",
            "with a storage that runs",
            FOREGROUND,
        ),
    ),
    "worker": (Example("scalercli worker tcp://127.0.0.1:6378 --concurrency 4", "four slots", FOREGROUND),),
    "worker-manager": (Example("scalercli worker-manager tcp://127.0.0.1:6378 --max 8", "up to eight", FOREGROUND),),
    "object-storage": (Example("scalercli object-storage tcp://127.0.0.1:6379", "on the loopback", FOREGROUND),),
    "trace": (
        Example("scalercli trace --format mermaid -- run math:sqrt 16", "a sequence diagram of a command"),
        Example("scalercli trace --live --cluster tcp://10.0.0.5:6378", "between others", REMOTE),
    ),
    "conformance run": (
        Example("scalercli conformance run --target reference --role scheduler 'CAN-04'", "one requirement"),
        Example("scalercli conformance run --target mine.yaml", "an implementation of yours", FILES),
    ),
    "conformance list": (Example("scalercli conformance list 'CAN-*' --role scheduler", "scenarios"),),
    "conformance explain": (Example("scalercli conformance explain CAN-07", "a requirement"),),
    "conformance diff": (
        Example("scalercli conformance diff reference.jsonl mine.jsonl --html matrix.html", "two runs", FILES),
    ),
    "conformance replay": (Example("scalercli conformance replay failed.yaml --target mine.yaml", "a failure", FILES),),
    "conformance walk": (Example("scalercli conformance walk --walks 3 --seed 7", "three walks at random"),),
}


def text(name: str) -> str:
    """The part of the help page; empty for a command that has none."""
    examples = EXAMPLES.get(name, ())
    if not examples:
        return ""
    width = max(len(example.line) for example in examples)
    lines = []
    for line, what, *_ in examples:
        if all(width + len(example.what) <= _ROOM for example in examples):
            lines.append(f"   {line:<{width}}  # {what}")
        else:
            lines += [f"   # {what}", f"   {line}"]
    return "\n".join([" Examples:", *lines, "", ""])


def attach(command: Any, name: str) -> None:
    """Lets the command's help page, and those of its subcommands, end with the examples."""
    for inner_name, inner in getattr(command, "commands", {}).items():
        attach(inner, f"{name} {inner_name}".strip())
    page = text(name)
    if not page:
        return
    plain = command.format_help

    def format_help(ctx: Any, formatter: Any) -> None:
        plain(ctx, formatter)
        formatter.write(page)

    command.format_help = format_help

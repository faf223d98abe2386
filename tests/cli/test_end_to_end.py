"""The lines a user types, in a real shell, with the embedded cluster."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Shell

pytestmark = pytest.mark.timeout(120)
ID = "[0-9a-f]{32}"


def lines(shell: Shell, line: str, stdin: str = "", **environ: str) -> list[str]:
    done = shell(line, stdin, **environ)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("scalercli run math:factorial 20", "2432902008176640000"),
        ("scalercli run -- sh -c 'echo hi; exit 3'; echo $?", "hi\n3"),
        (
            'id=$(scalercli submit time:sleep 30); scalercli cancel "$id" | sed "s/$id/ID/";'
            ' scalercli status "$id" | cut -f2',
            "ID\tcanceled\ncanceled",
        ),
        ("id=$(scalercli submit time:sleep 30); scalercli cancel $id >/dev/null; echo $?", "0"),
        ("seq 5 | scalercli map math:factorial --ordered --results", "1\n2\n6\n24\n120"),
        (
            "seq 100 | scalercli map math:sqrt | scalercli wait - -o jsonl | grep -o '\"state\":\"[a-z]*\"'"
            " | sort | uniq -c | tr -s ' '",
            ' 100 "state":"success"',
        ),
        ("printf '%s\\n' a b | scalercli map --ordered --results -- sh -c 'echo \"$1\" | tr a-z A-Z' _ {}", "A\nB"),
        (
            "scalercli submit time:sleep 60 >/dev/null; scalercli status -o jsonl | grep '\"state\":\"running\"' |"
            " scalercli cancel - -o jsonl | grep -o '\"outcome\":\"[a-z]*\"'",
            '"outcome":"canceled"',
        ),
        (
            "scalercli cancel deadbeefdeadbeefdeadbeefdeadbeef; echo $?",
            "deadbeefdeadbeefdeadbeefdeadbeef\tnot-found\n3",
        ),
        (
            "scalercli submit -- sh -c 'sleep 0.1; echo READY; sleep 60' | scalercli logs -f - | grep -m1 READY;"
            " scalercli cancel @last | cut -f2",
            "READY\ncanceled",
        ),
        # three tasks on two slots, each of which waits for the next
        ("""scalercli run -- sh -c "scalercli run -- sh -c 'scalercli run math:sqrt 16'" """, "4.0"),
    ],
)  # fmt: skip
def test_lines_a_user_types(shell: Shell, line: str, expected: str) -> None:
    assert "\n".join(lines(shell, line)) == expected


def test_a_wait_that_times_out_says_how_the_task_is(shell: Shell) -> None:
    out = lines(shell, "scalercli submit time:sleep 60 | scalercli wait - --timeout 300ms; echo $?")
    assert re.fullmatch(f"{ID}\trunning", out[0]) and out[1:] == ["124"]
    assert lines(shell, "scalercli cancel @last; echo $?") == [f"{out[0].split()[0]}\tcanceled", "0"]


def test_options_of_a_task(shell: Shell) -> None:
    """As the README has it."""
    out = lines(
        shell,
        "build=$(scalercli submit --name build --retries 2 -- sh -c 'sleep 0.1; echo built');"
        ' test=$(scalercli submit --after "$build" --timeout 30s --cwd /tmp --env LANG=C -- pwd);'
        ' scalercli result "$build" "$test"; scalercli run --timeout 100ms time:sleep 30; echo $?',
    )
    assert out == ["built", os.path.realpath("/tmp"), "124"] or out == ["built", "/tmp", "124"]


def test_a_task_that_kills_its_process_is_tried_again(shell: Shell) -> None:
    marker = shell.work / "marker"
    (shell.work / "once.py").write_text(
        "import os\ndef f(path):\n    if not os.path.exists(path):\n        open(path, 'w').close()\n"
        "        os.kill(os.getpid(), 9)\n    return 'survived'\n"
    )
    assert lines(shell, f"scalercli run --retries 1 once.py:f {marker}") == ["survived"]
    told = shell("scalercli explain @last").stdout
    assert "attempt 1: worker-died: the process that ran the task was killed by SIGKILL; it is submitted again" in told


def test_retries_outlive_the_agent_and_the_cluster(shell: Shell) -> None:
    (again,) = lines(shell, "scalercli submit --retries 2 -- sh -c 'echo begun; test -e go || sleep 60'")
    (after,) = lines(shell, f"scalercli submit --after {again} math:sqrt 4")
    lines(shell, f"scalercli logs -f {again} | grep -m1 begun")
    facts = json.loads(shell("scalercli cluster status --json").stdout)
    os.kill(facts["agent_pid"], signal.SIGKILL)
    psutil.wait_procs(
        [psutil.Process(pid) for pid in facts["processes"].values() if psutil.pid_exists(pid)], timeout=30
    )
    assert lines(shell, f"scalercli logs -f {again} | grep -m2 begun") == ["begun", "begun"]
    facts = json.loads(shell("scalercli cluster status --json").stdout)
    (shell.work / "go").touch()
    waiting = shell.start("wait", "--progress", "lines", again, after)
    assert waiting.stderr is not None and waiting.stderr.readline().startswith("0/2")
    os.kill(facts["processes"]["scheduler"], signal.SIGKILL)
    out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) == (0, f"{again}\tsuccess\n{after}\tsuccess\n"), err
    (shell.work / "go").unlink()
    assert json.loads(shell(f"scalercli status {again} --json").stdout)[0]["attempt"] == 3


@pytest.mark.parametrize(
    ("line", "out", "code"),
    [
        ("run builtins:len '[1,2,3]'", "3\n", 0),
        ("run builtins:sorted '[3,1]' reverse=true", "[3, 1]\n", 0),
        ("run builtins:str.upper abc", "ABC\n", 0),
        ("run builtins:dict", "{}\n", 0),
        ("run --json operator:add 1 2", None, 0),
        ("run math:sqrt -- 4", "", 2),
        ("run math:sqrt -1", "", 1),
        ("run -- no-such-command-here", "", 127),
        ("run -- /dev/null", "", 126),
        ("run -- sh -c 'kill -9 $$'", "", 137),
    ],
)
def test_run(shell: Shell, line: str, out: str | None, code: int) -> None:
    done = shell(f"scalercli {line}")
    assert done.returncode == code, done
    if out is not None:
        assert done.stdout == out
    else:
        found = json.loads(done.stdout)
        assert (found["schema"], found["state"], found["result"]) == ("scalercli.result/1", "success", 3)


def test_a_failed_task_shows_its_exception(shell: Shell) -> None:
    done = shell("scalercli run builtins:int xyz")
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(f"error: task {ID} failed: ValueError: invalid literal for int\\(\\) with base 10: 'xyz'", last)
    again = shell("scalercli result @last -o jsonl")
    found = json.loads(again.stdout)
    assert again.returncode == 1 and found["error"]["type"] == "ValueError" and found["result"] is None


def test_functions_of_local_files_need_nothing_on_the_worker(shell: Shell) -> None:
    (shell.work / "helper.py").write_text("FACTOR = 7\ndef times(x):\n    return x * FACTOR\n")
    (shell.work / "mine.py").write_text(
        "import helper\ndef f(a, b=1, *, c=0):\n    print('working')\n    return [helper.times(a), b, c]\n"
    )
    assert lines(shell, "scalercli run mine.py:f 1 c=2") == ["working", "[7, 1, 2]"]
    assert lines(shell, "scalercli run mine:f 2 b=x") == ["working", "[14, 'x', 0]"]
    assert lines(shell, f"cd /; scalercli run {shell.work}/mine.py:f 1 -o json")[:1] == []


def test_commands_get_this_directory_and_environment(shell: Shell) -> None:
    assert lines(shell, "FOO=bar scalercli run -- sh -c 'pwd; echo $FOO'") == [str(shell.work), "bar"]


def test_stdout_and_stderr_stay_apart(shell: Shell) -> None:
    done = shell("scalercli run -- sh -c 'echo out; echo err >&2'")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 0)
    logs = shell("scalercli logs @last")
    assert (logs.stdout, logs.stderr, logs.returncode) == ("out\n", "err\n", 0)


def test_a_result_can_be_had_again_by_id_prefix_and_jsonl(shell: Shell) -> None:
    (task_id,) = lines(shell, "scalercli submit math:factorial 5")
    assert lines(shell, f"scalercli result {task_id}") == ["120"]
    assert lines(shell, f"scalercli result {task_id[:12]}") == ["120"]
    assert lines(shell, f"scalercli status -o jsonl {task_id} | scalercli result -") == ["120"]
    assert lines(shell, "scalercli status -o ids @last") == [task_id]
    assert lines(shell, f"scalercli cancel {task_id}; echo $?") == [f"{task_id}\talready-done", "4"]
    assert lines(shell, f"scalercli cancel --ok already-done {task_id}; echo $?") == [f"{task_id}\talready-done", "0"]
    assert lines(shell, f"scalercli result {task_id}") == ["120"], "an already-done task keeps its result"


def test_results_come_in_the_order_of_the_ids(shell: Shell) -> None:
    out = lines(
        shell,
        "a=$(scalercli submit -- sh -c 'sleep 0.3; echo slow'); b=$(scalercli submit math:sqrt 4);"
        ' scalercli result "$a" "$b" ffffffffffffffffffffffffffffffff; echo $?',
    )
    assert out == ["slow", "2.0", "3"]


def test_an_unforced_cancel_of_a_running_task_is_refused(shell: Shell) -> None:
    running = shell.start("run", "--", "sh", "-c", "echo started; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    (task_id,) = lines(shell, "scalercli status -o ids @last")
    assert lines(shell, f"scalercli cancel --no-force {task_id}; echo $?") == [f"{task_id}\trefused", "5"]
    assert lines(shell, f"scalercli status --exit-status {task_id} | cut -f2; echo $?")[0] == "running"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130 and out == ""
    assert "Traceback" not in err and err.endswith(f"task {task_id}: canceled\n")
    assert lines(shell, f"scalercli status {task_id} | cut -f2") == ["canceled"]


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (("wait", "--progress", "lines", "DONE"), "DONE\tsuccess\n"),
        (("logs", "-f"), "started\n"),
        (("result", "DONE"), "2.0\n"),
        (("status", "-w"), None),
    ],
)
def test_ctrl_c_detaches_and_the_task_goes_on(shell: Shell, words: tuple[str, ...], first: str | None) -> None:
    (done,) = lines(shell, "scalercli submit math:sqrt 4; scalercli wait -q @last")
    (task_id,) = lines(shell, "scalercli submit -- sh -c 'echo started; sleep 60'")
    follower = shell.start(*(word.replace("DONE", done) for word in words), task_id)
    assert follower.stdout is not None
    line = follower.stdout.readline()  # from then on its Ctrl-C rules hold
    assert line == (line if first is None else first.replace("DONE", done)) != ""
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert "detached" in err and f"scalercli cancel {task_id}" in err.replace("ID", task_id) and "Traceback" not in err
    assert lines(shell, f"scalercli cancel {task_id}") == [f"{task_id}\tcanceled"]


def test_ctrl_c_in_map_says_how_many_were_sent(shell: Shell) -> None:
    mapper = shell.start("map", "time:sleep")
    assert mapper.stdin is not None and mapper.stdout is not None
    mapper.stdin.write("60\n61\n")
    mapper.stdin.flush()
    sent = [mapper.stdout.readline().strip() for _ in range(2)]
    mapper.send_signal(signal.SIGINT)
    _, err = mapper.communicate(timeout=30)
    assert mapper.returncode == 130 and "interrupted; 2 tasks sent" in err
    outcome = lines(shell, "scalercli cancel -", "\n".join(sent))
    assert sorted(outcome) == sorted(f"{task_id}\tcanceled" for task_id in sent)


def test_a_closed_pipe_ends_quietly(shell: Shell) -> None:
    done = shell(
        "{ seq 2000 | scalercli map math:sqrt --results; echo $? >&2; } | head -1; scalercli wait --all >/dev/null"
    )
    assert re.fullmatch(r"(note: .*\n)?141\n", done.stderr), done.stderr
    done = shell("{ scalercli status; echo $? >&2; } | true")
    assert done.stderr in ("141\n", "0\n")


def test_cluster_status_has_what_scripts_need(shell: Shell) -> None:
    found = json.loads(shell("scalercli cluster up -o json").stdout)
    assert found == json.loads(shell("scalercli cluster status -o json").stdout)
    assert found["workers"] == 2 and found["state"] == "up"
    for name in ("scheduler_address", "object_storage_address", "monitor_address"):
        assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+", found[name])
    refused = shell("scalercli cluster up --workers 5")
    assert refused.returncode == 5 and "hint: scalercli cluster down" in refused.stderr


def test_another_session_can_use_the_cluster_by_its_address(shell: Shell) -> None:
    address = json.loads(shell("scalercli cluster up --json").stdout)["scheduler_address"]
    assert lines(shell, f"scalercli run --cluster {address} math:sqrt 16") == ["4.0"]
    assert lines(shell, "scalercli run math:sqrt 25", SCALERCLI_CLUSTER=address) == ["5.0"]
    (shell.work / "scalercli.toml").write_text(f'cluster = "lab"\n[clusters]\nlab = "{address}"\n')
    try:
        assert lines(shell, "scalercli run math:sqrt 36; scalercli status | cut -f6") == [
            "6.0", "math:sqrt 16", "math:sqrt 25", "math:sqrt 36",
        ]  # fmt: skip
        assert lines(shell, "scalercli cancel deadbeefdeadbeefdeadbeefdeadbeef | cut -f2") == ["not-found"]
        assert shell("scalercli cluster down").returncode == 0
    finally:
        (shell.work / "scalercli.toml").unlink()
    assert shell("scalercli cluster status").returncode == 0, "only the session with it was ended"


def test_what_a_killed_agent_leaves(shell: Shell) -> None:
    (done,) = lines(shell, "scalercli submit math:sqrt 4")
    assert lines(shell, f"scalercli wait {done}") == [f"{done}\tsuccess"]
    (task_id,) = lines(shell, "scalercli submit time:sleep 60")
    facts = json.loads(shell("scalercli cluster status --json").stdout)
    children = [psutil.Process(pid) for pid in facts["processes"].values()]
    os.kill(facts["agent_pid"], signal.SIGKILL)
    psutil.wait_procs(children, timeout=30)
    after = shell(f"scalercli status {task_id} {done} --exit-status")
    assert [line.split("\t")[1] for line in after.stdout.splitlines()] == ["lost", "success"]
    assert after.returncode == 7
    assert lines(shell, f"scalercli result {done}") == ["2.0"], "the ledger answers without an agent"
    found = json.loads(shell(f"scalercli status -o jsonl {task_id}").stdout)
    assert found["reason"] == "the session agent ended while it was not over"
    assert shell("scalercli cluster status").returncode == 3
    assert lines(shell, "scalercli run math:sqrt 9") == ["3.0"], "the next command starts a new session"
    assert json.loads(shell(f"scalercli status -o jsonl {task_id}").stdout)["state"] == "lost"
    assert lines(shell, f"scalercli wait {task_id}; echo $?") == [f"{task_id}\tlost", "7"]


def test_a_dead_cluster_is_replaced(shell: Shell) -> None:
    waiting = shell.start("run", "--", "sh", "-c", "echo started; sleep 60")
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "started\n"
    os.kill(json.loads(shell("scalercli cluster status --json").stdout)["processes"]["scheduler"], signal.SIGKILL)
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode in (7, 125) and "scheduler" in err and "Traceback" not in err
    assert lines(shell, "scalercli run math:sqrt 9") == ["3.0"]


def test_many_commands_at_once_start_one_agent(shell: Shell) -> None:
    assert shell("scalercli cluster down").returncode == 0
    commands = [shell.start("run", "math:sqrt", str(n * n)) for n in range(4)]
    results = [command.communicate(timeout=60) for command in commands]
    assert [out for out, _ in results] == [f"{n}.0\n" for n in range(4)]
    assert sum("starting a cluster" in err for _, err in results) == 1
    agents = [p for p in shell.processes() if "scalercli.agent" in " ".join(p.cmdline())]
    assert len(agents) == 1


def test_an_idle_session_ends_by_itself(shell: Shell, tmp_path: Path) -> None:
    assert shell("scalercli cluster down").returncode == 0
    fifo = tmp_path / "go on"
    os.mkfifo(fifo)
    # The task lives until somebody writes to the FIFO, and so does the session.
    started = shell(
        f"scalercli submit -- sh -c 'read line < \"$1\"; echo 2.0' _ '{fifo}'; scalercli cluster status --json",
        SCALERCLI_IDLE_SECONDS="0.5",
    )
    agent = psutil.Process(json.loads(started.stdout.partition("\n")[2])["agent_pid"])
    fifo.write_text("now\n")
    psutil.wait_procs([agent], timeout=60)
    assert not agent.is_running()
    assert shell("scalercli cluster status").returncode == 3
    assert shell.processes() == [] and shell.sockets() == []
    assert lines(shell, "scalercli result @last") == ["2.0"]


@pytest.mark.parametrize("role", ["scheduler", "worker", "object-storage"])
def test_roles_parse_their_own_options(shell: Shell, role: str) -> None:
    helped = shell(f"scalercli {role} --help")
    assert helped.returncode == 0 and f"usage: scalercli {role}" in helped.stdout
    wrong = shell(f"scalercli {role} nonsense")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ")


def test_a_role_runs_in_the_foreground_and_ends_with_sigterm(shell: Shell) -> None:
    storage = shell.start("object-storage", "tcp://127.0.0.1:0")
    assert storage.stdout is not None
    assert storage.stdout.readline().startswith("ready object-storage")
    storage.send_signal(signal.SIGTERM)
    storage.communicate(timeout=30)
    assert storage.returncode == 0

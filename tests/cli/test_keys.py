"""``scalercli keys``, and the commands with a cluster that has keys."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reference_impl.access import keys
from reference_impl.client import Client
from reference_impl.errors import SchedulerUnreachable
from tests.access.house import Running
from tests.cli.conftest import Shell


def test_a_key_is_made_shown_allowed_and_revoked(shell: Shell, tmp_path: Path) -> None:
    allowed, options = tmp_path / "allowed", f"--allow {tmp_path}/allowed"
    made = shell(f"scalercli keys new ada -d {tmp_path}")
    private, public = tmp_path / "ada.key", tmp_path / "ada.pub"
    fingerprint = keys.load_public(public).fingerprint
    assert (made.returncode, made.stdout) == (0, f"ada\t{fingerprint}\t{private}\n")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    shown = shell(f"scalercli keys show {private}")
    assert shown.stdout == f"private\tada\t\t{fingerprint}\t{private}\n"
    allow = shell(f"scalercli keys allow {public} --role client --role monitor {options} -o json")
    assert json.loads(allow.stdout) == {
        "schema": "scalercli.key/1",
        "name": "ada",
        "kind": "allowed",
        "roles": ["client", "monitor"],
        "fingerprint": fingerprint,
        "file": str(allowed / "ada.pub"),
    }
    listed = shell("scalercli keys list", SCALERCLI_ALLOW=str(allowed))
    assert listed.stdout.splitlines()[-1] == f"allowed\tada\tclient,monitor\t{fingerprint}\t{allowed}/ada.pub"
    revoked = shell(f"scalercli keys revoke ada {options}")
    assert (revoked.returncode, revoked.stdout, list(allowed.iterdir())) == (0, "revoked\tada\n", [])
    secret = keys.load_private(private).curve_secret.decode()
    assert not any(secret in done.stdout + done.stderr for done in (made, shown, allow, listed, revoked))


def test_your_own_keys_are_private(shell: Shell) -> None:
    assert shell("scalercli keys new mine").returncode == 0
    directory = shell.home / "config/scalercli/keys"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert shell("scalercli keys show mine -o ids").stdout == "mine\n"
    assert "mine" in shell("scalercli keys list -o ids").stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "code", "error", "hint"),
    [
        ("new ../x", 2, "'../x' can't be the name of a key", "scalercli help access"),
        ("new k -d .", 2, "k.key exists already", "choose another name"),
        ("show nowhere", 2, "can't read the key file", "scalercli keys list"),
        ("show loose.key", 2, "loose.key is a private key that others can use (mode 0644)", "chmod 600 loose.key"),
        ("allow nowhere.pub", 2, "can't read the key file nowhere.pub: No such file", "scalercli keys list"),
        ("allow k.key", 2, "k.key is a private key; its public half was expected", "k.pub?"),
        ("allow k.pub --role king", 2, "'king' is not a valid Role", "--role: one of client, worker, manager"),
        ("allow k.pub --allow list", 5, "another key that is called k is allowed already", "scalercli keys revoke k"),
        ("revoke nobody --allow list", 3, "no key called 'nobody' is allowed in ", "scalercli keys list"),
    ],
)
def test_a_mistake_is_one_clear_line(shell: Shell, line: str, code: int, error: str, hint: str) -> None:
    if not (shell.work / "k.key").exists():
        keys.create("k", shell.work)
        _, other = keys.create("k", shell.work / "other")
        (shell.work / "list").mkdir()
        shutil.copy(other, shell.work / "list/k.pub")
        shutil.copy(shell.work / "k.key", shell.work / "loose.key")
        (shell.work / "loose.key").chmod(0o644)
    done = shell(f"scalercli keys {line}")
    assert (done.returncode, done.stdout) == (code, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ") and error in first
    assert second.startswith("hint: ") and hint in second


# ---- the other commands ----


@pytest.fixture(scope="module")
def secured(shell: Shell) -> Iterator[str]:
    """The address of a cluster with keys, which the user's configuration calls ``vault``."""
    for name, role in (("vault", ""), ("ada", "client"), ("watcher", "monitor"), ("w", "worker"), ("eve", "")):
        assert shell(f"scalercli keys new {name} -d keys").returncode == 0
        if role:
            assert shell(f"scalercli keys allow keys/{name}.pub --role {role} --allow allowed").returncode == 0
    server = ("--key-file", f"{shell.work}/keys/vault.key", "--allow", f"{shell.work}/allowed")
    storage = Running("object_storage", "tcp://127.0.0.1:0", *server)
    scheduler = Running("scheduler", "tcp://127.0.0.1:0", "-osa", storage.facts["address"], *server)
    address = scheduler.facts["address"]
    peer = ("--key-file", f"{shell.work}/keys/w.key", "--server-key", f"{shell.work}/keys/vault.pub")
    worker = Running("worker", address, "--concurrency", "1", *peer)
    config = shell.home / "config/scalercli/scalercli.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    keys_of = f'key_file = "{shell.work}/keys/ada.key", server_key = "../../w/keys/vault.pub"'
    config.write_text(f'[clusters]\nvault = {{ address = "{address}", {keys_of} }}\n')
    yield address
    shell("scalercli cluster down --all")
    assert [worker.end(), scheduler.end(), storage.end()] == [0, 0, 0]


def test_commands_find_the_keys_of_a_cluster(shell: Shell, secured: str) -> None:
    done = shell("scalercli --cluster vault run math:factorial 20")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2432902008176640000\n", "")
    assert shell("scalercli status @last --cluster vault -o jsonl | grep -c success").stdout == "1\n"
    doctor = shell("scalercli doctor --cluster vault")
    assert doctor.returncode == 0 and f"{secured} answers a client" in doctor.stdout and "KiB" in doctor.stdout
    top = json.loads(shell("scalercli top --once -o json --cluster vault").stdout)
    assert len(top["workers"]) == 1  # asked for: the key has not the role to watch
    down = shell("scalercli --cluster vault cluster down")
    assert down.returncode == 0, down


@pytest.mark.parametrize(
    ("key", "server", "says", "code"),
    [
        ("", "", "demands a key|it may demand a key", 10),
        ("eve", "vault", "refuses the key eve", 10),
        ("ada", "eve", "does not have the key that --server-key names", 10),
        ("ada", "", "--key-file without --server-key", 2),
        ("loose", "vault", "is a private key that others can use", 2),
        ("none", "vault", "can't read the key file", 2),
    ],
)
def test_who_is_refused_is_told_why(shell: Shell, secured: str, key: str, server: str, says: str, code: int) -> None:
    loose = shell.work / "keys/loose.key"
    loose.write_bytes((shell.work / "keys/ada.key").read_bytes())
    loose.chmod(0o640)
    options = f"--key-file keys/{key}.key " if key else ""
    options += f"--server-key keys/{server}.pub " if server else ""
    other = secured.replace("127.0.0.1", "localhost")  # a session of its own, and not that of [clusters]
    for command in ("run math:sqrt 16", "doctor"):
        done = shell(f"scalercli {options}--cluster {other} {command} 2>&1")
        assert done.returncode == code, done
        assert any(part in done.stdout for part in says.split("|")) and "Traceback" not in done.stdout


def test_a_proxy_can_not_stand_between(shell: Shell, secured: str) -> None:
    for line in ("trace --live --cluster vault", "--cluster vault trace -- run math:sqrt 16"):
        done = shell(f"scalercli {line}")
        assert done.returncode == 5 and done.stdout == ""
        assert done.stderr.startswith(f"error: {secured} has keys, which are there so that nobody can stand between\n")
    exposed = shell("scalercli trace --live --listen tcp://0.0.0.0:0")
    assert exposed.returncode == 2 and "--insecure" in exposed.stderr


def test_a_worker_finds_its_keys_in_the_settings(shell: Shell, secured: str) -> None:
    done = shell(
        f"scalercli worker {secured} --concurrency 1",
        SCALERCLI_KEY_FILE=f"{shell.work}/keys/eve.key",
        SCALERCLI_SERVER_KEY=f"{shell.work}/keys/vault.pub",
    )
    assert done.returncode == 10 and "refuses the key eve" in done.stderr


def test_the_cluster_of_this_machine_is_left_alone(shell: Shell) -> None:
    done = shell("scalercli --cluster embedded run math:sqrt 16", SCALERCLI_KEY_FILE="/nowhere.key")
    assert (done.returncode, done.stdout) == (0, "4.0\n")


def test_a_cluster_of_this_machine_can_have_keys_of_its_own(shell: Shell) -> None:
    up = shell("scalercli cluster up --name mine --workers 1 --secure -o json")
    address = json.loads(up.stdout)["scheduler_address"]
    done = shell("scalercli --cluster mine run math:sqrt 16")
    assert (done.returncode, done.stdout) == (0, "4.0\n")
    assert shell("scalercli --cluster mine doctor").returncode == 0
    assert shell("scalercli cluster up --name mine --secure").returncode == 0  # it has
    with pytest.raises(SchedulerUnreachable, match=r"demands a key|may demand a key"):
        Client(address, connect_timeout_seconds=30)
    private = shell.state / "mine/keys/cluster.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    agent = psutil.Process(json.loads(up.stdout)["agent_pid"])
    agent.kill()
    agent.wait()  # the next command starts it again, as it was
    again = shell("scalercli --cluster mine run math:sqrt 25")
    assert (again.returncode, again.stdout) == (0, "5.0\n") and "starting again" in again.stderr
    with pytest.raises(SchedulerUnreachable, match=r"demands a key|may demand a key"):
        Client(json.loads(shell("scalercli cluster status mine -o json").stdout)["scheduler_address"])
    assert shell("scalercli cluster down mine").returncode == 0


def test_a_cluster_without_keys_does_not_get_them_while_it_runs(shell: Shell) -> None:
    assert shell("scalercli cluster up").returncode == 0
    done = shell("scalercli cluster up --secure")
    assert done.returncode == 5
    assert done.stderr == "error: a cluster without keys is running\nhint: scalercli cluster down\n"
    elsewhere = shell("scalercli cluster up --secure --cluster tcp://127.0.0.1:1")
    assert elsewhere.returncode == 2 and "--secure is for a cluster on this machine" in elsewhere.stderr

"""What people type: callables and their arguments, ids, durations, settings, exit codes."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import pytest

from protocol.control import ShownState
from scalercli import callables, durations, exits, ids, output, settings
from scalercli.errors import CliError
from scalercli.places import Places


def called(target: str, *words: str) -> object:
    call = callables.bind(callables.resolve(target), words)
    return pickle.loads(call.function)(*map(pickle.loads, call.arguments))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "typed.py").write_text(
        "def show(a, b=2, /, c=3, *rest, d=4, **more):\n    return [a, b, c, list(rest), d, more]\n"
        "class K:\n    @staticmethod\n    def m(x):\n        return x\n"
        "VALUE = 1\n"
    )
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "needs.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("typed", "file_typed", "broken", "leaving", "needs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return f"{tmp_path}/typed.py"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["1"], [1, 2, 3, [], 4, {}]),
        (["1", "x", "c=[1]"], [1, "x", [1], [], 4, {}]),
        (["a=1"], ["a=1", 2, 3, [], 4, {}]),
        (["1", "d={\"k\": null}"], [1, 2, 3, [], {"k": None}, {}]),
        (["1", "2", "3", "e=5"], [1, 2, 3, ["e=5"], 4, {}]),
        (["1", "c=6"], [1, 2, 6, [], 4, {}]),
        (["01", "true", "'x'"], ["01", True, "'x'", [], 4, {}]),
    ],
)  # fmt: skip
def test_arguments_are_json_else_strings_and_keywords_where_they_are_parameters(
    module: str, words: list[str], expected: list[object]
) -> None:
    assert called("typed:show", *words) == expected
    assert called(f"{module}:show", *words) == expected


def test_built_ins_without_a_signature_and_nested_names(module: str) -> None:
    assert called("builtins:max", "1", "5") == 5
    assert called("os.path:join", "a", "b") == "a/b"
    assert called("typed:K.m", "7") == 7


@pytest.mark.parametrize(
    ("target", "words", "message", "hint"),
    [
        ("math", [], "'math' is not MODULE:FUNCTION", "for example math:factorial"),
        (":f", [], "':f' is not MODULE:FUNCTION", ""),
        ("no.such:f", [], "there is no module 'no.such'", "no/such.py:FUNCTION"),
        ("nofile.py:f", [], "there is no file nofile.py", ""),
        ("math:factoria", [], "math has no 'factoria'", "did you mean math:factorial?"),
        ("typed:VALUE", [], "typed:VALUE can't be called: it is of type int", ""),
        ("typed:show", [], "typed:show: missing a required argument: 'a'", "its signature is show(a, b=2"),
        ("math:factorial", ["1", "2"], "math:factorial: too many positional arguments", "factorial(n, /)"),
        ("math:factorial", ["1", "--json"], "math:factorial: too many", "options stand before MODULE:FUNCTION"),
        ("typed:show", ["1", "d=1", "d=2"], "typed:show: the argument 'd' was given twice", ""),
        ("broken:f", [], "the module 'broken' can't be loaded: SyntaxError", ""),
        ("broken.py:f", [], "broken.py can't be loaded: SyntaxError", ""),
        ("leaving:f", [], "the module 'leaving' can't be loaded: SystemExit: 3", ""),
        ("needs:f", [], "the module 'needs' can't be loaded: No module named 'not_there_at_all'", ""),
    ],
)
def test_mistakes_are_usage_errors_of_one_line(
    module: str, target: str, words: list[str], message: str, hint: str
) -> None:
    with pytest.raises(CliError) as raised:
        callables.bind(callables.resolve(target), words)
    assert raised.value.message.startswith(message) and hint in raised.value.hint
    assert raised.value.code == 2 and "\n" not in raised.value.hint


def test_what_can_not_be_pickled_is_a_usage_error() -> None:
    with pytest.raises(CliError, match="argument 1 can't be sent: TypeError: cannot pickle"):
        callables.pickled_argument(sys._getframe(), "argument 1")


def test_ids_come_bare_as_columns_and_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b'ABCDEF\n\n{"id":"012345","x":1}\nfeed00\trunning\nabcdef\n'))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert ids.read(["@last", "-", "012345"]) == ("@last", "abcdef", "012345", "feed00")


@pytest.mark.parametrize("line", ['{"no":"id"}', "{broken", '{"id":5}'])
def test_a_line_without_an_id(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"abcdef\n{line}\n".encode())))
    with pytest.raises(CliError, match="line 2 of stdin is not JSON with a task id") as raised:
        ids.read(["-"])
    assert "-o jsonl" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("500ms", 0.5), ("2m", 120), ("1h30m", 5400), ("0.5", 0.5), ("15", 15), ("1.5s", 1.5), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1x", "-1", "nan", "1 s", "1s2"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse(text)


@pytest.mark.parametrize("text", ["36501d", "99999999999d", "1e400", "inf", f"{'9' * 400}s"])
def test_a_duration_has_a_most(text: str) -> None:
    assert durations.parse("36500d") == 36500 * 86400
    with pytest.raises(ValueError, match="is too long: 36500d is the most"):
        durations.parse(text)


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error(CliError("two\nlines", "and\x1b[2J"), as_json=False)
    assert capsys.readouterr().err == "error: two lines\nhint: and\\x1b[2J\n"


def test_the_worst_code_counts() -> None:
    order = [125, 11, 10, 124, 7, 1, 6, 5, 3, 4, 8, 0]
    for i, code in enumerate(order):
        assert exits.worst(order[i:]) == code
    assert exits.worst([]) == 0
    assert [exits.of_state(state) for state in ShownState] == [8, 8, 8, 8, 0, 1, 6, 7, 7, 3, 8, 124]


def test_where_settings_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLUSTER", "WORKERS", "IDLE_SECONDS", "OUTPUT", "TIMEOUT"):
        monkeypatch.delenv(f"SCALERCLI_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    settings.read.cache_clear()
    assert (settings.cluster(None), settings.workers(None), settings.idle_seconds()) == ("embedded", 0, 600.0)
    (tmp_path / "config/scalercli").mkdir(parents=True)
    (tmp_path / "config/scalercli/scalercli.toml").write_text(
        'workers = 3\nidle_seconds = 5\ntimeout = "2s"\n[clusters]\nlab = "tcp://10.0.0.1:1"\nb = "tcp://b:2"\n'
    )
    (tmp_path / "scalercli.toml").write_text('workers = 4\ncluster = "lab"\n[clusters]\nlab = "tcp://10.0.0.2:1"\n')
    settings.read.cache_clear()
    assert settings.cluster(None) == "tcp://10.0.0.2:1"
    assert settings.cluster("b") == "tcp://b:2"
    assert (settings.workers(None), settings.idle_seconds(), settings.cancel_timeout(None)) == (4, 5.0, 2.0)
    monkeypatch.setenv("SCALERCLI_WORKERS", "5")
    assert (settings.workers(None), settings.workers(6)) == (5, 6)
    monkeypatch.setenv("SCALERCLI_WORKERS", "auto")
    assert settings.workers(None) == 0
    assert settings.find("timeout").origin == f"{tmp_path}/config/scalercli/scalercli.toml:3"
    assert settings.find("cluster").origin == "scalercli.toml:2"
    assert settings.find("workers").origin == "SCALERCLI_WORKERS"
    settings.read.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# mine\nworkers =", "scalercli.toml:2: "),
        ("# mine\n\nworker = 3", "scalercli.toml:3: 'worker' is not a setting"),
        ('output = "text"\nworkers = "3"', "scalercli.toml:2: workers can't be '3'"),
        ("idle_seconds = -1\nworkers = true", "scalercli.toml:2: workers can't be True"),
        ('[clusters]\na = "tcp://a:1"\nb = "nowhere"', "scalercli.toml:3: "),
        ("clusters = 3", r"\[clusters\] holds lines"),
    ],
)
def test_a_wrong_configuration_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALERCLI_WORKERS", raising=False)
    (tmp_path / "scalercli.toml").write_text(text)
    settings.read.cache_clear()
    with pytest.raises(CliError, match=message):
        settings.workers(None)
    settings.read.cache_clear()


def test_a_long_runtime_directory_gives_a_short_socket_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALERCLI_RUNTIME_DIR", "/" + "long/" * 40)
    monkeypatch.setenv("SCALERCLI_STATE_DIR", "/s")
    path = Places("tcp://127.0.0.1:6378").socket
    assert len(str(path)) <= 100
    assert path != Places("tcp://127.0.0.1:6379").socket


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("SCALERCLI_RUNTIME_DIR", str(tmp_path / "link"))
    monkeypatch.setenv("SCALERCLI_STATE_DIR", str(tmp_path / "s"))
    with pytest.raises(CliError, match="is not a directory of yours"):
        Places("embedded").make()

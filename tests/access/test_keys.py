"""Key files and the list of allowed keys (SPEC SEC-10, SEC-11)."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from reference_impl.access import keys
from reference_impl.access.allowed import AllowedKeys
from reference_impl.access.keys import EVERYTHING, KeyFileError, Role
from reference_impl.access.settings import is_loopback, peer_access_of
from tests.access.house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_key_is_two_files_and_only_one_of_them_is_secret(house: House) -> None:
    key = house.key("ada")
    private, public = house.private("ada"), house.public("ada")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    loaded = keys.load_private(private)
    assert loaded.public == keys.load_public(public) == key
    assert loaded.curve_secret.decode() not in public.read_text() and "PRIVATE" not in public.read_text()
    assert key.name == "ada" and len(key.fingerprint) == 16


def test_a_key_is_never_overwritten(house: House) -> None:
    before = house.private("cluster").read_bytes()
    with pytest.raises(KeyFileError, match=r"cluster\.key exists already"):
        house.key("cluster")
    assert house.private("cluster").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "a b", "ä", "x" * 65])
def test_what_is_no_name(house: House, name: str) -> None:
    with pytest.raises(KeyFileError, match="can't be the name of a key"):
        house.key(name)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o700 | 0o001])
def test_a_private_key_that_others_can_use_is_refused(house: House, mode: int) -> None:
    house.private("cluster").chmod(mode)
    with pytest.raises(KeyFileError, match=rf"cluster\.key is a private key that others can use \(mode {mode:04o}\)"):
        keys.load_private(house.private("cluster"))


def test_a_key_of_the_wrong_kind_is_refused(house: House) -> None:
    with pytest.raises(KeyFileError, match=r"cluster\.pub is a public key; a private one was expected"):
        keys.load_private(house.public("cluster"))
    with pytest.raises(KeyFileError, match=r"cluster\.key is a private key; its public half was expected"):
        keys.load_public(house.private("cluster"))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("name = 'cluster'", "name = '../x'", "it has no name"),
        ("name =", "nam =", "it has no name"),
        ("curve = '", "curve = '00", "its CURVE key is not one"),
        ("BEGIN CERT", "BEGIN", "its certificate is not one"),
        ("certificate = '''\n", "roles = ['king']\ncertificate = '''\n", "'king' is not a valid Role"),
        ("name = '", "name = ", ""),
    ],
)
def test_what_is_no_key_file_says_so(house: House, old: str, new: str, why: str) -> None:
    public = house.public("cluster")
    text = public.read_text()
    assert old in text
    public.write_text(text.replace(old, new))
    with pytest.raises(KeyFileError, match=f"is not a key file: .*{why}"):
        keys.load_public(public)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 100_000, b"[[[["])
def test_rubbish_is_no_key_file(house: House, content: bytes) -> None:
    house.private("cluster").write_bytes(content)
    with pytest.raises(KeyFileError, match=r"is not a key file|is a public key"):
        keys.load_private(house.private("cluster"))


def test_a_secret_of_another_key_is_noticed(house: House) -> None:
    house.key("ada")
    mine, other = house.private("ada"), keys.load_private(house.private("cluster"))
    loaded = keys.load_private(mine)
    mine.write_text(mine.read_text().replace(loaded.curve_secret.decode(), other.curve_secret.decode()))
    with pytest.raises(KeyFileError, match="its CURVE keys do not belong together"):
        keys.load_private(mine)


def test_one_key_without_the_other_makes_no_sense(house: House) -> None:
    with pytest.raises(KeyFileError, match="--key-file without --server-key"):
        peer_access_of(house.private("cluster"), None)
    with pytest.raises(KeyFileError, match="--server-key without --key-file"):
        peer_access_of(None, house.public("cluster"))
    assert peer_access_of(None, None) is None


def allowed(house: House) -> AllowedKeys:
    return AllowedKeys(house.allowed, keys.load_public(house.public("cluster")))


def test_the_list_follows_its_directory(house: House) -> None:
    ada = house.key("ada", Role.CLIENT)
    found = allowed(house)
    assert found.by_curve[ada.curve].roles == found.by_certificate[ada.der].roles == {Role.CLIENT}
    assert not found.look()
    house.allow("ada", Role.CLIENT, Role.WORKER)
    assert found.look() and found.by_curve[ada.curve].roles == {Role.CLIENT, Role.WORKER}
    house.revoke("ada")
    assert found.look() and ada.curve not in found.by_curve and ada.der not in found.by_certificate


def test_the_clusters_own_key_may_do_everything(house: House) -> None:
    cluster = keys.load_public(house.public("cluster"))
    assert allowed(house).by_curve[cluster.curve].roles == EVERYTHING


def test_a_file_that_can_not_be_read_allows_nobody_and_says_so(house: House, caplog: pytest.LogCaptureFixture) -> None:
    ada = house.key("ada", Role.CLIENT)
    (house.allowed / "broken.pub").write_text("name = 'broken'")
    with caplog.at_level(logging.ERROR):
        found = allowed(house)
    assert len(found.by_curve) == 2 and ada.curve in found.by_curve
    assert "broken.pub is not a key file" in caplog.text and "it allows nobody" in caplog.text


def test_a_list_that_is_gone_allows_nobody(house: House) -> None:
    ada = house.key("ada", Role.CLIENT)
    found = allowed(house)
    house.allowed.rename(house.directory / "elsewhere")
    assert found.look() and ada.curve not in found.by_curve
    with pytest.raises(KeyFileError, match=r"can't read .*allowed: No such file"):
        allowed(house)


def test_a_list_that_others_can_change_is_refused(house: House) -> None:
    house.allowed.chmod(0o777)
    with pytest.raises(KeyFileError, match=r"others can change the allowed keys in .* \(mode 0777\)"):
        allowed(house)


def test_a_key_under_two_names_has_the_roles_of_both(house: House) -> None:
    ada = house.key("ada", Role.CLIENT)
    copy = ada._replace(name="ada2", roles=frozenset({Role.MONITOR}))
    keys.write_public(house.allowed / "ada2.pub", copy)
    assert allowed(house).by_curve[ada.curve].roles == {Role.CLIENT, Role.MONITOR}


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("*", False), ("192.0.2.1", False), (os.uname().nodename + ".invalid", True),
    ],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here


def test_an_interface_is_no_loopback_address() -> None:
    import socket

    assert not any(is_loopback(name) for _, name in socket.if_nameindex())

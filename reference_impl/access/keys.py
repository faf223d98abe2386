"""Key files (SPEC section 11). One key of a peer is two pairs: CURVE for ZeroMQ, and a certificate for TLS.

``NAME.key`` holds all of it and is for its owner alone; ``NAME.pub`` holds the public halves and may be shown to
anybody. Both are TOML, and what TLS needs stands in them as PEM, so that OpenSSL reads the same file.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import os
import re
import stat
import sys
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

KEY_SUFFIX, PUBLIC_SUFFIX = ".key", ".pub"
CURVE_KEY_BYTES = 40  # as Z85
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_MAX_FILE_BYTES = 1 << 16
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n", re.DOTALL)


class Role(Enum):
    """What a key may be used for; its own cluster's key may do everything."""

    CLIENT = "client"
    WORKER = "worker"
    MANAGER = "manager"
    MONITOR = "monitor"


EVERYTHING = frozenset(Role)


class KeyFileError(Exception):
    """A key file can't be used; the text says why, ``hint`` what to do."""

    def __init__(self, text: str, hint: str = "scalercli help access") -> None:
        super().__init__(text)
        self.hint = hint


class PublicKey(NamedTuple):
    """What may be known of a key: ``curve`` is its CURVE public key as Z85, ``certificate`` PEM. ``roles`` is what an
    entry of a list of allowed keys grants, and empty elsewhere."""

    name: str
    curve: bytes
    certificate: str
    roles: frozenset[Role] = frozenset()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, to compare by eye."""
        return hashlib.sha256(self.curve).hexdigest()[:16]

    @property
    def der(self) -> bytes:
        """The certificate as TLS shows it."""
        return base64.b64decode(self.certificate.partition("\n")[2].rpartition("-----END")[0])


class PrivateKey(NamedTuple):
    """A key that is one's own. ``path`` is its file, from which OpenSSL reads its part."""

    public: PublicKey
    curve_secret: bytes
    path: Path


def is_name(text: str) -> bool:
    """Whether a key may be called so: its files are, too."""
    return _NAME.fullmatch(text) is not None


def create(name: str, directory: Path) -> tuple[Path, Path]:
    """Makes a key: the paths of ``NAME.key`` (mode 0600) and ``NAME.pub``. Raises KeyFileError, also if one exists."""
    import zmq

    if not is_name(name):
        raise KeyFileError(
            f"{name!r} can't be the name of a key: letters, digits, . _ @ and - were expected, 64 at most"
        )
    private, public = directory / f"{name}{KEY_SUFFIX}", directory / f"{name}{PUBLIC_SUFFIX}"
    curve, secret = zmq.curve_keypair()
    certificate, certificate_key = _certificate(name)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (private, public):
            if path.exists():
                raise KeyFileError(f"{path} exists already", f"choose another name, or: rm {path}")
        _write(
            private,
            f"# A scalercli key: who can read this file can be {name}. Never copy it to a machine of others.\n"
            f"name = '{name}'\ncurve = '{curve.decode()}'\ncurve_secret = '{secret.decode()}'\n"
            f"certificate = '''\n{certificate}'''\ncertificate_key = '''\n{certificate_key}'''\n",
            0o600,
        )
        write_public(public, PublicKey(name, curve, certificate))
    except OSError as error:
        raise KeyFileError(
            f"can't write {error.filename or directory}: {error.strerror}", f"ls -ld {directory}"
        ) from None
    return private, public


class ClusterKeys(NamedTuple):
    """The files of a cluster that one user has alone: every role and he himself use the cluster's key."""

    key_file: Path
    server_key: Path
    allowed: Path
    """For others whom he wants to let in."""

    @classmethod
    def of(cls, directory: Path) -> ClusterKeys:
        """Where they are; they need not exist."""
        name = directory / "cluster"
        return cls(name.with_suffix(KEY_SUFFIX), name.with_suffix(PUBLIC_SUFFIX), directory / "allowed")

    @classmethod
    def ready(cls, directory: Path) -> ClusterKeys:
        """Makes them, if they are not there. Raises KeyFileError."""
        keys = cls.of(directory)
        if not keys.key_file.exists():
            create("cluster", directory)
        keys.allowed.mkdir(mode=0o700, exist_ok=True)
        return keys

    def of_server(self) -> list[str]:
        """The options of scheduler and object storage."""
        return ["--key-file", str(self.key_file), "--allow", str(self.allowed)]

    def of_peer(self) -> list[str]:
        """The options of workers and worker managers."""
        return ["--key-file", str(self.key_file), "--server-key", str(self.server_key)]


def write_public(path: Path, key: PublicKey) -> None:
    """Raises OSError. A reader sees all of it or nothing."""
    roles = (
        f"roles = [{', '.join(repr(role.value) for role in sorted(key.roles, key=_role_order))}]\n" if key.roles else ""
    )
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    _write(
        new,
        f"# The public half of the scalercli key {key.name}.\n"
        f"name = '{key.name}'\ncurve = '{key.curve.decode()}'\n{roles}certificate = '''\n{key.certificate}'''\n",
        0o644,
    )
    new.replace(path)


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _role_order(role: Role) -> int:
    return list(Role).index(role)


def _certificate(name: str) -> tuple[str, str]:
    """A self-signed certificate, which never expires since it is pinned, and its private key: both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem).decode(), secret.decode()


def load_private(path: Path) -> PrivateKey:
    """Reads ``NAME.key``. Raises KeyFileError, also if others than its owner can read it."""
    content, mode = _read(path)
    if "curve_secret" not in content:
        raise KeyFileError(f"{path} is a public key; a private one was expected", f"{path.with_suffix(KEY_SUFFIX)}?")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(
            f"{path} is a private key that others can use (mode {mode:04o})",
            f"chmod 600 {path}; if others may have read it, make a new one",
        )
    secret = str(content["curve_secret"]).encode()
    public = _public(path, content)
    if public_of(path, secret) != public.curve:
        raise KeyFileError(f"{path}: its CURVE keys do not belong together")
    return PrivateKey(public, secret, path.absolute())


def load_public(path: Path) -> PublicKey:
    """Reads ``NAME.pub``, or an entry of a list of allowed keys. Raises KeyFileError."""
    content, _ = _read(path)
    if "curve_secret" in content:
        raise KeyFileError(
            f"{path} is a private key; its public half was expected", f"{path.with_suffix(PUBLIC_SUFFIX)}?"
        )
    return _public(path, content)


def public_of(path: Path, secret: bytes) -> bytes:
    """The public key that belongs to a secret one; raises KeyFileError."""
    import zmq

    try:
        return zmq.curve_public(secret)
    except (ValueError, zmq.ZMQError, AssertionError, KeyError):
        raise KeyFileError(f"{path}: curve_secret is not a CURVE key") from None


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """What it holds, and its mode."""
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"can't read the key file {path}: {error.strerror}", "scalercli keys list") from error
    try:
        if len(text) > _MAX_FILE_BYTES:
            raise ValueError("too long")
        content: dict[str, Any] = toml.loads(text.decode())
    except ValueError as error:
        raise KeyFileError(f"{path} is not a key file: {error}", "scalercli keys new") from None
    return content, mode


def _public(path: Path, content: dict[str, Any]) -> PublicKey:
    name, curve, certificate = (str(content.get(part, "")) for part in ("name", "curve", "certificate"))
    roles = content.get("roles", [])
    try:
        if not is_name(name):
            raise ValueError("it has no name")
        import zmq.utils.z85

        if len(curve) != CURVE_KEY_BYTES or len(zmq.utils.z85.decode(curve)) != 32:
            raise ValueError("its CURVE key is not one")
        if not _PEM.fullmatch(certificate):
            raise ValueError("its certificate is not one")
        key = PublicKey(name, curve.encode(), certificate, frozenset(Role(role) for role in roles))
        if not key.der:
            raise ValueError("its certificate is empty")
        return key
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise KeyFileError(f"{path} is not a key file: {error}", "scalercli keys new") from None

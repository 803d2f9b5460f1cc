"""Signed bundles: Ed25519 over a version and the manifest's very bytes, which hold every other file's digest.

A valid signature together with ``manifest.check`` covers the whole bundle, what was made and what was
measured. The device holds the public key only.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.files import parse_json, write_json, write_text
from edgepv.base.optional import need
from edgepv.base.vet import vouch
from edgepv.bundle import archive, manifest
from edgepv.errors import SignatureError, UsageError
from edgepv.types import decode

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

SCHEMA = 2  # 1 signed the manifest without a version
ALGORITHM = "ed25519"
PREFIX = b"edgepv-manifest-v1\0"  # a signature made for anything else is none for a manifest
PREFIX_2 = b"edgepv-manifest-v2\0"  # the version follows, in decimal, and one more 0
MAX_VERSION = 2**63 - 1  # what every reader's integers hold
MAX_BYTES = 4096  # of manifest.sig: far more than its five fields take


@dataclass(frozen=True)
class Signature:
    """What manifest.sig holds. key: id of the public key. signature: base64 of 64 bytes.

    version: 1 to MAX_VERSION, signed with the manifest; the higher one is the newer. 0: schema 1 had none.
    """

    schema: int
    algorithm: str
    key: str
    signature: str
    version: int = 0


def keygen(private: Path) -> Path:
    """Make a key pair: ``private`` (PEM, PKCS8, mode 0600), and the public key beside it; returns the latter.

    Raises UsageError if either file exists: a lost private key cannot be made again.
    """
    ed25519, pem = _ed25519(), _serialization()
    if private.name in ("", ".."):
        raise UsageError(f"{private} is a folder. Give the name of a file")
    public = private.with_name(f"{private.stem}.pub.pem")
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} already exists and is never overwritten. Choose another name")
    private.parent.mkdir(parents=True, exist_ok=True)
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    shown = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    fd = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(secret)
        f.flush()
        os.fsync(fd)
    write_text(public, shown.decode("ascii"))
    return public


def sign(folder: Path, private_key: Path, version: int | None = None) -> Signature:
    """Write manifest.sig beside the manifest and return what it holds. An earlier signature is replaced.

    version: by default the seconds since 1970, which grow by themselves.
    Raises UsageError if the bundle is not whole (a signature would vouch for the damage) or for another
    version, SignatureError if the key cannot be used.
    """
    version = int(time.time()) if version is None else version
    if not 1 <= version <= MAX_VERSION:
        raise UsageError(f"--version {version}: give a whole number from 1 to {MAX_VERSION}")
    key = _private(private_key)
    raw = manifest.manifest_bytes(folder)
    manifest.check(manifest.parse(folder, raw))
    name = key_id(key.public_key())
    envelope = Signature(SCHEMA, ALGORITHM, name, "", version)
    signature = base64.b64encode(key.sign(_signed_bytes(envelope, raw))).decode("ascii")
    envelope = replace(envelope, signature=signature)
    write_json(folder / manifest.SIGNATURE, envelope)
    return envelope


def verify(folder: Path, public_key: Path) -> Signature:
    """The signature of the manifest, made by the key given.

    Says nothing about the other files: see ``read_signed`` and ``manifest.check``.
    Raises SignatureError if the bundle is not signed, by another key, or was changed since.
    """
    return _verify(folder, manifest.manifest_bytes(folder), public_key)


def read_signed(folder: Path, public_key: Path) -> manifest.Bundle:
    """Read a bundle from the very manifest bytes whose signature was verified; its files may be code then.

    Raises SignatureError like ``verify``, UsageError like ``manifest.read``.
    """
    raw = manifest.manifest_bytes(folder)
    _verify(folder, raw, public_key)
    bundle = manifest.parse(folder, raw)
    vouch(bundle.content.files.values())
    return bundle


@contextlib.contextmanager
def opened(path: Path, public_key: Path | None) -> Iterator[manifest.Bundle]:
    """Like ``archive.opened``; with a key, nothing is parsed before its signature was verified."""
    with archive.unpacked(path) as folder:
        yield read(folder, public_key)


def read(folder: Path, public_key: Path | None) -> manifest.Bundle:
    """A bundle as ``read_signed`` reads it where a key is asked for, else as ``manifest.read`` does."""
    return read_signed(folder, public_key) if public_key else manifest.read(folder)


def key_id(public_key: PublicKeyTypes) -> str:
    """Short name of a public key: the first 16 hex digits of the SHA-256 of its 32 raw bytes."""
    pem = _serialization()
    raw = public_key.public_bytes(pem.Encoding.Raw, pem.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def _verify(folder: Path, signed: bytes, public_key: Path) -> Signature:
    key = _public(public_key)
    wanted = key_id(key)
    signature, raw = read_signature(folder)
    if signature.key != wanted:
        raise SignatureError(
            f"{folder} is signed by key {signature.key}, not by {wanted} ({public_key}). "
            "Get the bundle from whoever holds that key"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(raw, _signed_bytes(signature, signed))
    except InvalidSignature:
        if b"\r\n" in signed:
            raise SignatureError(
                f"{folder}: {manifest.MANIFEST} has other line ends than were signed. {manifest.LINE_ENDS}"
            ) from None
        raise SignatureError(
            f"{folder}: {manifest.MANIFEST} is not what key {wanted} signed; it or the signature was changed "
            "since. Copy the bundle again"
        ) from None
    return signature


def _signed_bytes(signature: Signature, signed: bytes) -> bytes:
    """What the key signs: the manifest, since schema 2 with the version before it."""
    if signature.schema == 1:
        return PREFIX + signed
    return PREFIX_2 + str(signature.version).encode() + b"\0" + signed


def read_signature(folder: Path) -> tuple[Signature, bytes]:
    """manifest.sig and the 64 bytes in it, of which nothing was verified.

    Raises SignatureError if it is missing or malformed.
    """
    path = folder / manifest.SIGNATURE
    if not path.exists():
        raise SignatureError(
            f"{folder} is not signed: it has no {manifest.SIGNATURE}. Get a signed copy, or sign it"
        )
    try:
        data = parse_json(manifest.read_plain(folder, manifest.SIGNATURE, MAX_BYTES), path)
        signature = decode(Signature, data, where=manifest.SIGNATURE)
        if signature.schema not in (1, SCHEMA) or signature.algorithm != ALGORITHM:
            raise ValueError(f"schema {signature.schema}, algorithm '{signature.algorithm}' are not known")
        if (signature.schema == 1) != (signature.version == 0) or not 0 <= signature.version <= MAX_VERSION:
            raise ValueError(f"{signature.version} is no version of schema {signature.schema}")
        raw = base64.b64decode(signature.signature, validate=True)
        if len(raw) != 64:
            raise ValueError(f"the signature has {len(raw)} bytes, not 64")
    except (ValueError, binascii.Error, UsageError) as e:
        raise SignatureError(f"{path} is no signature file ({e}). Copy the bundle again, or sign it") from e
    return signature, raw


def _private(path: Path) -> Any:
    key = _load(path, "private", lambda data: _serialization().load_pem_private_key(data, password=None))
    if not isinstance(key, _ed25519().Ed25519PrivateKey):
        raise SignatureError(f"{path} is no Ed25519 key but {type(key).__name__}. Make one with keygen")
    return key


def _public(path: Path) -> Any:
    key = _load(path, "public", _serialization().load_pem_public_key)
    if not isinstance(key, _ed25519().Ed25519PublicKey):
        raise SignatureError(f"{path} is no Ed25519 key but {type(key).__name__}. Use the signer's .pub.pem")
    pem = _serialization()
    if small_order(key.public_bytes(pem.Encoding.Raw, pem.PublicFormat.Raw)):
        raise SignatureError(
            f"{path} is a key of small order: anyone can sign for it. Use the signer's .pub.pem"
        )
    return key


def small_order(public: bytes) -> bool:
    """Whether 8 times the point of a public key (32 bytes) is 0, so that a signature proves nothing.

    Of -x^2 + y^2 = 1 + d x^2 y^2 these are the points with y = 1, -1 or 0, and those whose double has y = 0,
    that is x^2 = -y^2. Source: RFC 8032, section 5.1; Bernstein et al. 2012, section 5, on small order.
    """
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p)
    y = int.from_bytes(public, "little") % 2**255
    return y * (y**2 - 1) * (d * y**4 + 2 * y**2 - 1) % p == 0


def _load(path: Path, kind: str, read: Any) -> Any:
    """The key in a PEM file. Raises SignatureError if there is none of this kind, or it has a password."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        data = path.read_bytes()
    except OSError as e:
        raise SignatureError(f"{path} cannot be read ({e.strerror}). Give the {kind} key's PEM file") from e
    other = b"PUBLIC KEY" if kind == "private" else b"PRIVATE KEY"
    if other in data:
        raise SignatureError(f"{path} is the other half of a key pair. Give the {kind} key here")
    try:
        return read(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        reason = str(e).splitlines()[0] if str(e) else "unknown format"
        raise SignatureError(f"{path} is no {kind} key in PEM without a password ({reason})") from e


def _ed25519() -> Any:
    need("cryptography", extra="live")
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519


def _serialization() -> Any:
    need("cryptography", extra="live")
    from cryptography.hazmat.primitives import serialization

    return serialization

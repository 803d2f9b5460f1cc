"""A bundle is signed by one key over the manifest's bytes, and everything else is refused in one line."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from null_bundle import write_null_bundle

from edgepv import bundle
from edgepv.bundle import manifest
from edgepv.bundle.signing import PREFIX, PREFIX_2, keygen, read_signature, read_signed, sign, verify
from edgepv.errors import SignatureError, UsageError

pytest.importorskip("cryptography")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    private = tmp_path_factory.mktemp("keys") / "maker.pem"
    return private, keygen(private)


@pytest.fixture
def signed(keys: tuple[Path, Path], tmp_path: Path) -> Path:
    folder = write_null_bundle(tmp_path / "b")
    sign(folder, keys[0])
    return folder


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_signed_bundle_is_still_a_whole_bundle(signed: Path, keys: tuple[Path, Path]) -> None:
    opened = read_signed(signed, keys[1])
    assert bundle.check(opened) == 2
    assert opened == bundle.read(signed)
    assert verify(signed, keys[1]).key == json.loads((signed / "manifest.sig").read_text())["key"]


def test_the_private_key_is_for_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    private = tmp_path / "new" / "k.pem"
    public = keygen(private)
    assert (private.stat().st_mode & 0o777, public.name) == (0o600, "k.pub.pem")
    before = private.read_bytes()
    with pytest.raises(UsageError, match=r"k\.pem already exists"):
        keygen(private)
    private.unlink()
    with pytest.raises(UsageError, match=r"k\.pub\.pem already exists"):
        keygen(private)
    assert before.startswith(b"-----BEGIN PRIVATE KEY-----") and not private.exists()


def test_the_signature_is_plain_ed25519_of_prefix_version_and_manifest(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    """openssl could check it too: nothing but the prefix, the version and the file's bytes goes in."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key: Any = load_pem_public_key(keys[1].read_bytes())
    sign(signed, keys[0], 7)
    raw = base64.b64decode(json.loads((signed / "manifest.sig").read_text())["signature"])
    key.verify(raw, b"edgepv-manifest-v2\x007\0" + (signed / "manifest.json").read_bytes())
    assert (PREFIX, PREFIX_2) == (b"edgepv-manifest-v1\0", b"edgepv-manifest-v2\0")


def _sign_as_before(folder: Path, private: Path) -> None:
    """What edgepv wrote before versions: schema 1."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: Any = load_pem_private_key(private.read_bytes(), password=None)
    raw = key.sign(PREFIX + (folder / "manifest.json").read_bytes())
    name = sign(folder, private).key
    text = base64.b64encode(raw).decode()
    old = {"schema": 1, "algorithm": "ed25519", "key": name, "signature": text}
    (folder / "manifest.sig").write_text(json.dumps(old))


def test_a_signature_from_before_versions_is_valid_and_the_oldest_of_all(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    _sign_as_before(signed, keys[0])
    assert verify(signed, keys[1]).version == 0
    _edit(signed / "manifest.sig", lambda data: data.update(version=5))
    with pytest.raises(SignatureError, match="5 is no version of schema 1"):
        verify(signed, keys[1])
    _edit(signed / "manifest.sig", lambda data: data.update(schema=2))
    with pytest.raises(SignatureError, match="is not what key"):
        verify(signed, keys[1])


def test_the_version_is_signed_and_grows_by_itself(signed: Path, keys: tuple[Path, Path]) -> None:
    assert read_signature(signed)[0].version > 1_700_000_000  # seconds since 1970
    assert sign(signed, keys[0], 41).version == verify(signed, keys[1]).version == 41
    _edit(signed / "manifest.sig", lambda data: data.update(version=42))
    with pytest.raises(SignatureError, match="it or the signature was changed"):
        verify(signed, keys[1])
    for wrong in (0, -1, 2**63):
        with pytest.raises(UsageError, match=f"--version {wrong}: give a whole number from 1"):
            sign(signed, keys[0], wrong)


def test_the_zip_keeps_the_signature(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    bundle.zip_bundle(signed, tmp_path / "b.zip")
    with bundle.opened(tmp_path / "b.zip") as opened:
        assert bundle.check(read_signed(opened.folder, keys[1])) == 2


def test_an_unsigned_bundle_is_named(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(SignatureError, match=r"is not signed: it has no manifest\.sig"):
        verify(write_null_bundle(tmp_path / "b"), keys[1])


def test_another_key_is_named_with_both_ids(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    other = keygen(tmp_path / "other.pem")
    found = verify(signed, keys[1]).key
    with pytest.raises(SignatureError, match=rf"by key {found}, not by [0-9a-f]{{16}} \(.*other\.pub\.pem\)"):
        verify(signed, other)


def test_another_key_that_writes_our_id_is_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    ours = verify(signed, keys[1]).key
    keygen(tmp_path / "other.pem")
    sign(signed, tmp_path / "other.pem")
    _edit(signed / "manifest.sig", lambda d: d.update(key=ours))
    with pytest.raises(SignatureError, match="is not what key"):
        verify(signed, keys[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["measured"].update(run="other"),  # measured is not in the digest, but is in the signature
        lambda d: d["content"].update(name="other"),
        lambda d: None,  # the same values written with other blanks
    ],
)
def test_a_manifest_changed_after_signing_is_refused(
    signed: Path, keys: tuple[Path, Path], change: Callable[[Any], None]
) -> None:
    _edit(signed / "manifest.json", change)
    with pytest.raises(SignatureError, match=r"manifest\.json is not what key [0-9a-f]{16} signed"):
        read_signed(signed, keys[1])


def test_a_changed_model_passes_the_signature_and_fails_the_check(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    (signed / "models" / "delays.json").write_text("[9.0]")
    opened = read_signed(signed, keys[1])
    with pytest.raises(UsageError, match=r"delays\.json was changed"):
        bundle.check(opened)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[]", "expected a table"),
        (b"[" * 4000, "is not valid JSON"),
        (b"[" * 200 + b"]" * 200, "lists or tables in each other"),
        (b" " * 5000, "larger than 4096 bytes"),
        (b'{"schema": 1, "algorithm": "ed25519", "key": "0"}', "missing key 'signature'"),
        (b'{"schema": 1, "algorithm": "ed25519", "key": "0", "signature": "", "x": 1}', "unknown key 'x'"),
        (b'{"schema": 1, "algorithm": "none", "key": "0", "signature": ""}', "algorithm 'none'"),
        (b'{"schema": 2, "algorithm": "ed25519", "key": "0", "signature": ""}', "schema 2"),
        (b'{"schema": 1, "algorithm": "ed25519", "key": "0", "signature": "!!!!"}', "base64"),
        (b'{"schema": 1, "algorithm": "ed25519", "key": "0", "signature": "AAAA"}', "has 3 bytes, not 64"),
    ],
)
def test_a_malformed_signature_file_is_one_line(
    signed: Path, keys: tuple[Path, Path], text: bytes, why: str
) -> None:
    (signed / "manifest.sig").write_bytes(text)
    with pytest.raises(SignatureError, match=f"is no signature file .*{why}") as caught:
        verify(signed, keys[1])
    assert "\n" not in str(caught.value) and caught.value.exit_code == 9


def test_keys_that_cannot_be_used_are_named(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    def write(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    curve = ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8 = s.Encoding.PEM, s.PrivateFormat.PKCS8
    wrong_public = curve.public_key().public_bytes(pem, s.PublicFormat.SubjectPublicKeyInfo)
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, s.BestAvailableEncryption(b"x"))
    cases: list[tuple[Callable[[Path, Path], object], Path, str]] = [
        (verify, tmp_path / "none.pem", "cannot be read"),
        (verify, tmp_path, "cannot be read"),
        (verify, write("rubbish.pem", b"rubbish"), "is no public key in PEM"),
        (verify, write("ec.pub.pem", wrong_public), "is no Ed25519 key but ECPublicKey"),
        (verify, keys[0], "the other half of a key pair. Give the public key"),
        (sign, keys[1], "the other half of a key pair. Give the private key"),
        (sign, write("ec.pem", curve.private_bytes(pem, pkcs8, s.NoEncryption())), "no Ed25519 key"),
        (sign, write("locked.pem", locked), "without a password"),
    ]
    for call, key, message in cases:
        with pytest.raises(SignatureError, match=message) as caught:
            call(signed, key)
        assert "\n" not in str(caught.value)


def test_a_damaged_bundle_is_not_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = write_null_bundle(tmp_path / "b")
    (folder / "models" / "delays.json").write_text("[9.0]")
    with pytest.raises(UsageError, match="was changed or is damaged"):
        sign(folder, keys[0])
    assert not (folder / "manifest.sig").exists()


def test_what_is_parsed_is_what_was_verified(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is swapped right after it was read for the signature: the swap is not seen."""
    honest = bundle.manifest_bytes
    reads = []

    def then_swap(folder: Path) -> bytes:
        data = honest(folder)
        reads.append(folder)
        (folder / "manifest.json").write_text("{}")
        return data

    monkeypatch.setattr(manifest, "manifest_bytes", then_swap)
    assert read_signed(signed, keys[1]).content.name == "net"
    assert len(reads) == 1


def test_without_cryptography_the_cure_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path; from edgepv.bundle import signing; from edgepv.errors import *\n"
        "try: signing.keygen(Path(sys.argv[1]))\n"
        "except TargetUnavailableError as e: print(e)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "k.pem")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "pip install 'edgepv[live]'" in done.stdout

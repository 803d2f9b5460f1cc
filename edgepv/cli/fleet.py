"""The commands of a fleet: combine, keygen, sign, slots."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands, timeout
from edgepv.errors import UsageError


def add_ladder(commands: Commands) -> None:
    """edgepv ladder"""
    text = "pack several bundles of one task into one, from which edgepv run chooses frame by frame"
    c = commands.add_parser("ladder", help=text, description=text)
    c.add_argument(
        "bundles", metavar="BUNDLE", nargs="+", help="bundle folders with equal labels and frame rate"
    )
    c.add_argument(
        "--out", metavar="DIR", required=True, help="new folder; an existing one is never overwritten"
    )
    c.add_argument("--force", action="store_true", help="replace an existing bundle")
    c.set_defaults(run=ladder_command)


def ladder_command(a: argparse.Namespace) -> int:
    """edgepv ladder"""
    from edgepv.base.console import Console
    from edgepv.base.files import refuse_out
    from edgepv.bundle.archive import is_bundle
    from edgepv.cli import show
    from edgepv.pipeline import combine

    out = Path(a.out)
    refuse_out(out)
    if a.force and out.exists() and not is_bundle(out):
        raise UsageError(f"{out} exists and is not a bundle; --force replaces bundles only")
    bundle = combine.combine([Path(b) for b in a.bundles], out, Console(), force=a.force)
    show.ladder(bundle)
    run = ["edgepv", "run", str(out), "--source", "rtsp://...", "--deadline-ms", "33"]
    say_next(shlex.join(run), shlex.join(["edgepv", "bench", str(out), "--live"]))
    return 0


def add_signing(commands: Commands) -> None:
    """edgepv keygen, edgepv sign"""
    text = "make an Ed25519 key pair for signing bundles"
    c = commands.add_parser("keygen", help=text, description=text)
    c.add_argument(
        "private", metavar="FILE", help="the private key's file; the public one is written beside it"
    )
    c.set_defaults(run=keygen_command)
    text = "sign a bundle's manifest, and with it every file of the bundle"
    c = commands.add_parser("sign", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder")
    c.add_argument("--key", metavar="FILE", required=True, help="private key (PEM), see edgepv keygen")
    c.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="a camera that had a higher one refuses this bundle (default: seconds since 1970)",
    )
    c.set_defaults(run=sign_command)


def keygen_command(a: argparse.Namespace) -> int:
    """edgepv keygen"""
    from edgepv.bundle import signing

    public = signing.keygen(Path(a.private))
    tell(f"private: {a.private} (keep it off the camera)")
    tell(f"public:  {public}")
    sign = ["edgepv", "sign", "BUNDLE", "--key", str(a.private)]
    say_next(shlex.join(sign), shlex.join(["edgepv", "verify", "BUNDLE", "--key", str(public)]))
    return 0


def sign_command(a: argparse.Namespace) -> int:
    """edgepv sign"""
    from edgepv.bundle import signing

    signature = signing.sign(Path(a.bundle), Path(a.key), a.version)
    tell(f"{a.bundle} is signed by key {signature.key}, version {signature.version}")
    say_next(shlex.join(["edgepv", "verify", a.bundle, "--key", "PUBLIC.pem"]))
    return 0


def add_update(commands: Commands) -> None:
    """edgepv update"""
    text = "install a bundle beside the running one: verified, tested, tried, and taken back if it fails"
    c = commands.add_parser("update", help=text, description=text)
    c.add_argument(
        "root", metavar="ROOT", help="folder of the two slots; edgepv run ROOT runs the current one"
    )
    c.add_argument("bundle", metavar="BUNDLE", nargs="?", help="the new bundle (default: show the state)")
    c.add_argument("--key", metavar="FILE", help="public key (PEM) that must have signed the new bundle")
    c.add_argument("--p99-ms", type=float, metavar="MS", help="largest p99 of a step in the self-test")
    c.add_argument(
        "--again",
        action="store_true",
        help="accept a bundle that ran here before, or is older than one that did",
    )
    c.add_argument(
        "--change-key",
        action="store_true",
        help="from now on accept what --key's owner signed or, without --key, unsigned bundles",
    )
    timeout(c, "checking and testing the new bundle")
    c.add_argument("--rollback", action="store_true", help="go back to the bundle before")
    c.add_argument("--commit", action="store_true", help="end the trial: the new bundle is good")
    c.set_defaults(run=update_command)


def update_command(a: argparse.Namespace) -> int:
    """edgepv update"""
    from edgepv.cli import show
    from edgepv.device import slots
    from edgepv.device.self_test import SelfTest
    from edgepv.metrics.times import calls_needed

    root = Path(a.root)
    if sum((bool(a.bundle), a.rollback, a.commit)) > 1:
        raise UsageError("give one of BUNDLE, --rollback and --commit")
    if a.p99_ms is not None and not 0 < a.p99_ms < float("inf"):
        raise UsageError(f"--p99-ms {a.p99_ms:g}: give a time above 0")
    if not a.bundle and (a.key or a.again or a.change_key):
        raise UsageError("--key, --again and --change-key are about a new BUNDLE: name it")
    if a.bundle:
        steps = SelfTest.steps if a.p99_ms is None else calls_needed(99)
        key, test = Path(a.key) if a.key else None, SelfTest(a.p99_ms, steps, timeout_s=a.timeout)
        state = slots.install(root, Path(a.bundle), key, again=a.again, change_key=a.change_key, test=test)
    elif a.rollback:
        state = slots.rollback(root, "asked for")
    elif a.commit:
        state = slots.commit(root)
    else:
        state = slots.read_state(root)
    show.slots(root, state, slots.read_trust(root))
    say_next(shlex.join(["edgepv", "run", str(root), "--source", "rtsp://..."]))
    return 0

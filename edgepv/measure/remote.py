"""The same benchmark on a board, by the system's ssh or adb: files there, a result back, nothing left there.

One connection does all of it. A shell there makes a folder, unpacks what it is sent, runs ``edgepv bench`` in
it, and removes the folder when it ends, whatever ended it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn
from urllib.parse import urlsplit

from edgepv.base.files import parse_json
from edgepv.errors import (
    DeviceError,
    EdgepvError,
    EngineError,
    InconclusiveError,
    ModelError,
    TargetUnavailableError,
    UsageError,
)
from edgepv.measure.compare import parsed_result
from edgepv.types import BenchResult

NO_EDGEPV, NO_FOLDER = 90, 91
"""Exit codes of the script there: no edgepv, no folder. No command of edgepv ends with them."""
NO_CONNECTION = 255
"""How ssh ends when it is ssh that failed. Source: ssh(1), EXIT STATUS."""
KINDS: tuple[type[EdgepvError], ...] = (
    UsageError,
    ModelError,
    EngineError,
    DeviceError,
    TargetUnavailableError,
)
"""What edgepv bench may end with there, and is raised here."""
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:%-]*")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
SCRIPT = """
below={path} found=
for place in "$below/bin/edgepv" "$below/.venv/bin/edgepv" "$(command -v edgepv)"; do
    if [ -x "$place" ]; then found=$place; break; fi
done
[ -n "$found" ] || exit {no_edgepv}
folder=$(mktemp -d ${{below:+-p "$below"}}) || exit {no_folder}
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
tar -xf - -C "$folder" && cd "$folder" || exit {no_folder}
EDGEPV_CACHE="$folder/cache" "$found" bench {words} </dev/null
"""


@dataclass(frozen=True)
class Board:
    """Where to measure. connect: the command that runs a shell command there. path: a folder there, or ""."""

    name: str
    connect: tuple[str, ...]
    path: str


def board(address: str, ssh_config: str | None = None) -> Board:
    """The board of ``ssh://[USER@]HOST[:PORT][/PATH]`` or ``adb:SERIAL``.

    PATH: a folder there in which the work is done, and an environment that edgepv may be in.
    ssh_config: a file of options for ssh in place of the user's own. Host keys are always checked.
    Raises UsageError for another address, TargetUnavailableError without the program.
    """
    if address.startswith("adb:"):
        serial = address.removeprefix("adb:")
        if not SERIAL.fullmatch(serial):
            raise UsageError(f"--remote {address}: give adb:SERIAL, as adb devices shows it")
        return Board(address, (_program("adb"), "-s", serial, "shell", "-T"), "")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        _refuse(address)
    host, user = parts.hostname or "", parts.username
    odd = parts.query or parts.fragment or parts.password
    if parts.scheme != "ssh" or odd or not HOST.fullmatch(host) or (user and not USER.fullmatch(user)):
        _refuse(address)
    options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-T"]
    options += ["-F", ssh_config] if ssh_config else []
    options += ["-p", str(port)] if port else []
    options += ["-l", user] if user else []
    return Board(f"{host}", (_program("ssh"), *options, "--", host), parts.path.rstrip("/"))


def _refuse(address: str) -> NoReturn:
    raise UsageError(f"--remote {address}: give ssh://[USER@]HOST[:PORT][/FOLDER] or adb:SERIAL")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise TargetUnavailableError(f"{name} is not on this machine, and --remote needs it. Install {name}")
    return path


def measured_there(there: Board, files: Sequence[Path], words: Sequence[str]) -> BenchResult:
    """Run ``edgepv bench`` there with these words, among them the files by the names of ``sent_as``.

    Raises TargetUnavailableError if the board cannot be reached or has no edgepv, what edgepv there ended
    with, and UsageError for an answer that is no result, as of another edgepv.
    """
    script = SCRIPT.format(
        path=shlex.quote(there.path),
        words=shlex.join([*words, "--json"]),
        no_edgepv=NO_EDGEPV,
        no_folder=NO_FOLDER,
    )
    with tempfile.TemporaryFile() as parcel:
        _pack(parcel, files)
        parcel.seek(0)
        done = subprocess.run(
            [*there.connect, f"sh -c {shlex.quote(script)}"], stdin=parcel, capture_output=True, check=False
        )
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode not in (0, InconclusiveError.exit_code):
        raise _failed(there, done.returncode, said)
    where = f"the answer of {there.name}"
    return parsed_result(parse_json(done.stdout, Path(where)), where)


def _pack(parcel: IO[bytes], files: Sequence[Path]) -> None:
    """Write the files and folders as one tar, under the names of ``sent_as``."""
    with tarfile.open(fileobj=parcel, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for place, path in enumerate(files):
            name = sent_as(place, path)
            archive.add(path.resolve(), name, filter=_nobodys)
            weights = path.with_suffix(".bin")
            if path.suffix.lower() == ".xml" and weights.is_file():  # OpenVINO's second file
                archive.add(weights.resolve(), str(PurePosixPath(name).with_suffix(".bin")), filter=_nobodys)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry without its owner here, who may be nobody there."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def sent_as(place: int, path: Path) -> str:
    """The name of a file on the board: two of the same name do not meet."""
    name = path.absolute().name
    return f"{place}/{path.resolve().name if name == '..' else name}"


def _failed(there: Board, code: int, said: str) -> EdgepvError:
    """What to tell of a run there that gave no result: the line that it said itself, by its exit code."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1][:400] if lines else "the connection ended without a word"
    if code == NO_CONNECTION or code < 0:  # below 0: a signal ended it
        tried = shlex.join(there.connect)
        return TargetUnavailableError(f"{there.name} cannot be reached: {last}. Try: {tried}")
    if code == NO_EDGEPV:
        return TargetUnavailableError(
            f"{there.name} has no edgepv on its PATH. Install it there: pip install 'edgepv[cpu]', or name "
            f"the folder of its environment: --remote ssh://HOST/FOLDER"
        )
    if code == NO_FOLDER:
        return DeviceError(f"{there.name}: no folder can be made there: {last}. Free disk space there")
    kinds = {kind.exit_code: kind for kind in KINDS}
    return kinds.get(code, EngineError)(f"{there.name}: {last.removeprefix('edgepv: ')}")

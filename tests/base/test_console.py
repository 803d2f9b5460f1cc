"""What is shown is text: no name or reason from outside moves a cursor, breaks a line or is markup."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from null_bundle import write_null_bundle

import edgepv
from edgepv import bundle
from edgepv.base.console import Console, say_next, tell, visible
from edgepv.cli import show
from edgepv.cli.app import main
from edgepv.device import self_test, slots

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\b\x7f\u202e\ud800"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\u001b[2J"),
        ("\x9b31m", r"\u009b31m"),
        ("one\ntwo\r\t", r"one\u000atwo\u000d\u0009"),
        ("abc\u202ecba", r"abc\u202ecba"),
        ("half \ud800", r"half \ud800"),
        ("Tür, 转身, 🙂", "Tür, 转身, 🙂"),
    ],
)
def test_a_control_character_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_json_stays_the_same_json() -> None:
    value = {"label": "\x7f\x9b\u202e\u2028 Tür"}
    text = json.dumps(value, indent=1, ensure_ascii=False)
    assert visible(text, keep="\n") != text
    assert json.loads(visible(text, keep="\n")) == value


def test_a_line_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    tell("\nlabel: push\nsigned by the owner of release.pub.pem\n")
    assert (
        capsys.readouterr().out == "\nlabel: push" + r"\u000a" + "signed by the owner of release.pub.pem\n\n"
    )


def test_a_stream_that_knows_few_letters_gets_escapes() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    tell("Tür \ud800", file=stream)
    assert stream.buffer.getvalue() == b"T\\xfcr \\ud800\n"


def test_a_line_and_its_end_are_written_at_once_for_threads_that_tell_together() -> None:
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return super().write(text)

    tell("one", file=Stream())
    assert [text for text in written if text] == ["one\n"]


def test_news_that_nobody_reads_is_no_error() -> None:
    run = "from edgepv.base.console import Console; Console().say('x'); print('went on')"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", run], stdout=subprocess.PIPE, stderr=write, check=True)
    os.close(write)
    assert done.stdout == b"went on\n"


def test_markup_in_what_goes_on_is_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    console = Console()
    monkeypatch.setattr(console, "_terminal", True)
    assert list(console.track([1, 2], "[red]edge[/red][/] \x1b[2J")) == [1, 2]
    assert "[red]edge[/red][/] \\u001b[2J" in capsys.readouterr().err


def test_nothing_of_a_bundle_reaches_the_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bundle.read(write_null_bundle(tmp_path / "b"))
    spec = replace(found.content.spec, labels=(ESCAPES, "b"))
    variant = replace(found.content.variants[0], name=ESCAPES, engine=ESCAPES)
    content = replace(
        found.content, name=ESCAPES, target=ESCAPES, spec=spec, variants=(variant,), postprocessing=ESCAPES
    )
    measured = replace(found.measured, run=ESCAPES, status=ESCAPES, reasons=(ESCAPES,))
    show.bundle(replace(found, content=content, measured=measured))
    out = capsys.readouterr().out
    assert out.count("owned") == 9
    assert visible(out, keep="\n") == out


def test_no_reason_reaches_the_terminal_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "device"
    slots.install(root, write_null_bundle(tmp_path / "b"), test=self_test.SelfTest(steps=1))
    slots._note_refusal(root, ESCAPES)
    assert main(["update", str(root)]) == 0
    assert main(["verify", str(tmp_path / f"none{ESCAPES}")]) == 2
    say_next(f"edgepv run {ESCAPES}")
    Console().say(ESCAPES)
    said = capsys.readouterr()
    assert (said.out + said.err).count("owned") == 4
    assert visible(said.out + said.err, keep="\n") == said.out + said.err


def test_past_the_door_goes_nothing_but_json() -> None:
    """json.dumps writes ASCII without control characters; a manifest printed whole is made visible."""
    rooms = Path(edgepv.__file__).parent
    for path in (rooms / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                assert ast.unparse(node.args[0]).startswith(("json.dumps(", "visible(")), (path, node.lineno)


CHATTER = """
import ctypes, logging, os, sys, warnings
from edgepv.base.quiet import hush
print("before", flush=False)
with hush():
    print("python"); print("python", file=sys.stderr)
    os.write(1, b"descriptor"); os.write(2, b"descriptor")
    ctypes.CDLL(None).puts(b"held by C until its end")
    warnings.warn("warning"); logging.warning("log")
print("after")
"""


def test_nothing_that_a_converter_says_reaches_the_terminal() -> None:
    quiet, loud = (
        subprocess.run(
            [sys.executable, "-c", CHATTER],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **more},
        )
        for more in ({"EDGEPV_DEBUG": ""}, {"EDGEPV_DEBUG": "1"})
    )
    assert (quiet.stdout, quiet.stderr) == ("before\nafter\n", "")
    assert all(word in loud.stderr for word in ("python", "descriptor", "warning", "log"))

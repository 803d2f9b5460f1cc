"""``edgepv run`` on cameras, as a process of its own, with a real camera, a real broker and real signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_support import Broker, Camera, Subscriber, free_port, until
from null_bundle import write_null_bundle

from edgepv.bundle import signing
from edgepv.device import slots
from edgepv.device.cameras import LiveOptions
from edgepv.errors import UsageError

pytestmark = pytest.mark.slow

Start = Callable[..., "Run"]
LATE = str([0] * 38 + [100] * 7)  # the first 33 calls are the profile
RULES = """
[camera]
name = "gate"
[[rule]]
label = "fight"
threshold = 0.6
"""


class Run:
    """One ``edgepv run``; what it wrote is in files."""

    def __init__(self, folder: Path, arguments: list[str], stdin: Any = None) -> None:
        folder.mkdir(exist_ok=True)
        self._out, self._err = folder / "out", folder / "err"
        command = [sys.executable, "-m", "edgepv", "run", *arguments]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, stdin=stdin, cwd=folder)

    @property
    def records(self) -> list[dict[str, Any]]:
        lines = self._out.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def err(self) -> str:
        return self._err.read_text()

    def of(self, *types: str) -> list[dict[str, Any]]:
        return [r for r in self.records if r["type"] in types]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(bundle, "--source", ...): a run with its own spool, killed at the end of the test."""
    runs: list[Run] = []

    def begin(bundle: Path, *arguments: str, stdin: Any = None) -> Run:
        folder = tmp_path / f"run{len(runs)}"
        runs.append(Run(folder, [str(bundle), "--spool", str(tmp_path / "spool"), *arguments], stdin))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Answers "fight", 73 %, at once; 10 frames a second, a window of two."""
    return write_null_bundle(tmp_path / "bundle")


@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "rules.toml").write_text(RULES)
    return str(tmp_path / "rules.toml")


def test_camera_and_broker_die_and_come_back_and_no_event_is_lost(
    bundle: Path, rules: str, camera: Camera, broker: Broker, ears: Callable[..., Subscriber], start: Start
) -> None:
    camera.start()
    hears = ears("gate/#")
    run = start(
        bundle,
        *("--source", camera.url, "--deadline-ms", "50", "--rules", rules),
        *("--emit", f"mqtt://127.0.0.1:{broker.port}/gate", "--emit", "jsonl:-"),
    )
    until(lambda: hears.on("gate/events"), 30)
    assert hears.on("gate/available")[-1] == "online"
    broker.kill()
    camera.kill()
    until(lambda: [r for r in run.of("status") if r["what"] == "camera_lost"], 20)
    camera.start()
    until(lambda: len(run.of("new")) == 2, 30)
    broker.start()
    until(lambda: len(set(hears.on("gate/events"))) >= 3, 30)
    assert run.end() == 0
    told = [r["type"] for r in run.of("new", "end")]
    assert told == ["new", "end", "new", "end"]
    assert run.of("end")[0]["why"] == "the camera was gone"
    until(lambda: len({json.loads(e)["uid"] for e in hears.on("gate/events")}) >= 4, 20)
    heard = {e["uid"]: e["type"] for e in map(json.loads, hears.on("gate/events"))}
    assert [t for t in heard.values() if t != "update"] == told
    assert hears.on("gate/available")[-1] == "offline"
    assert run.of("end")[-1]["why"] == "shutdown"
    assert {"restarted", "camera_lost", "camera_back"} <= {r["what"] for r in run.of("status")}
    assert "hunter2" not in run.err + json.dumps(run.records)


def test_sigterm_ends_running_events_and_is_a_good_end(
    bundle: Path, rules: str, a_clip: Path, start: Start
) -> None:
    run = start(bundle, "--source", str(a_clip), "--live", "--rules", rules)
    until(lambda: run.of("new"), 20)
    assert run.end() == 0
    assert [r["type"] for r in run.of("new", "end")] == ["new", "end"]
    assert run.of("end")[0]["after"]["camera"] == "gate"


def test_a_kill_leaves_the_queue_for_the_next_start(
    bundle: Path, rules: str, a_clip: Path, broker: Broker, ears: Callable[..., Subscriber], start: Start
) -> None:
    hears = ears("gate/#")
    broker.signal(signal.SIGSTOP)
    emit = ("--emit", f"mqtt://127.0.0.1:{broker.port}/gate", "--emit", "jsonl:-")
    run = start(bundle, "--source", str(a_clip), "--live", "--rules", rules, *emit)
    until(lambda: len(run.of("answer")) > 5 and run.of("new"), 20)
    first = run.of("new")[0]["after"]["id"]
    run.end(signal.SIGKILL)
    broker.signal(signal.SIGCONT)
    again = start(bundle, "--source", str(a_clip), "--live", "--rules", rules, *emit)
    until(lambda: first in {json.loads(e)["after"]["id"] for e in hears.on("gate/events")}, 20)
    again.end()


def test_every_answer_says_whether_it_is_stale_and_how_old(
    tmp_path: Path, a_clip: Path, start: Start
) -> None:
    slow = write_null_bundle(tmp_path / "slow", delays_ms=LATE)
    run = start(slow, "--source", str(a_clip), "--live", "--deadline-ms", "60")
    until(lambda: len([r for r in run.of("answer") if r["stale"]]) >= 2, 20)
    stale = [r for r in run.of("answer") if r["stale"]]
    assert {r["why"] for r in stale} <= {"overrun", "dropped"}
    old = [r for r in stale if r["age_ms"] is not None]
    assert old and all(r["age_ms"] > r["latency_ms"] for r in old)


def test_no_answer_is_late_while_other_programs_fight_for_the_processor(
    step_bundle: Path, a_clip: Path, start: Start
) -> None:
    """At equal priority an answer may be stale; it is given at its deadline and a wake-up all the same."""
    stress = shutil.which("stress-ng")
    if stress is None:
        pytest.skip("stress-ng is not installed")
    fighting = subprocess.Popen([stress, "--quiet", "--cpu", "4", "--timeout", "40"])
    try:
        run = start(step_bundle, "--source", str(a_clip), "--live", "--deadline-ms", "60")
        assert run.process.wait(30) == 0, run.err
    finally:
        fighting.terminate()
        fighting.wait()
    answers, summary = run.of("answer"), run.of("summary")[0]
    numbers = [a["number"] for a in answers]
    assert numbers == sorted(set(numbers)) and len(answers) > 5
    assert len(answers) + summary["replies_dropped"] == numbers[-1] + 1  # told, or counted
    late = [a["latency_ms"] - 60 for a in answers]
    assert sorted(late)[len(late) // 2] < 30 and max(late) < 300


def test_raw_frames_on_stdin_are_a_camera(bundle: Path, start: Start) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed")
    made = subprocess.run(
        [
            *(ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=20:duration=1"),
            *("-pix_fmt", "bgr24", "-f", "rawvideo", "-"),
        ],
        capture_output=True,
        check=True,
    )
    assert len(made.stdout) == 20 * 64 * 48 * 3
    pipe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    run = start(bundle, "--source", "raw:-?size=64x48&fps=20&format=bgr24", stdin=pipe.stdout)
    assert pipe.stdin
    pipe.stdin.write(made.stdout)
    pipe.stdin.close()
    assert run.process.wait(20) == 0, run.err
    pipe.wait()
    assert len(run.of("answer")) == 10  # 20 frames at 20 a second are 10 for a model at 10
    assert not any(r["stale"] for r in run.of("answer")[:1])


def test_metrics_and_health_are_served(bundle: Path, a_clip: Path, start: Start) -> None:
    port = free_port()
    run = start(bundle, "--source", str(a_clip), "--live", "--metrics", str(port))

    def fetched(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as page:
                return str(page.read().decode())
        except (urllib.error.URLError, OSError):
            return ""

    until(lambda: '"ok": true' in fetched("/healthz"), 20)
    assert 'edgepv_answers_total{camera="cam1"}' in fetched("/metrics")
    run.end()


def test_several_cameras_share_the_machine(bundle: Path, a_clip: Path, start: Start) -> None:
    run = start(bundle, "--source", f"left={a_clip}", "--source", f"right={a_clip}", "--live")
    assert run.process.wait(30) == 0, run.err
    counts = {c: len([r for r in run.of("answer") if r["camera"] == c]) for c in ("left", "right")}
    assert counts["left"] == counts["right"] > 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "nothing.mp4", "--live"], "nothing.mp4"),
        (["--source", "rtsp://127.0.0.1:1/cam"], "rtsp://127.0.0.1:1/cam"),
        (["--source", "ftp://x/y"], "unknown kind of source 'ftp'"),
        (["--source", "{clip}", "--live", "--emit", "smoke:signals"], "unknown kind of receiver 'smoke'"),
        (["--source", "{clip}", "--live", "--deadline-ms", "-3"], "--deadline-ms -3: give a time above 0"),
        (["--source", "{clip}", "--emit", "jsonl:-"], "--emit is for cameras"),
        (["--source", "{clip}", "--live", "--rules", "no.toml"], "no.toml does not exist"),
        (["--source", "{clip}", "--live", "--key", "k.pem"], "--require-signature and --key"),
        (["--source", "a={clip}", "--source", "a={clip}", "--live"], "two cameras are called 'a'"),
        (
            ["--source", "a={clip}", "--source", "b={clip}", "--live", "--emit", "mqtt://h/cam"],
            "Write {camera} where the camera's name belongs",
        ),
        (["--source", "{clip}", "--live", "--cpus", "99999"], "--cpus 99999"),
        (["--source", "a=/dev/video7", "--source", "b=7"], "cameras a and b are both /dev/video7"),
        (["--source", "7"], "/dev/video7 does not exist"),
        (["--source", "192.0.2.7:554/x"], "write its kind before it: rtsp://192.0.2.7:554/x"),
    ],
)
def test_bad_input_is_one_line(
    bundle: Path, a_clip: Path, start: Start, arguments: list[str], says: str
) -> None:
    run = start(bundle, *(a.replace("{clip}", str(a_clip)) for a in arguments))
    assert run.process.wait(30) in ((14,) if arguments == ["--source", "7"] else (2, 8))
    lines = [line for line in run.err.splitlines() if line.startswith("edgepv:")]
    assert len(lines) == 1 and says in lines[0] and "Traceback" not in run.err, run.err


@pytest.mark.parametrize("receiver", [("--video", "{}"), ("--emit", "video:{}"), ("--emit", "jsonl:{}")])
def test_no_receiver_writes_over_what_a_camera_reads(
    receiver: tuple[str, str], bundle: Path, a_clip: Path, tmp_path: Path, start: Start
) -> None:
    mine = tmp_path / "mine.mp4"
    shutil.copy(a_clip, mine)
    link = tmp_path / "link.mp4"
    link.symlink_to(mine)
    run = start(bundle, "--source", str(mine), "--live", receiver[0], receiver[1].format(link))
    assert run.process.wait(60) == 2 and not run.records
    assert re.fullmatch(r"edgepv: \w+:.*link.mp4 is the source itself. Name another file\n", run.err)
    assert mine.read_bytes() == a_clip.read_bytes()


def test_a_camera_that_is_not_there_leaves_nothing_half_written(
    bundle: Path, a_clip: Path, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "out").mkdir()
    video = f"video:{tmp_path}/out/{{camera}}.mp4"
    run = start(bundle, "--source", f"a={a_clip}", "--source", "b=no.mp4", "--live", "--emit", video)
    assert run.process.wait(30) == 2 and "no.mp4" in run.err
    assert list((tmp_path / "out").iterdir()) == []


def test_only_a_signed_bundle_runs_when_a_signature_is_required(
    tmp_path: Path, bundle: Path, a_clip: Path, start: Start
) -> None:
    private, other = tmp_path / "release.pem", tmp_path / "other.pem"
    public, wrong = signing.keygen(private), signing.keygen(other)
    source = ("--source", str(a_clip), "--live", "--require-signature", "--key")
    unsigned = start(bundle, *source, str(public))
    assert unsigned.process.wait(20) == 9 and "is not signed" in unsigned.err
    signing.sign(bundle, private)
    signed = start(bundle, *source, str(public))
    assert signed.process.wait(30) == 0, signed.err
    by_another = start(bundle, *source, str(wrong))
    assert by_another.process.wait(20) == 9 and "is signed by key" in by_another.err


def test_a_trial_that_answers_late_is_taken_back_while_it_runs(
    tmp_path: Path, bundle: Path, a_clip: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "slots"
    slots.install(root, bundle)
    slow = write_null_bundle(tmp_path / "slow", name="slow", delays_ms=LATE)
    slots.install(root, slow)
    assert slots.read_state(root).trial == "b"
    clips = [arg for n in range(6) for arg in ("--source", f"cam{n}={a_clip}")]
    run = start(root, *clips, "--live", "--deadline-ms", "60")
    assert run.process.wait(60) == 2, run.err
    assert "the new bundle was taken back" in run.err
    state = slots.read_state(root)
    assert state.trial is None and state.active == "a" and state.history[-1].what == "rolled back"


def test_a_file_that_is_only_a_file_is_answered_frame_by_frame(
    bundle: Path, a_clip: Path, start: Start
) -> None:
    run = start(bundle, "--source", str(a_clip))
    assert run.process.wait(20) == 0
    assert run.of("summary")[0]["drops"] == 0 and re.search(r"next:", run.err)


def test_what_looks_like_a_name_is_a_path_where_it_exists(
    bundle: Path, a_clip: Path, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "run0").mkdir()
    (tmp_path / "run0" / "cam=2.mp4").write_bytes(a_clip.read_bytes())
    run = start(bundle, "--source", "cam=2.mp4")
    assert run.process.wait(20) == 0, run.err
    assert {r["camera"] for r in run.of("answer")} == {"cam1"}


def test_records_of_a_file_and_of_a_camera_have_the_same_keys(
    bundle: Path, a_clip: Path, start: Start
) -> None:
    file = start(bundle, "--source", f"gate={a_clip}")
    live = start(bundle, "--source", f"gate={a_clip}", "--live")
    assert (file.process.wait(20), live.process.wait(20)) == (0, 0)
    assert {tuple(r) for r in file.of("answer")} == {tuple(r) for r in live.of("answer")}
    assert [r["number"] for r in live.of("answer")] == list(range(len(live.of("answer"))))
    for run in (file, live):
        assert {r["version"] for r in run.records} == {1} and run.records[-1]["type"] == "summary"
    summaries = file.of("summary")[0], live.of("summary")[0]
    assert set(summaries[0]) <= set(summaries[1])
    assert summaries[0]["frames_read"] == summaries[1]["frames_read"]
    assert {s["camera"] for s in summaries} == {"gate"}


def test_a_zone_on_a_model_that_cannot_say_where_is_refused_before_the_run(
    bundle: Path, a_clip: Path, tmp_path: Path, start: Start
) -> None:
    rules = tmp_path / "zone.toml"
    zone = '[[zone]]\nname = "yard"\npolygon = [[0, 0], [1, 0], [1, 1]]\n'
    rules.write_text(f'{RULES}zones = ["yard"]\n{zone}')
    run = start(bundle, "--source", str(a_clip), "--live", "--rules", str(rules))
    assert run.process.wait(20) == 2 and run.records == []
    assert "rule for 'fight': it has a zone, and net cannot say where" in run.err


def test_the_head_of_the_answers_can_be_taken(bundle: Path, a_clip: Path) -> None:
    command = f"{sys.executable} -m edgepv run {bundle} --source {a_clip} --live | head -2"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(
    bundle: Path, a_clip: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        run = start(bundle, "--source", str(a_clip), "--live")
        assert ear.recv(64) == b"READY=1"
        run.end()
        assert ear.recv(64) == b"STOPPING=1"
    assert os.environ["NOTIFY_SOCKET"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".x", ""])
def test_a_camera_whose_name_leads_out_of_the_spool_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a camera's name is"):
        LiveOptions(bundle=tmp_path, sources={name: "clip.mp4"}, spool=tmp_path / "spool")


def test_a_threshold_of_another_bundle_is_told_where_it_runs(
    tmp_path: Path, a_clip: Path, start: Start
) -> None:
    folder = write_null_bundle(tmp_path / "odd", surprise=0.0)
    rules = tmp_path / "odd.toml"
    rules.write_text(
        '[camera]\nname = "gate"\n[[rule]]\nlabel = "*"\nwhat = "surprise"\nthreshold = 0.5\n'
        f'learned_on = "{"0" * 64}"\n'
    )
    told = f"odd.toml: the threshold 0.5 for surprise was learned with bundle {'0' * 16}, this is "
    told += signing.read(folder, None).digest[:16]
    for how in ((), ("--live",)):
        run = start(folder, "--source", str(a_clip), "--rules", str(rules), *how)
        assert run.process.wait(30) == 0, run.err
        assert told in run.err
        said = [note for record in run.records for note in record.get("notes") or ()]
        assert any(told in note for note in said), said

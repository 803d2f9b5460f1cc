"""MQTT against a real mosquitto that is killed, frozen and restarted, and a subscriber that counts."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_support import Broker, Subscriber, answer, event, until

from edgepv.errors import UsageError
from edgepv.runtimes.sinks import open_sink, own_name
from edgepv.runtimes.sinks.mqtt import discovery, parse_broker

OUTAGE_S = 30.0 if os.environ.get("EDGEPV_SLOW") else 5.0
Ears = Callable[[str], Subscriber]
Open = Callable[[str], Any]


def uids(payloads: list[str]) -> list[str]:
    return [json.loads(p)["uid"] for p in payloads]


def numbers(payloads: list[str]) -> list[int]:
    """The number that ``event`` put into each, without repetitions, in order of first arrival."""
    return list(dict.fromkeys(json.loads(p)["after"]["n"] for p in payloads))


@pytest.mark.parametrize("qos", [1, 2])
def test_events_and_statuses_arrive_once_each_on_their_topics(
    broker: Broker, ears: Ears, sink: Open, qos: int
) -> None:
    heard = ears("home/cam1/#")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/home/cam1?qos={qos}")
    sent = [event(0, "new"), event(1, "update"), event(2, "end")]
    for record in sent:
        out.put(record)
    out.put({"type": "status", "what": "camera_lost", "why": "no route to host"})
    until(lambda: len(heard.on("home/cam1/events")) == 3 and heard.on("home/cam1/status"))
    got = [json.loads(p) for p in heard.on("home/cam1/events")]
    assert [{k: v for k, v in g.items() if k != "uid"} for g in got] == sent
    status = json.loads(heard.on("home/cam1/status")[0])
    assert (status["what"], status["why"]) == ("camera_lost", "no route to host")
    assert len({status["uid"], *(g["uid"] for g in got)}) == 4
    until(lambda: out.counts() == {"taken": 4, "sent": 4, "queued": 0, "lost": 0})


@pytest.mark.slow
def test_a_killed_broker_costs_no_event(broker: Broker, ears: Ears, sink: Open, news: list[str]) -> None:
    """50 events a second before, while and after it is gone; each arrives, in order."""
    heard = ears("cam1/events")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    count, stop = 0, threading.Event()

    def talk() -> None:
        nonlocal count
        while not stop.wait(0.02):
            out.put(event(count))
            count += 1

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        until(lambda: len(numbers(heard.on("cam1/events"))) >= 10)
        broker.kill()
        time.sleep(OUTAGE_S)
        assert len(numbers(heard.on("cam1/events"))) < count - 20 * OUTAGE_S
        broker.start()
        until(lambda: out.counts()["sent"] > count - 5, 60)
    finally:
        stop.set()
        talker.join()
    until(lambda: len(set(numbers(heard.on("cam1/events")))) == count)
    got = heard.on("cam1/events")
    assert numbers(got) == list(range(count))
    assert len(set(uids(got))) == count
    assert len(got) - count <= 20  # what was on its way when the broker died may come twice
    until(lambda: out.counts() == {"taken": count, "sent": count, "queued": 0, "lost": 0})
    assert len(news) == 3
    assert news[0].endswith(": connected")
    assert news[1].endswith(": connection lost; records wait, trying again")
    assert news[2].endswith(" waiting")


def frozen_with_thirty(broker: Broker, out: Any) -> None:
    """The broker reads no more; 20 of 30 events are in its socket, 10 wait behind them."""
    until(lambda: out.counts()["queued"] == 0)
    broker.signal(signal.SIGSTOP)
    for n in range(30):
        out.put(event(n))
    until(lambda: len(out._flying) == 20)


def test_what_a_killed_broker_had_not_read_is_sent_again(broker: Broker, ears: Ears, sink: Open) -> None:
    heard = ears("cam1/#")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    until(lambda: heard.on("cam1/available") == ["online"])
    frozen_with_thirty(broker, out)
    broker.kill()
    broker.start()
    until(lambda: out.counts() == {"taken": 30, "sent": 30, "queued": 0, "lost": 0})
    until(lambda: len(heard.on("cam1/events")) == 30)
    assert numbers(heard.on("cam1/events")) == list(range(30))


@pytest.mark.usefixtures("hasty")
def test_closing_gives_up_on_a_frozen_broker_and_keeps_the_queue(
    broker: Broker, ears: Ears, sink: Open
) -> None:
    heard = ears("cam1/#")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    until(lambda: heard.on("cam1/available") == ["online"])
    frozen_with_thirty(broker, out)
    start = time.perf_counter()
    out.close()
    assert time.perf_counter() - start < 3
    assert out.counts() == {"taken": 30, "sent": 0, "queued": 30, "lost": 0}
    broker.kill()
    broker.start()
    again = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    until(lambda: again.counts() == {"taken": 0, "sent": 30, "queued": 0, "lost": 0})


SCRIPT = """
import sys
from pathlib import Path
from edgepv.runtimes.sinks import open_sink
sink = open_sink(sys.argv[1], camera="cam1", spool_folder=Path(sys.argv[2]), labels=[], fps=10)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    sink.put({"type": "new", "before": None, "after": {"id": f"e{n}", "label": "waving", "n": n}})
while sink._inbox or sink._moving:
    pass
print("on disk", flush=True)
sys.stdin.read()
"""


def run_until_on_disk(
    url: str, folder: Path, n: int, before: Callable[[], None] = lambda: None
) -> subprocess.Popen[str]:
    """A process with its sink open, after ``before``, and then ``n`` events put into it and on disk."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, url, str(folder), str(n)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    before()
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "on disk\n"
    return process


def test_a_killed_process_leaves_its_queue_to_the_next(
    broker: Broker, ears: Ears, sink: Open, tmp_path: Path
) -> None:
    broker.kill()
    url = f"mqtt://127.0.0.1:{broker.port}/cam1"
    with run_until_on_disk(url, tmp_path / "spool", 30) as process:
        process.kill()
    broker.start()
    heard = ears("cam1/events")
    out = sink(url)
    out.put(event(30))
    until(lambda: len(heard.on("cam1/events")) == 31)
    assert numbers(heard.on("cam1/events")) == list(range(31))
    assert len(set(uids(heard.on("cam1/events")))) == 31
    until(lambda: out.counts() == {"taken": 1, "sent": 31, "queued": 0, "lost": 0})


@pytest.mark.slow
def test_a_process_killed_while_it_delivers_repeats_what_was_on_its_way(
    broker: Broker, ears: Ears, sink: Open, tmp_path: Path
) -> None:
    """The broker is frozen with up to 20 of 400 events in its socket when the process dies."""
    heard = ears("cam1/#")
    url = f"mqtt://127.0.0.1:{broker.port}/cam1"

    def freeze() -> None:
        until(lambda: heard.on("cam1/available") == ["online"])
        broker.signal(signal.SIGSTOP)

    with run_until_on_disk(url, tmp_path / "spool", 400, freeze) as process:
        process.kill()
    broker.signal(signal.SIGCONT)
    until(lambda: heard.on("cam1/available") == ["online", "offline"])
    assert len(heard.on("cam1/events")) <= 20
    out = sink(url)
    until(lambda: out.counts() == {"taken": 0, "sent": 400, "queued": 0, "lost": 0})
    until(lambda: len(numbers(heard.on("cam1/events"))) == 400)
    assert numbers(heard.on("cam1/events")) == list(range(400))
    assert len(set(uids(heard.on("cam1/events")))) == 400
    assert len(heard.on("cam1/events")) <= 420


def test_available_is_online_then_offline_and_the_last_will_says_it_too(
    broker: Broker, ears: Ears, sink: Open, tmp_path: Path
) -> None:
    heard = ears("cam1/available")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    until(lambda: heard.on("cam1/available") == ["online"])
    out.close()
    until(lambda: heard.on("cam1/available") == ["online", "offline"])
    with run_until_on_disk(f"mqtt://127.0.0.1:{broker.port}/cam1", tmp_path / "spool", 0) as process:
        until(lambda: heard.on("cam1/available") == ["online", "offline", "online"])
        process.kill()
    until(lambda: heard.on("cam1/available")[3:] == ["offline"])


def test_the_state_changes_with_the_label_of_a_valid_fresh_answer(
    broker: Broker, ears: Ears, sink: Open
) -> None:
    heard = ears("cam1/state")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    steps = [
        answer("standing", 0.2, valid=False),
        answer("waving", 0.8),
        answer("waving", 0.9),
        answer("standing", 0.7, stale=True),
        answer("standing", 0.6),
    ]
    wanted = [{"label": "waving", "score": 0.8}, {"label": "standing", "score": 0.6}]
    for step in steps[:3]:
        out.put(step)
    until(lambda: len(heard.on("cam1/state")) == 1)
    for step in steps[3:]:
        out.put(step)
    until(lambda: len(heard.on("cam1/state")) == 2)
    out.close()
    assert [json.loads(p) for p in heard.on("cam1/state")] == wanted
    late = ears("cam1/state")
    until(lambda: [json.loads(p) for p in late.on("cam1/state")] == wanted[1:])
    assert out.counts()["taken"] == 0  # answers are not delivered as records unless asked for


def test_a_label_is_on_while_any_event_of_it_lasts(broker: Broker, ears: Ears, sink: Open) -> None:
    heard = ears(f"cam1/{own_name('fall down')}/state")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    states = heard.on

    def step(n: int, kind: str, name: str) -> None:
        out.put(event(n, kind, "fall down", name))
        until(lambda: out.counts()["queued"] == 0)

    until(lambda: states(f"cam1/{own_name('fall down')}/state") == ["OFF"])
    step(0, "new", "a")
    step(1, "new", "b")
    step(2, "end", "a")
    step(3, "update", "b")
    until(lambda: states(f"cam1/{own_name('fall down')}/state") == ["OFF", "ON"])
    step(4, "end", "b")
    until(lambda: states(f"cam1/{own_name('fall down')}/state") == ["OFF", "ON", "OFF"])


def test_home_assistant_finds_one_sensor_per_label_and_again_after_its_birth(
    broker: Broker, ears: Ears, sink: Open
) -> None:
    heard = ears("homeassistant/#")
    sink(f"mqtt://127.0.0.1:{broker.port}/home/cam1?discovery=homeassistant")
    node, level = f"edgepv_{own_name('home/cam1')}", own_name("fall down")
    topic = f"homeassistant/binary_sensor/{node}/{level}/config"
    until(lambda: heard.on(topic))
    config = json.loads(heard.on(topic)[0])
    assert config["name"] == "fall down"
    assert config["unique_id"] == f"{node}.{level}"
    assert config["state_topic"] == f"home/cam1/{level}/state"
    assert (config["payload_on"], config["payload_off"]) == ("ON", "OFF")
    assert [a["topic"] for a in config["availability"]] == ["home/cam1/available", "home/cam1/camera"]
    assert config["device"]["identifiers"] == [node]
    assert {t for t, _, _ in heard.heard} == {topic, topic.replace(level, "waving")}
    heard.client.publish("homeassistant/status", "offline")
    heard.client.publish("homeassistant/status", "online")
    until(lambda: len(heard.on(topic)) == 2)


def test_a_broker_that_forgot_everything_is_told_again(broker: Broker, ears: Ears, sink: Open) -> None:
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1?discovery=homeassistant")
    out.put(answer("waving", 0.8))
    out.put(event(0, "new", "waving"))
    until(lambda: out.counts()["sent"] == 1)
    broker.kill()
    broker.forget()
    broker.start()
    heard = ears("#")
    told = ["cam1/available", "cam1/state", "cam1/waving/state"]
    told.append("homeassistant/binary_sensor/edgepv_cam1/waving/config")
    until(lambda: all(heard.on(topic) for topic in told))
    assert heard.on("cam1/available") == ["online"]
    assert heard.on("cam1/waving/state") == ["ON"]
    assert json.loads(heard.on("cam1/state")[0]) == {"label": "waving", "score": 0.8}


def test_answers_are_published_when_asked_for_and_never_kept(broker: Broker, ears: Ears, sink: Open) -> None:
    heard = ears("cam1/answers")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1?answers=1")
    for n in range(5):
        out.put(answer("waving", n / 10))
    until(lambda: len(heard.on("cam1/answers")) == 5)
    assert [json.loads(p)["score"] for p in heard.on("cam1/answers")] == [0.0, 0.1, 0.2, 0.3, 0.4]
    until(lambda: out.counts() == {"taken": 5, "sent": 5, "queued": 0, "lost": 0})
    broker.kill()
    for _ in range(150):
        out.put(answer("waving"))
    assert out.counts()["queued"] <= 100
    out.close()
    counts = out.counts()
    assert counts["sent"] + counts["queued"] + counts["lost"] == 155
    assert counts["lost"] >= 50


def test_a_frozen_broker_never_holds_up_the_camera(broker: Broker, sink: Open) -> None:
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1?answers=1")
    out.put(event(0))
    until(lambda: out.counts()["sent"] == 1)
    broker.signal(signal.SIGSTOP)
    slowest = 0.0
    for n in range(500):
        start = time.perf_counter()
        out.put(event(n + 1))
        out.put({**answer("waving"), "padding": "x" * 2000})
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 0.25
    broker.signal(signal.SIGCONT)
    until(lambda: out.counts()["queued"] == 0, 20)
    counts = out.counts()
    assert counts["sent"] + counts["lost"] == 1001
    assert counts["sent"] >= 501  # every event; answers may be lost


def test_a_broker_that_is_not_there_yet_is_no_error(
    broker: Broker, ears: Ears, sink: Open, news: list[str]
) -> None:
    broker.kill()
    out = sink(f"mqtt://someone:secret@127.0.0.1:{broker.port}/cam1")
    out.put(event(0))
    until(lambda: news)
    assert news[0] == f"mqtt://127.0.0.1:{broker.port}/cam1: Connection refused; records wait, trying again"
    assert out.counts() == {"taken": 1, "sent": 0, "queued": 1, "lost": 0}
    broker.start()
    until(lambda: out.counts()["sent"] == 1)
    assert news[-1].endswith(": connected, 1 waiting")
    assert not [line for line in [*news, repr(out)] if "secret" in line]


@pytest.mark.usefixtures("hasty")
def test_a_refused_password_is_said_once_and_never_shown(tmp_path: Path, sink: Open, news: list[str]) -> None:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "u", "right/p@ss"], check=True)
    broker = Broker(tmp_path / "broker", f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    try:
        wrong = sink(f"mqtt://u:wrong-secret@127.0.0.1:{broker.port}/cam1")
        wrong.put(event(0))
        until(lambda: news)
        assert "refused (Not authorized)" in news[0]
        assert "secret" not in news[0] + repr(wrong) + repr(wrong._broker)
        wrong.close()
        right = sink(f"mqtt://u:right%2Fp%40ss@127.0.0.1:{broker.port}/cam1")
        until(lambda: right.counts()["sent"] == 1)  # the same queue, whatever the password
    finally:
        broker.kill()


def certificates(folder: Path) -> None:
    """ca.pem, and cert.pem and key.pem of a server at 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def build(subject: x509.Name, public: Any, ca: bool) -> Any:
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(
            now + datetime.timedelta(1)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (builder if ca else builder.add_extension(address, critical=False)).sign(
            ca_key, hashes.SHA256()
        )

    pem = serialization.Encoding.PEM
    server = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a broker")])
    (folder / "ca.pem").write_bytes(build(issuer, ca_key.public_key(), True).public_bytes(pem))
    (folder / "cert.pem").write_bytes(build(server, key.public_key(), False).public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


@pytest.mark.usefixtures("hasty")
def test_tls_is_checked_against_the_authorities(
    broker: Broker, tmp_path: Path, sink: Open, news: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.kill()
    certificates(tmp_path)
    files = f"cafile {tmp_path}/ca.pem\ncertfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem"
    secure = Broker(tmp_path / "secure", f"{files}\nallow_anonymous true")
    secure.start()
    try:
        stranger = sink(f"mqtts://127.0.0.1:{secure.port}/cam1")
        stranger.put(event(0))
        until(lambda: news)
        assert "its certificate is not trusted (self-signed certificate" in news[0]
        assert "SSL_CERT_FILE" in news[0]
        stranger.close()
        assert stranger.counts()["sent"] == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        known = sink(f"mqtts://127.0.0.1:{secure.port}/cam1")
        until(lambda: known.counts()["sent"] == 1)
    finally:
        secure.kill()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mqtt://host", "needs a base topic"),
        ("mqtt://host/", "needs a base topic"),
        ("mqtt://host/a/+/b", "needs a base topic without"),
        ("mqtt://host/%24SYS", "needs a base topic"),
        ("mqtt:///cam1", "is not an MQTT address"),
        ("mqtt://host:port/cam1", "is not an MQTT address"),
        ("mqtt://u:secret@host:99999/cam1", "is not an MQTT address"),
        ("mqtt://u:sec/ret@host/cam1", "is not an MQTT address"),
        ("mqtt://u:1/secret@host/cam1", "is not an MQTT address"),
        ("mqtt://u:secret@host/", "needs a base topic"),
        ("mqtt://u:secret@host/cam1?qos=0", "unknown value of qos '0'"),
        ("mqtt://u:secret@host/cam1?qos", "is not an MQTT address"),
        ("mqtt://host/cam1?anwsers=1", "Did you mean 'answers'"),
        ("mqtt://host/cam1?discovery=openhab", "Known: homeassistant"),
    ],
)
def test_a_wrong_address_is_one_clear_line(sink: Open, url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        sink(url)
    assert "sec" not in str(caught.value).replace("secure", "")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_different_texts_have_different_names_that_topics_can_hold() -> None:
    texts = ["go left", "go_left", "a/b+#", "go?left", "跌倒", "挥手", "haus/cam", "haus_cam", "_", "", " "]
    names = [own_name(text) for text in texts]
    assert len(set(names)) == len(texts) and names[1] == "go_left" and names[0].startswith("go_left_")
    assert all(re.fullmatch("[A-Za-z0-9_-]+", name) for name in names)


DEVICE = {"identifiers": list, "name": str, "manufacturer": str, "sw_version": str}
CONFIG: dict[str, Any] = {
    "name": str,
    "unique_id": str,
    "state_topic": str,
    "payload_on": str,
    "payload_off": str,
    "availability_mode": str,
    "availability": list,
    "device": DEVICE,
    "origin": {"name": str, "sw_version": str},
}
"""Of Home Assistant's schema of an MQTT binary sensor, the keys we use; it refuses those it does not know.

Source: Home Assistant, "MQTT binary sensor" and "MQTT discovery" (component, node and object in a topic).
"""


def test_no_two_cameras_and_labels_share_an_id() -> None:
    pairs = [("a", "b_c"), ("a_b", "c"), ("a/b", "c"), ("a", "b/c"), ("a", "B_c")]
    ids = [
        json.loads(config)["unique_id"]
        for base, label in pairs
        for config in discovery(base, base, {label: own_name(label)}).values()
    ]
    assert len(set(ids)) == len(pairs)


def check_config(topic: str, payload: str) -> dict[str, Any]:
    """The configuration, if it is one that Home Assistant takes."""
    assert re.fullmatch(r"homeassistant/binary_sensor/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config", topic)
    config: dict[str, Any] = json.loads(payload)
    for kinds, values in ((CONFIG, config), (DEVICE, config["device"]), (CONFIG["origin"], config["origin"])):
        assert set(values) == set(kinds)
        for key, kind in kinds.items():
            assert isinstance(values[key], dict if isinstance(kind, dict) else kind), key
    assert config["device"]["identifiers"]
    assert config["availability_mode"] in ("all", "any", "latest")
    for one in config["availability"]:
        assert set(one) == {"topic", "payload_available", "payload_not_available"}
    for topic in (config["state_topic"], *(a["topic"] for a in config["availability"])):
        assert topic and not set(topic) & set("+#\0") and topic.isprintable()
    return config


def announce(broker: Broker, tmp_path: Path, base: str, labels: list[str], news: list[str]) -> None:
    """One whole run of a camera that announces its labels."""
    url = f"mqtt://127.0.0.1:{broker.port}/{base}?discovery=homeassistant"
    out = open_sink(url, camera=base, spool_folder=tmp_path / base, labels=labels, fps=10, say=news.append)
    until(lambda: any("connected" in line for line in news))
    time.sleep(0.3)  # what the broker kept comes after the connection
    out.close()


def test_what_the_last_model_announced_goes_and_other_cameras_stay(
    broker: Broker, ears: Ears, tmp_path: Path
) -> None:
    for base, labels in [
        ("haus_cam", ["fight"]),
        ("haus/cam", ["fight", "跌倒", "fall down"]),
        ("haus/cam", ["挥手"]),
    ]:
        announce(broker, tmp_path, base, labels, [])
    heard = ears("#")
    until(lambda: heard.on("haus/cam/available") and heard.on("haus_cam/available"))
    kept = {t: p for t, p, _ in heard.heard}
    configs = [check_config(t, p) for t, p in kept.items() if t.startswith("homeassistant/")]
    assert {(c["device"]["name"], c["name"]) for c in configs} == {
        ("haus_cam", "fight"),
        ("haus/cam", "挥手"),
    }
    assert len({c["unique_id"] for c in configs}) == 2
    states = {t for t in kept if t.endswith("/state")}
    assert states == {"haus_cam/fight/state", f"haus/cam/{own_name('挥手')}/state"}


def test_a_lost_camera_is_not_available_until_it_is_back(broker: Broker, ears: Ears, sink: Open) -> None:
    heard = ears("cam1/camera")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1")
    until(lambda: heard.on("cam1/camera") == ["online"])
    out.put({"type": "status", "what": "camera_lost", "why": "no route to host"})
    until(lambda: heard.on("cam1/camera")[1:] == ["offline"])
    out.put({"type": "status", "what": "camera_back", "why": "after 3.0 s"})
    until(lambda: heard.on("cam1/camera")[1:] == ["offline", "online"])


def test_what_others_announced_is_left_alone(broker: Broker, ears: Ears, tmp_path: Path) -> None:
    heard = ears("homeassistant/#")
    topic = "homeassistant/binary_sensor/edgepv_cam1/mine/config"
    foreign = json.dumps({"availability_topic": "cam1/available", "device": {"manufacturer": "me"}})
    broken = topic.replace("mine", "broken")
    heard.client.publish(topic, foreign, retain=True)
    heard.client.publish(broken, "[1", retain=True)
    until(lambda: heard.on(broken))
    announce(broker, tmp_path, "cam1", ["fight"], [])
    assert heard.on(topic) == [foreign] and heard.on(broken) == ["[1"]


def test_a_normal_end_is_no_lost_connection_and_says_offline(
    broker: Broker, ears: Ears, tmp_path: Path
) -> None:
    heard = ears("cam1/available")
    news: list[str] = []
    announce(broker, tmp_path, "cam1", [], news)
    until(lambda: heard.on("cam1/available") == ["online", "offline"])
    assert len(news) == 2 and news[1].endswith(": connected")
    assert news[0].endswith("discovery announces the labels of rules, and there is none: give --rules")


def test_answers_of_a_tracker_have_no_label_and_are_no_fault(broker: Broker, ears: Ears, sink: Open) -> None:
    heard = ears("cam1/answers")
    out = sink(f"mqtt://127.0.0.1:{broker.port}/cam1?answers=1")
    out.put({"type": "answer", "valid": True, "stale": False, "tracks": [[3, 0.5, 0.5, 1.0]]})
    until(lambda: heard.on("cam1/answers"))


def test_an_address_is_read_whole() -> None:
    broker = parse_broker("mqtts://me:p%40ss@[::1]/edgepv/cam1?qos=2&answers=1&discovery=homeassistant")
    assert (broker.host, broker.port, broker.tls, broker.base) == ("::1", 8883, True, "edgepv/cam1")
    assert (broker.qos, broker.answers, broker.discovery) == (2, True, True)
    assert (broker.user, broker.password) == ("me", "p@ss")
    assert "ss" not in repr(broker)
    plain = parse_broker("mqtt://host/cam1")
    assert (plain.port, plain.tls, plain.qos, plain.answers, plain.discovery) == (
        1883,
        False,
        1,
        False,
        False,
    )

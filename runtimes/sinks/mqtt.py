"""Answers and events to an MQTT broker, and the entities of Home Assistant that show them.

``mqtt://[user:password@]host[:port]/base/topic[?qos=1&discovery=homeassistant&answers=1]``; ``mqtts://`` is
TLS, checked against the system's authorities (the variable SSL_CERT_FILE names others). Topics:

    <base>/available       retained  online, offline (also the last will)
    <base>/camera          retained  online, offline while the camera is lost
    <base>/events          QoS 1     {"type": new|update|end, "before", "after", "uid"}, spooled
    <base>/status          QoS 1     {"type": "status", "what", "why", "uid"}, spooled
    <base>/state           retained  {"label", "score"} of the latest answer, when the label changes
    <base>/<label>/state   retained  ON while an event of that label lasts, otherwise OFF; of a label that is
                                     not plain ASCII its letters and a digest, like fall_down_a73a1ce7
    <base>/answers         QoS 0     every answer, with answers=1; lost while the broker is away

Retained topics are sent again at every connection, so that a broker that forgot them has them. With
discovery, what an earlier run announced for this base topic and is gone now (another model, other rules) is
removed.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from edgepv.base.files import digest
from edgepv.base.optional import need
from edgepv.errors import UsageError, unknown
from edgepv.runtimes.backoff import pause_s
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Setup, as_json, own_name, plain_name, redacted
from edgepv.runtimes.sinks.spool import Spool, SpooledSink

IN_FLIGHT = 20
"""Messages that wait for the broker's PUBACK: as many as a broker takes by default (mosquitto's limit)."""
ANSWERS_WAITING = 100
"""Answers that wait: seconds of a camera, and older ones say nothing any more."""
KEEPALIVE_S = 30
"""Silence after which broker and client ask for each other: a camera that was cut off is known in 45 s."""
LASTED_S = 10.0
"""A connection that lasted so long was one: its end is news, and the next try comes at once."""
LAST_PAUSE_S = 0.2
"""Before the one try that is left when the run ends."""
LONGEST_PAUSE_S = 10.0
"""Between two tries: a broker that is back is found within it."""
CLOSE_NETWORK_S = 2.0
"""For the network's thread to end after the last message."""
MAKER = "edgepv"
CAMERA = {"camera_lost": "offline", "camera_back": "online"}
PREFIX = "homeassistant"
BIRTH = f"{PREFIX}/status"
TRUST = "Name the file of its authority in SSL_CERT_FILE"


@dataclass(frozen=True)
class Broker:
    """Where to publish and how; user and password are in no text made of it."""

    host: str
    port: int
    tls: bool
    base: str
    qos: int = 1
    discovery: bool = False
    answers: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """For news and for the spool's file: the same whatever the password."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}/{self.base}"


def parse_broker(url: str) -> Broker:
    """Read an mqtt URL. Raises UsageError naming what is wrong, never the password."""
    shape = "Write mqtt://user:password@host:1883/base/topic; %40 stands for @ in a password"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query), keep_blank_values=True))
    except ValueError:
        raise UsageError(f"'{redacted(url)}' is not an MQTT address. {shape}") from None
    base = unquote(parts.path).strip("/")
    if not host or "@" in base or parts.fragment:
        raise UsageError(f"'{redacted(url)}' is not an MQTT address. {shape}")
    if not base or any(c in base for c in "+#\0") or base.startswith("$"):
        raise UsageError(
            f"'{redacted(url)}' needs a base topic without + and #, for example mqtt://{host}/cam1"
        )
    tls = parts.scheme.lower() == "mqtts"
    chosen = _options(options)
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return Broker(host, port or (8883 if tls else 1883), tls, base, **chosen, user=user, password=password)


def _options(options: dict[str, str]) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = {
        "qos": {"1": 1, "2": 2},
        "discovery": {"homeassistant": True},
        "answers": {"0": False, "1": True},
    }
    chosen: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise UsageError(unknown("option of an MQTT address", name, known))
        if value not in known[name]:
            raise UsageError(unknown(f"value of {name}", value, known[name]))
        chosen[name] = known[name][value]
    return chosen


class Mqtt(SpooledSink):
    """Publishes to one broker.

    Three threads: the writer of SpooledSink, which alone owns the state here and publishes; one that keeps a
    connection up; and paho's, which does the network. The callbacks of paho only append to ``_news``.
    """

    def __init__(self, broker: Broker, setup: Setup, spool: Spool) -> None:
        super().__init__(spool, broker.name, setup.say)
        self._broker = broker
        self._paho = need("paho.mqtt.client", extra="live")
        self._tls = ssl.create_default_context() if broker.tls else None
        self._id = "edgepv-" + digest([setup.camera, broker.name])[:16]
        self._topics = _Topics(broker, setup)
        self._answers: deque[str] = deque()
        self._news: deque[tuple[str, Any, Any]] = deque()
        self._client: Any = None  # the connected one
        self._flying: dict[int, str] = {}  # message id at the broker -> uid
        self._acked: list[str] = []
        self._answering: set[int] = set()
        self._stopping, self._gone, self._leaving = threading.Event(), threading.Event(), threading.Event()
        self._last_chance = threading.Event()
        self._network = threading.Thread(target=self._keep_connected, name=f"{broker.name} net", daemon=True)
        self._writer.start()
        self._network.start()

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take a record: events and statuses are spooled; an answer changes the state topic."""
        super().put(record)
        self._topics.see(record)
        if record["type"] == "answer" and self._broker.answers:
            with self._lock:
                self._taken += 1
                self._answers.append(as_json(record))
                if len(self._answers) > ANSWERS_WAITING:
                    self._answers.popleft()
                    self._lost += 1
        self._wake.set()

    def counts(self) -> dict[str, int]:
        """As of SpooledSink; answers are counted where they are published, sent when the socket took them."""
        counts = super().counts()
        return {**counts, "queued": counts["queued"] + len(self._answers) + len(self._answering)}

    def close(self) -> None:
        """Deliver for a few seconds, say offline, and disconnect. A broker that was away is tried at once."""
        self._last_chance.set()
        super().close()
        self._stopping.set()
        self._network.join(CLOSE_NETWORK_S)
        self._gone.set()

    def _idle(self) -> bool:
        return super()._idle() and not (self._client and (self._answers or self._answering))

    # The writer's thread.

    def _after_write(self) -> None:
        while self._news:
            what, client, value = self._news.popleft()
            getattr(self, f"_on_{what}")(client, value)
        if self._acked:
            self._acknowledged(self._acked)
            self._acked.clear()
        if self._client is None:
            return
        self._publish_state()
        self._publish_answers()
        self._publish_events()

    def _publish_state(self) -> None:
        for topic, payload in self._topics.changed():
            self._client.publish(topic, payload, qos=0, retain=True)

    def _publish_answers(self) -> None:
        while self._answers and len(self._answering) < ANSWERS_WAITING:
            message = self._client.publish(f"{self._broker.base}/answers", self._answers.popleft(), qos=0)
            if message.rc == 0:
                self._answering.add(message.mid)
            else:
                self._count(lost=1)

    def _publish_events(self) -> None:
        """Keep IN_FLIGHT messages at the broker, oldest first; its PUBACK takes them from the spool."""
        if len(self._flying) >= IN_FLIGHT or self._spool.waiting <= len(self._flying):
            return
        flying = set(self._flying.values())
        for waiting in self._spool.peek(IN_FLIGHT):
            if waiting.uid not in flying and len(self._flying) < IN_FLIGHT:
                topic = f"{self._broker.base}/{'status' if waiting.kind == 'status' else 'events'}"
                try:
                    message = self._client.publish(topic, waiting.body, qos=self._broker.qos)
                except ValueError as e:  # longer than MQTT can say
                    self._drop(waiting.uid, f"record {waiting.uid} cannot be published ({e})")
                else:
                    self._flying[message.mid] = waiting.uid

    def _finish(self) -> None:
        self._leaving.set()
        if self._client:
            self._client.publish(self._topics.available, "offline", qos=0, retain=True)
            self._client.disconnect()

    def _on_connected(self, client: Any, _: Any) -> None:
        self._lose_connection()
        self._client = client
        self._topics.renew()
        if self._broker.discovery:
            client.subscribe([(topic, 0) for topic in (BIRTH, *self._topics.announced)])
        waiting = self._spool.waiting
        self._say(f"{self._broker.name}: connected" + (f", {waiting} waiting" if waiting else ""))

    def _on_lost(self, client: Any, _: Any) -> None:
        if client is self._client:
            self._lose_connection()

    def _lose_connection(self) -> None:
        """What was in flight is still in the spool and goes again; answers in flight are lost."""
        self._client = None
        self._flying.clear()
        self._count(lost=len(self._answering))
        self._answering.clear()

    def _on_published(self, client: Any, mid: int) -> None:
        if client is not self._client:
            return
        if mid in self._answering:
            self._answering.remove(mid)
            self._count(sent=1)
        elif mid in self._flying:
            self._acked.append(self._flying.pop(mid))

    def _on_message(self, client: Any, message: tuple[str, bytes]) -> None:
        topic, payload = message
        if topic == BIRTH:
            if payload == b"online":
                self._topics.renew()
        elif client is self._client:
            for old in self._topics.outdated(topic, payload):
                client.publish(old, b"", qos=0, retain=True)

    def _count(self, *, sent: int = 0, lost: int = 0) -> None:
        with self._lock:
            self._sent += sent
            self._lost += lost

    # The connection's thread, and paho's.

    def _keep_connected(self) -> None:
        """One paho client per connection, so that nothing of an old one is sent twice by paho itself."""
        failures, told = 0, False
        while not self._stopping.is_set() and not self._leaving.is_set():
            self._gone, why, start = threading.Event(), [""], time.perf_counter()
            client = self._new_client(self._gone, why)
            try:
                client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            except (OSError, ValueError) as e:
                why[0] = getattr(e, "strerror", None) or str(e)
                if isinstance(e, ssl.SSLCertVerificationError):
                    why[0] = f"its certificate is not trusted ({e.verify_message}). {TRUST}"
            else:
                client.loop_start()
                self._gone.wait()
                client.loop_stop()
            self._post("lost", client)
            lasted = time.perf_counter() - start > LASTED_S
            if not self._stopping.is_set() and not self._leaving.is_set():
                if lasted or not told:
                    self._say(
                        f"{self._broker.name}: {why[0] or 'connection lost'}; records wait, trying again"
                    )
                told, failures = True, 0 if lasted else failures + 1
                if self._last_chance.wait(pause_s(failures, longest_s=LONGEST_PAUSE_S)):
                    self._stopping.wait(LAST_PAUSE_S)

    def _new_client(self, gone: threading.Event, why: list[str]) -> Any:
        paho, broker = self._paho, self._broker
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=self._id, reconnect_on_failure=False)
        client.username_pw_set(broker.user, broker.password)
        client.will_set(self._topics.available, "offline", qos=1, retain=True)
        if self._tls:
            client.tls_set_context(self._tls)

        def on_connect(c: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            if reason.is_failure:
                why[0] = f"refused ({reason}). Check user and password"
            else:
                self._post("connected", c)

        def on_disconnect(c: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            gone.set()

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_publish = lambda c, data, mid, reason, properties: self._post("published", c, mid)
        client.on_message = lambda c, data, m: self._post("message", c, (m.topic, m.payload))
        return client

    def _post(self, what: str, client: Any, value: Any = None) -> None:
        self._news.append((what, client, value))
        self._wake.set()


class _Topics:
    """The retained topics: what each should say, and which of them the broker has not been told."""

    def __init__(self, broker: Broker, setup: Setup) -> None:
        self.available = f"{broker.base}/available"
        self._camera = f"{broker.base}/camera"
        self._base = broker.base
        self._names = {label: own_name(label) for label in setup.labels}
        self._open: dict[str, str] = {}  # event id -> label
        self._lock = threading.RLock()
        self._wanted: dict[str, str] = {}
        nodes = dict.fromkeys(f"edgepv_{name(broker.base)}" for name in (own_name, plain_name))
        self.announced = tuple(f"{PREFIX}/+/{node}/+/config" for node in nodes)
        if broker.discovery:
            self._wanted |= discovery(broker.base, setup.camera, self._names)
            if not setup.labels:
                setup.say(
                    f"{broker.name}: discovery announces the labels of rules, and there is none: give --rules"
                )
        self._wanted |= {self.available: "online", self._camera: "online"}
        self._wanted |= {self._topic(label): "OFF" for label in self._names}
        self._label: str | None = None
        self._dirty = dict.fromkeys(self._wanted)

    def see(self, record: Record) -> None:
        """Note what an answer or an event changes."""
        with self._lock:
            if record["type"] == "answer":
                self._answer(record)
            elif record["type"] in ("new", "update", "end"):
                self._event(record["type"], record["after"])
            elif record["type"] == "status" and record["what"] in CAMERA:
                self._want(self._camera, CAMERA[record["what"]])

    def renew(self) -> None:
        """Tell everything again."""
        with self._lock:
            self._dirty = dict.fromkeys(self._wanted)

    def changed(self) -> list[tuple[str, str]]:
        """(topic, payload) of what is to be told now; it counts as told."""
        with self._lock:
            out = [(topic, self._wanted[topic]) for topic in self._dirty]
            self._dirty.clear()
            return out

    def outdated(self, topic: str, payload: bytes) -> list[str]:
        """The retained topics to be emptied, if an earlier run of ours announced this configuration."""
        with self._lock:
            if topic in self._wanted:
                return []
        try:
            config = json.loads(payload)
            told = [config.get("availability_topic"), *(a["topic"] for a in config.get("availability", ()))]
            ours = self.available in told and config["device"]["manufacturer"] == MAKER
            state = config["state_topic"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []
        if not ours:
            return []
        with self._lock:
            known = not isinstance(state, str) or state in self._wanted
        return [topic] if known or not state.startswith(f"{self._base}/") else [topic, state]

    def _answer(self, record: Record) -> None:
        label = record.get("label")
        if label is not None and record["valid"] and not record["stale"] and label != self._label:
            self._label = label
            state = {"label": label, "score": record["score"]}
            self._want(f"{self._base}/state", as_json(state))

    def _event(self, kind: str, after: dict[str, Any]) -> None:
        before = self._open.pop(after["id"], None)
        if kind != "end":
            self._open[after["id"]] = after["label"]
        for label in (before, after["label"]):
            if label is not None:
                self._want(self._topic(label), "ON" if label in self._open.values() else "OFF")

    def _want(self, topic: str, payload: str) -> None:
        with self._lock:
            if self._wanted.get(topic) != payload:
                self._wanted[topic] = payload
                self._dirty[topic] = None

    def _topic(self, label: str) -> str:
        return f"{self._base}/{own_name(label)}/state"


def discovery(base: str, camera: str, names: dict[str, str]) -> dict[str, str]:
    """topic -> retained configuration of one Home Assistant binary_sensor per label.

    Source: Home Assistant, MQTT integration, "Discovery messages" and "MQTT binary sensor".
    """
    node = "edgepv_" + own_name(base)
    device = {
        "identifiers": [node],
        "name": camera,
        "manufacturer": MAKER,
        "sw_version": version("edgepv"),
    }
    configs = {}
    for label, name in names.items():
        config = {
            "name": label,
            "unique_id": f"{node}.{name}",  # with a sign that neither has, so that no two pairs make one
            "state_topic": f"{base}/{name}/state",
            "payload_on": "ON",
            "payload_off": "OFF",
            "availability_mode": "all",  # a camera that is lost sees nothing, which is not OFF
            "availability": [
                {
                    "topic": f"{base}/{topic}",
                    "payload_available": "online",
                    "payload_not_available": "offline",
                }
                for topic in ("available", "camera")
            ],
            "device": device,
            "origin": {"name": MAKER, "sw_version": version("edgepv")},
        }
        configs[f"{PREFIX}/binary_sensor/{node}/{name}/config"] = json.dumps(config)
    return configs


def open_mqtt(url: str, setup: Setup) -> Mqtt:
    """Open the broker of ``url``; it need not be there yet."""
    need("paho.mqtt.client", extra="live")
    broker = parse_broker(url)
    name = f"{plain_name(setup.camera)}-{digest(broker.name)[:16]}.sqlite"
    return Mqtt(broker, setup, Spool(setup.spool_folder / name, say=setup.say))

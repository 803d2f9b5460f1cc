"""The published JSON Schemas are those of the types, and say yes and no where ``decode`` does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib
from null_bundle import write_null_bundle
from support import ROOT

from edgepv.bundle.schemas import published, text
from edgepv.errors import UsageError
from edgepv.runtimes.deadline import Reply
from edgepv.runtimes.events.rules import LiveConfig, Rule, Rules
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.output import NO_RULES, Output
from edgepv.runtimes.record import Record
from edgepv.runtimes.records import RECORDS
from edgepv.runtimes.sinks import as_json
from edgepv.runtimes.sinks.spool import DURABLE, item
from edgepv.types import Measurement, ModelSpec, Report, TensorSpec, decode, encode
from edgepv.types.schema import json_schema

SPEC = ModelSpec("m", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b"), fps=Fraction(30000, 1001))
KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
WORDS = {
    "$ref",
    "$schema",
    "$defs",
    "title",
    "description",
    "deprecated",
    "anyOf",
    "enum",
    "const",
    "type",
    "pattern",
    "items",
}
WORDS |= {"prefixItems", "minItems", "maxItems", "properties", "required", "additionalProperties"}


def fits(data: Any, schema: dict[str, Any], top: dict[str, Any]) -> bool:
    """Whether data is what a schema describes: the words of JSON Schema that ours use, no others."""
    assert set(schema) <= WORDS, set(schema) - WORDS
    if "$ref" in schema:
        return fits(data, top["$defs"][schema["$ref"].rpartition("/")[2]], top)
    if "anyOf" in schema:
        return any(fits(data, one, top) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return data in schema.get("enum", [schema.get("const")])
    kinds = schema.get("type", [])
    if kinds and not any(_is(data, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if isinstance(data, str):
        return re.search(schema.get("pattern", ""), data) is not None
    return _list_fits(data, schema, top) if isinstance(data, list) else _object_fits(data, schema, top)


def _is(data: Any, kind: str) -> bool:
    right: bool = isinstance(data, KINDS[kind])
    return right and (kind == "boolean" or not isinstance(data, bool))


def _list_fits(data: list[Any], schema: dict[str, Any], top: dict[str, Any]) -> bool:
    first = schema.get("prefixItems", [])
    each = [*first, *[schema.get("items", {})] * (len(data) - len(first))]
    few = schema.get("minItems", 0) <= len(data) <= schema.get("maxItems", len(data))
    return few and all(fits(v, s, top) for v, s in zip(data, each))


def _object_fits(data: Any, schema: dict[str, Any], top: dict[str, Any]) -> bool:
    if not isinstance(data, dict):
        return True
    own, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
    if not set(schema.get("required", [])) <= set(data) or (rest is False and not set(data) <= set(own)):
        return False
    return all(fits(v, own.get(k, rest), top) for k, v in data.items())


def stored(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "schema" / name).read_text())
    return found


@pytest.mark.parametrize("name", published())
def test_the_published_schemas_are_current(name: str) -> None:
    cure = "write them: python -m edgepv.bundle.schemas docs/schema"
    assert (ROOT / "docs" / "schema" / name).read_text() == text(published()[name]), cure


def test_a_real_manifest_fits(tmp_path: Path) -> None:
    data = json.loads((write_null_bundle(tmp_path / "b") / "manifest.json").read_text())
    schema = stored("manifest.json")
    assert fits(data, schema, schema)
    assert not fits({**data, "schema": 2}, schema, schema)
    data["content"]["variants"][0]["engin"] = "x"
    assert not fits(data, schema, schema)


def test_a_real_report_fits() -> None:
    data, schema = json.loads((ROOT / "docs" / "demo-report.json").read_text()), stored("report.json")
    assert len(decode(Report, data).rows) > 2 and fits(data, schema, schema)
    del data["rows"][0]["variant"]
    assert not fits(data, schema, schema)


def heard(spec: ModelSpec, answers: list[Answer | None], rules: Rules = NO_RULES.rules) -> list[Record]:
    """The records of a run, as they are on the wire."""
    lines: list[Record] = []

    class Ear:
        pixels = False

        def put(self, record: Record, frame: np.ndarray | None = None) -> None:
            lines.append(json.loads(item(record).body if record["type"] in DURABLE else as_json(record)))

        def counts(self) -> dict[str, int]:
            return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

        def close(self) -> None:
            raise ValueError("one fault for the summary")

    output = Output("cam", spec, [Ear()], LiveConfig("", rules), None, whole=True)
    output.counts["replies_dropped"] = 1
    for n, one in enumerate(answers):
        output.reply(Reply(n, n / 10, one, one is None, "" if one else "dropped", 5.0, 5.0, 1.0, "null"))
    output.status("camera_lost", "no route to host")
    output.close()
    return [*lines, json.loads(as_json(output.summary()))]


def test_real_records_fit_and_their_keys_are_all_known() -> None:
    """Beside those of the schema a summary has counts: of each status, and of stale replies by reason."""
    schema, points = stored("record.json"), np.array([[0.5, 0.5, 1.0]], np.float32)
    tracker = replace(SPEC, task="tracking", labels=(), outputs=(TensorSpec("tracks", (1, 1, 3), "NKC"),))
    scores = Answer(0, "a", 0.9, (0.9, 0.1), True, 1.0, 2.0)
    tracks = Answer(0, None, None, (), True, 1.0, 2.0, outputs={"tracks": points})
    particles = replace(scores, outputs={"particles": np.ones((1, 7), np.float32)})
    records = heard(SPEC, [None, scores, scores, particles], Rules((Rule("a", 0.8),)))
    records += heard(tracker, [None, tracks])
    assert {r["type"] for r in records} == {"answer", "new", "end", "status", "summary"}
    for record in records:
        name = {"new": "Event", "end": "Event"}.get(record["type"], record["type"].capitalize()) + "Record"
        own = schema["$defs"][name]
        assert fits(record, own, schema) and fits(record, schema, schema), record
        more = set(record) - set(own["properties"])
        assert not more if name != "SummaryRecord" else more <= {"camera_lost", "stale_dropped"}
        for key in own["required"]:
            assert not fits({k: v for k, v in record.items() if k != key}, own, schema)
    assert {r["version"] for r in records} == {RECORDS}


def test_a_spec_as_a_user_writes_it_fits() -> None:
    schema = stored("spec.json")
    assert fits(tomllib.loads((ROOT / "examples" / "spec.toml").read_text()), schema, schema)
    assert fits(json.loads(json.dumps(encode(SPEC))), schema, schema)


@pytest.mark.parametrize(
    "change",
    [
        {"lables": ["a"]},
        {"fps": "ten"},
        {"fps": "1/0"},
        {"fps": None},
        {"frames": "16"},
        {"frames": True},
        {"labels": "ab"},
        {"colour": "gray"},
        {"input": {"name": "x"}},
        {"mean": [0.1, None, 0.1]},
    ],
)
def test_what_decode_refuses_does_not_fit_either(change: dict[str, Any]) -> None:
    schema, data = stored("spec.json"), json.loads(json.dumps(encode(SPEC) | change))
    with pytest.raises(UsageError):
        decode(ModelSpec, data)
    assert not fits(data, schema, schema)


def test_a_retired_key_still_fits_and_is_called_deprecated() -> None:
    schema = json_schema(Measurement, "a row")
    row = json.loads(json.dumps(encode(Measurement("v", "cpu", "onnxruntime", "fp32", "step", "ok"))))
    assert fits(row | {"misses": None}, schema, schema)
    assert schema["$defs"]["Measurement"]["properties"]["misses"] == {"deprecated": True}

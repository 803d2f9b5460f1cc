"""The JSON Schemas that edgepv publishes, in docs/schema: of the manifest, a spec, a report and the records.

``python -m edgepv.bundle.schemas docs/schema`` writes them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from edgepv.bundle.manifest import SCHEMA, Content, Measured
from edgepv.runtimes.record import AnyRecord, KeptRecord
from edgepv.types import BenchResult, ModelSpec, Report
from edgepv.types.schema import Schema, json_schema


@dataclass(frozen=True)
class Manifest:
    """manifest.json as it lies in a bundle. digest: SHA-256 of ``content`` in canonical JSON."""

    schema: int
    digest: str
    content: Content
    measured: Measured


def published() -> dict[str, Schema]:
    """File name -> schema: manifest.json, the spec of a model (as TOML or JSON), measured.json, a record."""
    manifest = json_schema(Manifest, "manifest.json of an edgepv bundle")
    manifest["$defs"]["Manifest"]["properties"]["schema"] = {"const": SCHEMA}
    return {
        "manifest.json": manifest,
        "spec.json": json_schema(ModelSpec, "the spec of a model, edgepv export --spec"),
        "record.json": json_schema(AnyRecord, "one record of edgepv run"),
        "kept.json": json_schema(KeptRecord, "what lies beside a clip that edgepv run kept"),
        "report.json": json_schema(Report, "measured.json of an edgepv bundle, edgepv report --json"),
        "bench.json": json_schema(BenchResult, "a result of edgepv bench --json"),
    }


def text(schema: Schema) -> str:
    """A schema as it lies in its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main(folder: Path) -> None:
    """Write every schema into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in published().items():
        (folder / name).write_text(text(schema))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

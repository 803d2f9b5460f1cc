#!/bin/sh
# The main job on real video: export for three targets, run one bundle on a clip, put all side by side.
# Usage: demo.sh OUT   (make demo calls it with the virtual environment on PATH)
set -eu
out=${1:-demo}
clip=${CLIP:-$(python -c 'import edgepv.zoo; print(edgepv.zoo.DEMO_CLIP)')}
started=$(date +%s)

edgepv export --target cpu,mobile,jetson --out "$out/bundles" --force
for target in cpu mobile; do
    edgepv verify "$out/bundles/$target"
done
edgepv run "$out/bundles/cpu" --source "$clip" --video "$out/annotated.mp4" > "$out/events.jsonl"
tail -n 1 "$out/events.jsonl"
edgepv report "$out/bundles" --html "$out/report.html"
python - "$out" <<'DRAW'
import sys
from pathlib import Path

from edgepv import report

folder = Path(sys.argv[1])
(folder / "report.svg").write_text(report.picture_of_scatter(report.load(folder / "report.json").report))
DRAW

echo
echo "demo finished in $(($(date +%s) - started)) s"
echo "bundles:  $out/bundles/cpu  $out/bundles/mobile  $out/bundles/jetson  (and a .zip of each)"
echo "video:    $out/annotated.mp4"
echo "report:   $out/report.html  (the picture of the README: $out/report.svg)"

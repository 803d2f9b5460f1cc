#!/bin/sh
# The second demo: persons who enter a zone, by a detector in INT8, on the video that comes with edgepv.
# Usage: demo_zones.sh OUT   (make demo-zones calls it with the virtual environment on PATH)
set -eu
out=${1:-demo}/zones
zoo=$(python -c 'import edgepv.zoo; print(edgepv.zoo.HERE)')
mkdir -p "$out/clips/calibration" "$out/clips/evaluation"
cp "$zoo"/clips/calibration/*/*.mp4 "$out/clips/calibration"
cp "$zoo"/clips/evaluation/no_fight/fs_nofi00*.mp4 "$out/clips/evaluation"

edgepv export person-detector --target cpu --precision int8 --clips "$out/clips" --out "$out/bundle" --force
edgepv run "$out/bundle" --source examples/video/persons.mp4 --rules examples/person-zone.toml \
    --video "$out/persons.mp4" > "$out/records.jsonl"
python benchmarks/demo_zones.py "$out"

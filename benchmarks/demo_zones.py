"""What came of demo_zones.sh: its events, a line each, and one picture of its video, into its folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2

AT_S = 22.0
"""Somebody is at the table."""


def main(folder: Path) -> None:
    for line in (folder / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "what" in record:
            event = record["after"]
            at_s = event["start_time"] if record["type"] == "new" else event["end_time"]
            where = event.get("zone") or f"{event['line']} {event['direction']}"
            shown = f"{at_s:5.1f} s" if at_s is not None else "       "
            print(f"{shown}  person {event['track']} {record['what']:7} {where}, count {event['count']}")
    film = cv2.VideoCapture(str(folder / "persons.mp4"))
    film.set(cv2.CAP_PROP_POS_MSEC, 1e3 * AT_S)
    cv2.imwrite(str(folder / "person-zone.jpg"), film.read()[1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    print(f"video: {folder / 'persons.mp4'}   picture: {folder / 'person-zone.jpg'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The one door to heavy libraries."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from edgepv.base.optional import need

HALF = """
import time
spec, __spec__ = __spec__, None  # as cv2 is while it imports itself a second time
time.sleep(0.3)
__spec__ = spec
whole = True
"""


def test_threads_that_need_one_library_at_once_all_get_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_twice.py").write_text(HALF)
    monkeypatch.syspath_prepend(tmp_path)
    got: list[object] = []

    def ask() -> None:
        try:
            got.append(need("imported_twice", extra="cpu").whole)
        except Exception as e:
            got.append(e)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.modules.pop("imported_twice")
    assert got == [True] * 4

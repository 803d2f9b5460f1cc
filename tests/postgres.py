"""A PostgreSQL server of a test's own: its files and its socket in one folder, no port, gone at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda programs: int(programs.parent.name))
"""Where Debian keeps the programs of each version; they are not on its PATH."""
PG_CTL = shutil.which("pg_ctl", path=os.pathsep.join([os.environ["PATH"], *map(str, DEBIAN[-1:])]))
"""Makes, starts and stops a server."""
USER = "postgres" if os.getuid() == 0 else None
"""PostgreSQL does not run as root; Debian's package makes this user."""


class Server:
    """One that is running. url: of its empty database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"postgresql://edgepv@/postgres?host={folder}"
        self._pg_ctl("initdb", "-o", "--auth=trust --username=edgepv --no-sync")
        self.start()

    def start(self) -> None:
        """Without fsync: nothing in it has to outlive the test."""
        socket = f"-c listen_addresses= -c unix_socket_directories={self.folder}"
        self._pg_ctl("start", "--wait", "-o", f"{socket} -c fsync=off", "-l", str(self.folder / "log"))

    def stop(self) -> None:
        """At once, with every connection."""
        self._pg_ctl("stop", "--mode=immediate")

    def _pg_ctl(self, *arguments: str) -> None:
        command = [str(PG_CTL), *arguments, "-D", str(self.folder / "data")]
        subprocess.run(command, user=USER, cwd="/", stdout=subprocess.DEVNULL, check=True, timeout=60)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="edgepv-postgres-"))  # pytest's folders are closed to other users
    try:
        if USER:
            shutil.chown(folder, USER)
        running = Server(folder)
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder)

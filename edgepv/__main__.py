"""``python -m edgepv``: the command line where no ``edgepv`` is on the PATH."""

from __future__ import annotations

import sys

from edgepv.cli.app import main

sys.exit(main())

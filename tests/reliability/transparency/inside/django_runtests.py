"""Django's own `tests/runtests.py`, with what the harness adds: run in its folder, with its arguments."""

from __future__ import annotations

import os
import runpy
import sys

import obskit_recorder

if __name__ == "__main__":
    obskit_recorder.watch_unittest()
    sys.path.insert(0, os.getcwd())
    sys.argv[0] = "runtests.py"
    runpy.run_path("runtests.py", run_name="__main__")

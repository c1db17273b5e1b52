"""How slow this machine is beside the one on which the bars in seconds were set.

A bar in seconds says as much of the machine as of the program: the same commit was ready in 126 s on one
machine and in 246 s on another of the same kind, whose matrix product, imports and plain Python were all half
as fast. So those bars grow with the time that a fresh process takes to bring the trainer, and never shrink.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = "from training.core.run import algorithm; algorithm('ppo')"
SECONDS = 3.0
"""Of that work on the machine of the bars: AMD EPYC, two quiet cores, 2026-11-24."""
MOST = 3.0
"""A machine slower than this is not one that the bars can be asked of."""


def slowness() -> float:
    """From 1 to MOST: the best of three, so that what else runs for a moment does not count."""
    return round(min(max(1.0, min(_seconds() for _ in range(3)) / SECONDS), MOST), 2)


def _seconds() -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", WORK], cwd=ROOT, check=True)
    return time.monotonic() - begin

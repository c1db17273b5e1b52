"""Settings of a worker process in tests: those of the tests, and what WORKER_SETTINGS (JSON) changes."""

import json
import os
from pathlib import Path

from tests.settings import *  # noqa: F403

changed = json.loads(os.environ["WORKER_SETTINGS"])
changed["ARTIFACT_ROOT"] = Path(changed["ARTIFACT_ROOT"])
globals().update(changed)

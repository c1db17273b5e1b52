"""The product's own settings with secrets, folders and a database that belong to this test process alone."""

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

SCRATCH = Path(tempfile.mkdtemp(prefix="rlhf-app-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

os.environ["RLHF_ENV"] = "development"
os.environ["SECRET_KEY"] = secrets.token_urlsafe(64)
os.environ["ARTIFACT_ROOT"] = str(SCRATCH / "artifacts")
os.environ["REDIS_URL"] = "redis://127.0.0.1:1/0"  # nobody answers: a test that needs a broker starts one
os.environ.setdefault("DATABASE_URL", f"sqlite:///{SCRATCH}/db.sqlite3")

from rlhf_app.settings import *  # noqa: E402, F403
from rlhf_app.settings import DATABASES  # noqa: E402

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the real one takes 0.2 s on purpose
if DATABASES["default"]["ENGINE"].endswith("sqlite"):
    # A file, not memory: several connections then queue for the write lock as they do in production.
    DATABASES["default"]["TEST"] = {"NAME": str(SCRATCH / "test.sqlite3")}

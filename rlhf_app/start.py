"""What `./run` hands over to: the launcher, and a word for a Ctrl-C while the project is being imported.

Run as a file, so that nothing of the project is imported before the first lines below.
"""

from __future__ import annotations

import sys

sys.path[0] = sys.path[0].rpartition("/")[0]  # else this folder's http.py would stand before Python's own

import os  # noqa: E402
import signal  # noqa: E402
from typing import NoReturn  # noqa: E402


def stop(number: int, frame: object) -> NoReturn:
    """Nothing has been started yet, so there is nothing to tidy up."""
    os.write(2, b"\nStopped.\n")
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    from rlhf_app.launcher import main

    sys.exit(main(sys.argv[1:]))

"""Run a command that cannot outlive its parent: `python child.py COMMAND ARGUMENT ...` becomes that command.

Linux only: the kernel kills the process when its parent dies, however it dies. Elsewhere it is a plain exec,
and only an orderly stop ends the children. Imports nothing of the project: it starts before all of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT = "RLHF_PARENT_PID"
"""The process that the next wrapped command must find as its parent."""


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2) with one argument; nothing on other systems. Raises OSError."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent(parent: int) -> None:
    """From now on this process gets SIGKILL when `parent` ends; at once if it has ended already."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_with_parent(int(os.environ.get(PARENT, os.getppid())))
    os.environ[PARENT] = str(os.getpid())
    os.execvp(sys.argv[1], sys.argv[1:])

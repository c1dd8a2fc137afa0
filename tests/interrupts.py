"""Ctrl-C as a terminal sends it: to a program and to all that it started."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence


def interrupt(command: Sequence[str], began: Callable[[], object], **options) -> tuple[int, str]:
    """Start a command, send Ctrl-C when `began` says that it is at work; its exit status, and what it said on stderr."""
    hears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # programs started in the background ignore it, and what they start
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=hears, **pipes, **options)
    while process.poll() is None and not began():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said

"""Commands that stop themselves at seams, so that others can do something there."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import Callable


def run_stopped(
    line: list[str], stops: dict[str, int], meanwhile: Callable[[], None], limit: int
) -> tuple[int, bytes, bytes]:
    """Runs a command that stops the n-th time that it passes a seam, does `meanwhile` each time that it is stopped, and gives
    its exit code and what it said. One that takes more than `limit` seconds is killed."""
    armed = [f"{seam}={f'{nth - 1}*off->' if nth > 1 else ''}1*return(stop)" for seam, nth in stops.items()]
    environment = os.environ | {"FAILPOINTS": ";".join(armed), "RUST_BACKTRACE": "0"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(line, env=environment, stdout=out, stderr=err)
        signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(limit)
        while os.WIFSTOPPED(status := os.waitpid(process.pid, os.WUNTRACED)[1]):
            meanwhile()
            process.send_signal(signal.SIGCONT)
        signal.alarm(0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        return process.returncode, out.read(), err.read()

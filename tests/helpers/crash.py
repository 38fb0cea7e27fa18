"""Run a few lines in a process of their own and let a named fault point end it as kill -9 would."""

import os
import signal
import subprocess
import sys


def run_until(fault: str, lines: str, *argv: str) -> str:
    """Run *lines* with *fault* armed; return what they printed before they died there."""
    done = _run(fault, lines, argv)
    assert done.returncode == -signal.SIGKILL, f"{fault} was not reached: {done.returncode}\n{done.stderr}"
    return done.stdout


def run_through(lines: str, *argv: str) -> str:
    done = _run("", lines, argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(fault: str, lines: str, argv: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "SWITCHBOARD_FAULT"}
    if fault:
        env["SWITCHBOARD_FAULT"] = fault
    return subprocess.run([sys.executable, "-c", lines, *argv], env=env, capture_output=True, text=True, timeout=60)

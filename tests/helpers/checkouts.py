"""Real checkouts, made with the real git."""

import os
import subprocess
from pathlib import Path


def git(root: Path, *argv: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-c", "user.name=ana", "-c", "user.email=ana@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run([*command, *argv], cwd=root, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="surrogateescape").strip()


def checkout(root: Path, files: dict[str, str | bytes] | None = None) -> str:
    """Make *root* a checkout with one commit of *files*; return the commit."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q", "-b", "main")
    write(root, files if files is not None else {"a.txt": "one\n"})
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "first")
    return git(root, "rev-parse", "HEAD")


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

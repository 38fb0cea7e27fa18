"""The scripted model as a process, and the environment in which the real claude works against it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = Path(__file__).parents[1] / "scripted_models" / "anthropic.py"


def script(*turns: list[dict[str, Any]]) -> str:
    """A prompt that makes the model say *turns*, one list of blocks each, then "done"."""
    return f"@@{json.dumps(list(turns))}@@"


def nested(*turns: list[dict[str, Any]]) -> str:
    """The same for a prompt that stands inside a script: a subagent's."""
    return f"%%{json.dumps(list(turns))}%%"


@dataclass(frozen=True)
class ScriptedModel:
    base_url: str
    log: Path

    def requests(self, session: str | None = None) -> list[dict[str, Any]]:
        """What it was asked so far, of one session or of all; a last line half written is left out."""
        lines = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        asked = [entry for entry in map(json.loads, lines) if "reply" in entry]
        if session is None:
            return asked
        return [entry for entry in asked if entry["hdr"].get("X-Claude-Code-Session-Id") == session]

    def claude_env(self, config_dir: Path) -> dict[str, str]:
        """The entries that send claude here, with its own settings and transcripts in *config_dir*."""
        return {
            "ANTHROPIC_BASE_URL": self.base_url,
            "ANTHROPIC_API_KEY": "dummy-key",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CONFIG_DIR": str(config_dir),
        }


def clean_environment(entries: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without anything that steers or signs in a claude, and *entries*."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLAUDE", "ANTHROPIC", "SWITCHBOARD"))}
    return {**kept, **entries}


@contextlib.contextmanager
def scripted_model() -> Iterator[ScriptedModel]:
    with tempfile.TemporaryDirectory(prefix="model") as folder:
        log = Path(folder) / "log"
        log.touch()
        argv = [sys.executable, str(SERVER), "0", str(log)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                port = server.stdout.readline().strip()
                assert port, "the scripted model did not start"
                yield ScriptedModel(f"http://127.0.0.1:{port}", log)
            finally:
                server.terminate()

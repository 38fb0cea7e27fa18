"""Claude Code, driven by its own SDK over stdio: every question it asks goes to *ask*, and only an answer lets it act."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.agents import claude_found
from daemon.agents.claude_modes import NOT_GATED
from daemon.agents.claude_session import ClaudeSession
from daemon.agents.driver import AgentUnusable, Ask, Found, Session, Spec
from daemon.domain.agent import Capabilities


class ClaudeCode:
    """The driver. *program* is the one that the settings name, *env* the whole environment of the agent (else the
    daemon's own)."""

    name = "claude"
    capabilities = Capabilities(
        edits_input=True,
        denies_with_message=True,
        diff_before_decision=True,
        live_output=True,
        resumes=True,
        modes=frozenset({"plan"}),
        not_gated=NOT_GATED,
    )

    def __init__(self, program: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._program = program
        given = os.environ if env is None else env
        # What an outer session or the daemon was told is none of the agent's business.
        self._env = {k: v for k, v in given.items() if k != "CLAUDECODE" and not k.startswith("SWITCHBOARD_")}
        self._versions: dict[tuple[Any, ...], claude_found.Version] = {}

    async def find(self) -> Found:
        path = claude_found.locate(self._program, self._env)
        version = await self._version(path)
        if path is None or version.problem:
            return Found(self.name, version.text, path, problem=version.problem)
        signed_in = await claude_found.signed_in(path, self._env)
        return Found(self.name, version.text, path, signed_in, "" if signed_in else claude_found.NOT_SIGNED_IN)

    async def start(self, spec: Spec, ask: Ask) -> Session:
        if spec.mode and spec.mode not in self.capabilities.modes:
            raise AgentUnusable(f"the mode {spec.mode} cannot be enforced with Claude Code")
        if not spec.cwd.is_dir():
            raise AgentUnusable(f"there is no folder {spec.cwd}")
        version = await self._version(claude_found.locate(self._program, self._env))
        if version.problem:
            raise AgentUnusable(version.problem)
        session = ClaudeSession(spec, ask, self._env)
        await session.open()
        return session

    async def _version(self, path: Path | None) -> claude_found.Version:
        try:
            status = await asyncio.to_thread(path.stat) if path is not None else None
        except OSError:
            status = None
        key = (path, status and (status.st_ino, status.st_size, status.st_mtime_ns))
        version = self._versions.get(key)
        if version is None:
            version = await claude_found.version(path, self._env)
            if not version.problem:
                self._versions = {key: version}
        return version

"""Which claude program this machine has, how old it is, and whether it is signed in; the program itself is asked."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import claude_agent_sdk

MINIMUM = (2, 0, 0)
PATIENCE_S = 30.0
NOT_SIGNED_IN = (
    "claude is not signed in on this machine: run `claude` in a terminal there and sign in, or set ANTHROPIC_API_KEY"
)


@dataclass(frozen=True, slots=True)
class Version:
    text: str = ""
    problem: str = ""


def locate(program: Path | None, env: Mapping[str, str]) -> Path | None:
    """The program that the settings name, else `claude` on PATH, else the one that came with the SDK."""
    if program is not None:
        return program
    if found := shutil.which("claude", path=env.get("PATH")):
        return Path(found)
    bundled = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    return bundled if bundled.is_file() else None


async def version(program: Path | None, env: Mapping[str, str]) -> Version:
    if program is None:
        return Version(problem="Claude Code is not installed on this machine: no `claude` on PATH")
    try:
        code, said = await _run([str(program), "--version"], env)
    except OSError as error:
        return Version(problem=f"Claude Code cannot be started: {program}: {error.strerror or error}")
    except TimeoutError:
        return Version(problem=f"Claude Code did not tell its version within {PATIENCE_S:.0f} s: {program}")
    number = re.match(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", said)
    if number is None:
        return Version(problem=f"{program} is not Claude Code: `--version` ended with code {code} and no version")
    if tuple(int(part) for part in number.groups()) < MINIMUM:
        wanted = ".".join(str(part) for part in MINIMUM)
        return Version(number[0], f"Claude Code {number[0]} is too old, {wanted} or later is needed: {program}")
    return Version(number[0])


async def signed_in(program: Path, env: Mapping[str, str]) -> bool:
    try:
        _, said = await _run([str(program), "auth", "status", "--json"], env)
        status = json.loads(said)
        return bool(status["loggedIn"])
    except (OSError, TimeoutError, ValueError, KeyError, TypeError):
        return _credentials(env)  # a claude from before `auth status`


def _credentials(env: Mapping[str, str]) -> bool:
    """What can be seen from outside. A login in the macOS keychain cannot."""
    keys = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
    clouds = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")
    if any(env.get(name) for name in keys + clouds):
        return True
    home = Path(env.get("CLAUDE_CONFIG_DIR") or Path(env.get("HOME") or Path.home()) / ".claude")
    if (home / ".credentials.json").is_file():
        return True
    try:
        return bool(json.loads((home / "settings.json").read_text()).get("apiKeyHelper"))
    except (OSError, ValueError, AttributeError):
        return False


async def _run(argv: list[str], env: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit code and output. Runs at the root, so that no checkout's settings are read."""
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=nothing,
        stdout=asyncio.subprocess.PIPE,
        stderr=nothing,
        cwd=os.sep,
        env={**env, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, out.decode("utf-8", "replace").strip()

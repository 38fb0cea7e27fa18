"""A real daemon process at a real switchboard core that runs in the test's own process."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from helpers.checkouts import checkout
from helpers.daemons import DaemonProcess, daemon_process
from helpers.eventually import eventually
from helpers.fleet import ANA, Core
from helpers.scripted import ScriptedModel, clean_environment, script

from switchboard.domain.errors import Unavailable
from switchboard.domain.run import RunState

SLOW = 60


@contextlib.asynccontextmanager
async def joined(sb: Core, root: Path, model: ScriptedModel, **env: str) -> AsyncIterator[DaemonProcess]:
    """A daemon process on a machine of its own, with a checkout, attached to *sb*."""
    checkout(root / "repo")
    token, _ = await sb.identity.invite(ANA, "mill")
    environment = clean_environment({**model.claude_env(root / "claude"), **env})
    async with daemon_process(root / "mill", environment) as daemon:
        try:
            joins = f"127.0.0.1:{sb.ports.enroll} {token} 127.0.0.1:{sb.ports.fleet}"
            await daemon.start(SWITCHBOARD_JOIN=joins)
            await attached(sb)
            yield daemon
        finally:
            print(daemon.log()[-6_000:])  # shown when the test fails


async def attached(sb: Core, there: bool = True) -> None:
    await eventually(lambda: [m.attached for m in sb.presence.machines()] == [there], SLOW)


def cut(sb: Core) -> None:
    """Break the link, as a network does."""
    for line in sb.fleet.lines:
        line.close(Unavailable("the link is cut"))


async def started(sb: Core, root: Path, *turns: list[dict[str, Any]]) -> str:
    """Start a run, and wait until its turns are over."""
    path = str(root / "repo")
    run, _ = await sb.runs.start(ANA, machine="mill", path=path, agent="claude", prompt=script(*turns))
    await state(sb, run.id, RunState.IDLE)
    return run.id


async def state(sb: Core, run: str, wanted: RunState) -> None:
    await eventually(lambda: sb.projection.run(run).state is wanted, SLOW)

"""Switchboard's own processes are closed to the others of their user."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.ups import Up

# Root reads every process by these rights; without them it is a user like any other.
LIKE_ANYBODY = ["setpriv", "--bounding-set", "-sys_ptrace,-perfmon,-sys_admin", "--"] if os.getuid() == 0 else []


def read_by_another(pid: int) -> bool:
    command = [*LIKE_ANYBODY, "cat", f"/proc/{pid}/environ"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sbs-") as folder:
        yield Path(folder) / "d"


async def test_no_other_process_of_the_user_reads_what_server_daemon_and_up_hold(data: Path) -> None:
    up = Up(data)
    up.argv = [*LIKE_ANYBODY, *up.argv]
    async with up:
        known = await up.ready()
        pids = {name: known["pids"][name] for name in ("switchboard", "daemon")} | {"up": up.process.pid}
        open_to_others = [name for name, pid in pids.items() if read_by_another(pid)]
        with subprocess.Popen([*LIKE_ANYBODY, "sleep", "1000"]) as any_other:
            can_look_at_all = read_by_another(any_other.pid)
            any_other.kill()

    assert can_look_at_all
    assert open_to_others == []

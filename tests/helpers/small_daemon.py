"""A daemon with nothing but processes, to be killed: starts one run per token, says on stdout when all of them stand, and
ends them at a line on stdin.

`python small_daemon.py MACHINE HOME PROGRAM cgroups|free asyncio|uvloop TOKEN…`; run N is called runN.
"""

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from daemon.clock import SystemClock
from daemon.process import Processes


async def main(machine: str, home: str, program: str, cgroups: str, *tokens: str) -> None:
    async with Processes(machine, Path(home), SystemClock(), cgroups=cgroups == "cgroups") as processes:
        for number, token in enumerate(tokens):
            launch = processes.launch(f"run{number}", 1, Path(program))
            await asyncio.create_subprocess_exec(launch.program, token, env={**os.environ, **launch.env})
            keeper = await processes.keeper(f"run{number}", 20)
            print(keeper.pid, flush=True)
        print("standing", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(len(tokens)):
            await processes.end(f"run{number}", grace_s=0.1)


if __name__ == "__main__":
    machine, home, program, cgroups, loop, *tokens = sys.argv[1:]
    runner = uvloop.run if loop == "uvloop" else asyncio.run
    runner(main(machine, home, program, cgroups, *tokens))

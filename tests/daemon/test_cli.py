"""`switchboard-daemon`: one sentence for whatever goes wrong, and an answer that programs can read."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.daemons import DaemonProcess
from helpers.mill import Mill
from helpers.terminal import Spoken

from daemon import door

TOKEN = f"sbj_s_{'0' * 32}"


async def test_a_daemon_that_runs_is_told_of_in_words_and_in_json(machine: Mill) -> None:
    code, said = await machine.daemon.command("status", "--json")
    found = json.loads(said)
    assert (code, found["pid"], found["attached"], found["runs"]) == (0, machine.daemon.pid, True, [])
    code, said = await machine.daemon.command("status")
    assert (code, said) == (0, f"{found['name']} ({found['machine']}), pid {machine.daemon.pid}, attached\n")
    for words in (("run",), ("join", "127.0.0.1:2", TOKEN)):
        code, said = await machine.daemon.command(*words)
        assert (code, said) == (
            1,
            f"switchboard-daemon: another daemon runs in {machine.daemon.home}: end it first, or use another --data\n",
        )
    await machine.daemon.end()
    code, said = await machine.daemon.command("join", "127.0.0.1:2", TOKEN)
    assert code == 1
    assert said.startswith(f"switchboard-daemon: this machine is {found['machine']} already")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("status",), "no daemon answers in"),
        (("stop",), "no daemon answers in"),
        (("run",), "this machine has not joined a switchboard yet"),
        (("join", "nowhere", TOKEN), "'nowhere' is not an address: say HOST:PORT"),
        (("join", "127.0.0.1:2", "sbj_cut"), "the join token is not whole"),
        (("join", "127.0.0.1:2", TOKEN), "no switchboard answers at 127.0.0.1:2"),
    ],
)
async def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    code, said = await DaemonProcess(tmp_path, os.environ).command(*words)
    assert code == 1
    assert said.startswith(f"switchboard-daemon: {sentence}")
    assert said.count("\n") == 1


async def odd(_: dict[str, Any]) -> dict[str, Any]:
    return {"of": "another age"}


async def test_a_command_that_the_daemon_does_not_do_has_failed(tmp_path: Path) -> None:
    async with door.Door(tmp_path, {}):
        for words in ("stop", "restart", "status"):
            code, said = await DaemonProcess(tmp_path, os.environ).command(words)
            assert (code, said) == (1, "switchboard-daemon: there is no such command\n")


async def test_a_fault_of_ours_is_a_sentence_and_its_story_a_file_or_in_the_log(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    async with door.Door(tmp_path, {"status": odd}):
        code, said = await DaemonProcess(tmp_path, env).command("status")
        log, sentence = said.splitlines()
        assert (code, sentence) == (1, "switchboard-daemon: a fault of ours (KeyError); its story is in the log")
        assert "KeyError: 'attached'" in json.loads(log)["exception"]

        terminal = Spoken([sys.executable, "-m", "daemon", "status", "--data", str(tmp_path)], env, terminal=True)
        assert await terminal.ended() == 1
        story = tmp_path / "state" / "switchboard" / "faults.log"
        assert terminal.said == f"switchboard-daemon: a fault of ours (KeyError); its story is in {story}\n"
        assert "KeyError: 'attached'" in story.read_text()
        terminal.close()

"""The two answers, on a real server: what is shown before, who may, and what a late voter is told."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from helpers.eventually import eventually
from helpers.fleet import Attachment, approval
from helpers.served import PASSWORDS, Served
from helpers.terminal import Spoken
from switchboard_rpc.v1 import approval_pb2, fleet_pb2

from switchboard.domain.digest import digest


async def asks(attachment: Attachment, name: str, command: str = "make", **fields: Any) -> str:
    """Have a run of ana ask; return the id of the question."""
    await attachment.run(f"r-{name}", "WAITING", waits_for=f"a-{name}")
    await attachment.told(approval=approval(f"a-{name}", f"r-{name}", command=command, **fields))
    return f"a-{name}"


async def decision(attachment: Attachment) -> approval_pb2.Decision:
    def newest() -> Any:
        return next((i.decision for i in reversed(attachment.instructions) if i.WhichOneof("kind") == "decision"), None)

    found: approval_pb2.Decision = await eventually(newest, within=30)
    return found


async def confirms(attachment: Attachment, number: int = 1, application: str = "APPLIED", **what: Any) -> None:
    """Send the machine's receipt for the *number*th decision, once that has come."""

    def decisions() -> list[fleet_pb2.Instruction]:
        return [i for i in attachment.instructions if i.WhichOneof("kind") == "decision"]

    await eventually(lambda: len(decisions()) >= number, within=30)
    told = decisions()[number - 1]
    receipt = {"verdict": told.decision.verdict, "by": told.decision.by, **what}
    await attachment.told(
        decision_receipt=approval_pb2.DecisionReceipt(
            approval_id=told.decision.approval_id,
            decision_id=told.id,
            application=approval_pb2.Application.Value(f"APPLICATION_{application}"),
            **receipt,
        )
    )


async def decided(served: Served, attachment: Attachment, *words: str, by: str = "ben") -> CompletedProcess[str]:
    """Vote while the machine confirms."""
    voting = asyncio.create_task(served.cli(*words, by=by))
    await confirms(attachment)
    return await voting


async def test_what_waits_is_listed_and_shown_whole(served: Served) -> None:
    mill = await served.machine("whole-mill")
    async with mill.attached() as attachment:
        command = "echo " + "x" * 5000 + "\nrm -rf /tmp/\u202ex\x1b[2J"
        id = await asks(attachment, "whole", command, why="because", diff="-a\n+b")

        listed = await served.cli("approvals")
        assert id in listed.stdout
        [row] = [r for r in json.loads((await served.cli("approvals", "--json")).stdout)["approvals"] if r["id"] == id]
        shown = await served.cli("approval", id)
        assert shown.returncode == 0, shown.stderr
        assert "x" * 5000 in shown.stdout
        assert "rm -rf /tmp/\\u202ex\\x1b[2J" in shown.stdout
        assert row["digest"] in shown.stdout
        assert "\x1b" not in shown.stdout
        assert (await served.cli("approvals", "--run", "r-other")).stdout == "nothing waits for a decision\n"


async def test_a_reviewer_approves_and_the_machine_is_told(served: Served) -> None:
    mill = await served.machine("approve-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "yes")
        done = await decided(served, attachment, "approve", id, "--note", "looked at it")
        assert done.returncode == 0, done.stderr
        assert done.stdout.index("exactly this will run:") < done.stdout.index(f"{id} is approved; delivery: applied")
        told = await decision(attachment)
        assert (told.approval_id, told.verdict, told.by) == (id, approval_pb2.VERDICT_APPROVE, "ben")
        assert told.digest in done.stdout

        late = await served.cli("deny", id, "--reason", "no", by="ben")
        assert late.returncode == 1
        assert re.search(r"was already approved by ben at \d\d:\d\d:\d\d UTC", late.stderr)


async def test_a_denial_needs_a_reason_and_carries_it(served: Served) -> None:
    mill = await served.machine("deny-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "no")
        assert (await served.cli("deny", id, by="ben")).returncode == 2
        done = await decided(served, attachment, "deny", id, "--reason", "use staging", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["state"] == "denied"
        assert "exactly this will run:" in done.stderr
        told = await decision(attachment)
        assert (told.verdict, told.message) == (approval_pb2.VERDICT_DENY, "use staging")


async def test_an_edited_input_is_shown_beside_what_was_asked(served: Served, tmp_path: Path) -> None:
    mill = await served.machine("edit-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "edit")
        for text, sentence in (
            ("{", "is not JSON"),
            ("[1]", "is to hold one JSON object"),
            ('{"a": NaN}', "NaN is no number in JSON"),
            ('{"a": 1e999}', "is not JSON"),
            ('{"a": "\\ud800"}', "holds half of a character"),
            ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
            ('{"a": ' * 100_000, "nested too deeply"),
        ):
            (tmp_path / "input.json").write_text(text)
            refused = await served.cli("approve", id, "--input", str(tmp_path / "input.json"), by="ben")
            assert (refused.returncode, sentence in refused.stderr) == (1, True)
        missing = await served.cli("approve", id, "--input", str(tmp_path / "none.json"), by="ben")
        assert "cannot be read: No such file" in missing.stderr

        (tmp_path / "input.json").write_text('{"command": "make -n"}')
        done = await decided(served, attachment, "approve", id, "--input", str(tmp_path / "input.json"))
        assert done.returncode == 0, done.stderr
        assert '-  "command": "make"' in done.stdout
        assert '+  "command": "make -n"' in done.stdout
        told = await decision(attachment)
        assert json.loads(told.input_json) == {"command": "make -n"}
        edited = digest(run="r-edit", attempt=1, kind="tool", tool="Bash", input={"command": "make -n"}, cwd="/src")
        assert told.edited_digest == edited


async def test_a_choice_is_answered_from_a_file_and_a_bare_yes_says_how(served: Served, tmp_path: Path) -> None:
    mill = await served.machine("choice-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-choice", "WAITING", waits_for="a-choice")
        asked = approval("a-choice", "r-choice", masked=True)
        asked.kind = approval_pb2.QUESTION_KIND_CHOICE
        await attachment.told(approval=asked)
        bare = await served.cli("approve", "a-choice", by="ben")
        assert bare.returncode == 1
        assert '--input FILE, in which {"answers": {"the question": "what you choose"}} stands' in bare.stderr

        (tmp_path / "answer.json").write_text('{"answers": {"Which mill?": "small"}}')
        done = await decided(served, attachment, "approve", "a-choice", "--input", str(tmp_path / "answer.json"))
        assert done.returncode == 0, done.stderr
        assert json.loads((await decision(attachment)).input_json) == {"answers": {"Which mill?": "small"}}


async def test_an_edited_input_may_come_on_stdin(served: Served) -> None:
    mill = await served.machine("stdin-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "stdin")
        voting = asyncio.create_task(served.cli("approve", id, "--input", "-", by="ben", input='{"command": "make я"}'))
        await confirms(attachment)
        done = await voting
        assert done.returncode == 0, done.stderr
        assert json.loads((await decision(attachment)).input_json) == {"command": "make я"}


async def test_who_signs_in_needs_no_good_token(served: Served) -> None:
    mill = await served.machine("stale-mill")
    async with mill.attached() as attachment:
        for number, token in enumerate(("sbt_stale", "sbt_\n"), 1):
            id = await asks(attachment, f"stale{number}")
            named = ("--url", served.url, "--token", token)
            voting = asyncio.create_task(served.cli("approve", id, *named, by="ben"))
            await confirms(attachment, number)
            done = await voting
            assert done.returncode == 0, done.stderr
        nameless = await served.cli("approve", id, token="sbt_stale")
        assert (nameless.returncode, "this token is not known here" in nameless.stderr) == (1, True)


async def test_only_the_machines_receipt_puts_a_decision_in_force(served: Served) -> None:
    mill = await served.machine("force-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "force")
        voting = asyncio.create_task(served.cli("approve", id, by="ben"))
        await confirms(attachment, application="REFUSED", verdict="VERDICT_DENY", by="kim", reason="kim was first")
        done = await voting
        assert done.returncode == 1
        assert "what happened is another thing: deny by kim. kim was first" in done.stderr

        id = await asks(attachment, "silent")
        done = await served.cli("approve", id, by="ben")
        assert done.returncode == 3
        assert f"{id} is approved; delivery: sent" in done.stdout
        assert "has not confirmed that yet" in done.stderr


async def test_nobody_votes_who_may_not(served: Served) -> None:
    mill = await served.machine("may-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "may")
        for by, sentence in (("ana", "somebody else decides"), ("kim", "may not")):
            refused = await served.cli("approve", id, by=by)
            assert refused.returncode == 1
            assert sentence in refused.stderr
            assert refused.stderr.count("\n") == 1
        unknown = await served.cli("approve", "a-none", by="ben")
        assert (unknown.returncode, "no approval" in unknown.stderr) == (1, True)
        assert attachment.instructions == []
        assert isinstance(attachment.welcome, fleet_pb2.Welcome)


def spoken(served: Served, *words: str, token: str = "", terminal: bool = True) -> Spoken:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")}
    env |= {"SWITCHBOARD_URL": served.url, "SWITCHBOARD_TOKEN": token, "TERM": "xterm", "COLUMNS": "200", "LINES": "24"}
    return Spoken([sys.executable, "-m", "switchboard", *words], env, terminal=terminal)


async def test_the_password_is_asked_after_all_was_shown(served: Served) -> None:
    mill = await served.machine("pty-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "pty", "echo \x1b]0;title\x07")
        terminal = spoken(served, "approve", id, "--as", "ben", token=served.token("ana"))
        await terminal.says("Password of ben: ")
        assert "echo \\x1b]0;title\\x07" in terminal.said
        assert "digest    sha256:" in terminal.said
        assert attachment.instructions == []
        terminal.type(PASSWORDS["ben"] + "\n")
        await confirms(attachment)
        assert await terminal.ended() == 0
        assert PASSWORDS["ben"] not in terminal.said
        assert (await decision(attachment)).verdict == approval_pb2.VERDICT_APPROVE


@pytest.mark.parametrize("token", ["", "ben"])
async def test_where_the_token_reads_nothing_it_is_shown_before_the_yes(served: Served, token: str) -> None:
    mill = await served.machine(f"yes-mill{token}")
    async with mill.attached() as attachment:
        id = await asks(attachment, f"ask{token}")
        terminal = spoken(served, "approve", id, "--as", "ben", token=served.token(token) if token else "")
        await terminal.says("Password of ben: ")
        terminal.type(PASSWORDS["ben"] + "\n")
        await terminal.says("approve this? [y/N]")
        assert "exactly this will run:" in terminal.said
        terminal.type("n\n")
        assert await terminal.ended() == 130
        assert attachment.instructions == []


async def test_ctrl_c_at_the_password_decides_nothing(served: Served) -> None:
    mill = await served.machine("ctrlc-mill")
    async with mill.attached() as attachment:
        id = await asks(attachment, "ctrlc")
        terminal = spoken(served, "approve", id, "--as", "ben", token=served.token("ben"))
        await terminal.says("Password of ben: ")
        terminal.type("\x03")
        assert await terminal.ended() == 130
        assert "Traceback" not in terminal.said
        assert attachment.instructions == []


async def test_a_watched_list_redraws_when_something_comes(served: Served) -> None:
    mill = await served.machine("watch-mill")
    async with mill.attached() as attachment:
        terminal = spoken(served, "approvals", "--watch", token=served.token())
        await terminal.says("APPROVAL")
        await asks(attachment, "watched")
        await terminal.says("a-watched")
        runs = spoken(served, "runs", "--watch", "--machine", "watch-mill", token=served.token())
        await runs.says("r-watched")
        await attachment.run("r-watched", "RUNNING", revision=2)
        await runs.says("running")
        for each in (terminal, runs):
            each.type("\x03")
            assert await each.ended() == 130
            assert "Traceback" not in each.said


async def test_a_screen_says_how_many_runs_it_has_no_room_for(served: Served) -> None:
    mill = await served.machine("full-mill")
    async with mill.attached() as attachment:
        for number in range(60):
            await attachment.run(f"r-full{number}", "RUNNING")
        screen = spoken(served, "runs", "--watch", "--machine", "full-mill", token=served.token())
        await screen.says("38 more than fit here")
        screen.type("\x03")
        assert await screen.ended() == 130


async def test_a_watching_program_gets_every_run_and_a_line_for_each_change(served: Served) -> None:
    mill, other = await served.machine("line-mill"), await served.machine("other-mill")
    async with other.attached() as elsewhere:
        async with mill.attached() as attachment:
            for number in range(60):
                await attachment.run(f"r-line{number}", "RUNNING")
            words = ("runs", "--watch", "--json", "--machine", "line-mill")
            watching = spoken(served, *words, token=served.token(), terminal=False)

            def lines() -> list[Any]:
                said = watching.said.splitlines(keepends=True)
                return [json.loads(line)["runs"] for line in said if line.startswith("{") and line.endswith("\n")]

            await eventually(lines, within=30)
            assert len(lines()[0]) == 60
            await elsewhere.run("r-elsewhere", "RUNNING")  # has it look again, and find nothing but older rows
            await attachment.run("r-line7", "IDLE", revision=2)
            await eventually(lambda: len(lines()) > 1, within=30)
            assert {row["id"]: row["state"] for row in lines()[1]}["r-line7"] == "idle"
        await eventually(lambda: len(lines()) > 2, within=30)
        assert not any(row["reachable"] for row in lines()[2])
        watching.process.send_signal(signal.SIGINT)
        assert await watching.ended() == 130
        assert len(lines()) == 3

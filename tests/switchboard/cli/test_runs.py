"""Commands about runs, against a real server and a machine that says what a test has it say."""

import asyncio
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from helpers.eventually import eventually
from helpers.fleet import Attachment
from helpers.served import Served
from helpers.ups import cli
from switchboard_rpc.v1 import fleet_pb2

HOSTILE = "evil\x1b[2J\u202e\x07\u200b<script>alert(1)</script>[bold]x[/bold]"


def fit_for_a_terminal(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in text)


async def told(attachment: Attachment, kind: str) -> fleet_pb2.Instruction:
    """Return the newest instruction of a kind, once it is there."""

    def newest() -> Any:
        return next((i for i in reversed(attachment.instructions) if i.WhichOneof("kind") == kind), None)

    found: fleet_pb2.Instruction = await eventually(newest, within=30)
    return found


async def report(attachment: Attachment, id: str, state: str, reason: str = "") -> None:
    number = fleet_pb2.ReportState.Value(f"REPORT_STATE_{state}")
    await attachment.send(
        instruction_report=fleet_pb2.InstructionReport(instruction_id=id, state=number, reason=reason)
    )


async def rows(served: Served, *words: str) -> list[Any]:
    done = await served.cli("runs", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)["runs"]
    return found


async def test_the_list_shows_everything_about_every_active_run(served: Served) -> None:
    mill = await served.machine("list-mill")
    async with mill.attached() as attachment:
        fields = {"branch": "main", "agent_version": "2.1.330", "mode": "plan", "permission_mode": "default"}
        await attachment.run("r-list", "WAITING", not_gated=["reads files"], waits_for="a-1", **fields)
        await attachment.run("r-over", "SUCCEEDED")

        [row] = await rows(served, "--machine", "list-mill")
        assert row["id"] == "r-list"
        assert row["machine_name"] == "list-mill"
        done = await served.cli("runs", "--machine", mill.id)
        for word in (
            *("r-list", "waiting", "list-mill", "example.org/mill", "main", "claude 2.1.330", "plan/default"),
            *("reads files", "ana", "a-1", "ago"),
        ):
            assert word in done.stdout
        assert "r-over" not in done.stdout
        assert "r-over" in (await served.cli("runs", "--all", "--machine", mill.id)).stdout


async def test_the_list_is_narrowed_by_each_filter(served: Served) -> None:
    mill, barn = await served.machine("narrow-mill"), await served.machine("narrow-barn")
    async with mill.attached() as at_mill, barn.attached() as at_barn:
        await at_mill.run("r-n1", "RUNNING", repo="github.com/acme/api", owner="ana")
        await at_barn.run("r-n2", "IDLE", repo="github.com/acme/web", owner="ben", agent="codex")
        for words, expected in (
            (("--repo", "github.com/acme/api"), "r-n1"),
            (("--machine", "narrow-barn"), "r-n2"),
            (("--owner", "ben"), "r-n2"),
            (("--state", "idle", "--machine", "narrow-barn"), "r-n2"),
            (("--agent", "codex"), "r-n2"),
        ):
            assert [row["id"] for row in await rows(served, *words)] == [expected]
        assert (await served.cli("runs", "--repo", "no/such")).stdout == "no runs\n"


async def test_a_machine_that_nobody_knows_is_a_sentence(served: Served) -> None:
    done = await served.cli("runs", "--machine", "no-such\x1b[2J")
    assert done.returncode == 1
    assert done.stderr.startswith("switchboard: no machine is called no-such\\x1b[2J; known are: ")


async def test_hostile_strings_are_shown_and_not_obeyed(served: Served) -> None:
    mill = await served.machine("hostile-mill")
    async with mill.attached() as attachment, mill.uploading() as uploading:
        fields = dict.fromkeys(("path", "branch", "agent_version", "mode", "prompt", "reason", "waits_for"), HOSTILE)
        await attachment.run("r-hostile", "RUNNING", **fields, not_gated=[HOSTILE], abilities=[HOSTILE])
        await uploading.batch("r-hostile", 1, [HOSTILE, "second\r\nline\x9b31m"])
        await eventually(lambda: uploading.watermarks.get("r-hostile") == 3)
        for words in (("runs",), ("run", "show", "r-hostile"), ("run", "output", "r-hostile")):
            done = await served.cli(*words)
            assert done.returncode == 0, done.stderr
            assert fit_for_a_terminal(done.stdout)
            assert "evil\\x1b[2J\\u202e" in done.stdout
            assert "[bold]x[/bold]" in done.stdout
            assert ("its agent        evil" in done.stdout) is ("show" in words)
            asked = await served.cli(*words, "--json")
            assert asked.stdout.isascii()
        [row] = await rows(served, "--machine", "hostile-mill")
        assert row["branch"].startswith("evil")


async def test_output_is_printed_whole_and_followed_to_its_end(served: Served) -> None:
    mill = await served.machine("output-mill")
    async with mill.attached() as attachment, mill.uploading() as uploading:
        await attachment.run("r-out", "RUNNING")
        lines = [f"line {n}\n" for n in range(1, 1501)]
        await uploading.batch("r-out", 1, lines)
        await eventually(lambda: uploading.watermarks.get("r-out") == 1501)
        following = asyncio.create_task(served.cli("run", "output", "-f", "r-out"))
        printed = await served.cli("run", "output", "r-out")
        assert [line for line in printed.stdout.split("\n") if line] == [line.strip() for line in lines]
        later = await served.cli("run", "output", "--from", "1499", "r-out", "--json")
        assert [json.loads(line)["seq"] for line in later.stdout.splitlines()] == [1499, 1500]

        await uploading.batch("r-out", 1501, ["last words"])
        await eventually(lambda: uploading.watermarks.get("r-out") == 1502)
        await attachment.run("r-out", "SUCCEEDED", revision=2)
        done = await following
        assert done.returncode == 0, done.stderr
        assert done.stdout == printed.stdout + "last words\n"


async def test_followed_output_that_stays_with_an_absent_machine_is_no_success(served: Served) -> None:
    mill = await served.machine("absent-mill")
    async with mill.attached() as attachment, mill.uploading() as uploading:
        await attachment.run("r-absent", "RUNNING")
        await uploading.batch("r-absent", 1, ["one\n"])
        await eventually(lambda: uploading.watermarks.get("r-absent") == 2)
        await attachment.run("r-absent", "SUCCEEDED", revision=2, output_next=5)
    done = await served.cli("run", "output", "-f", "r-absent")

    assert (done.returncode, done.stdout) == (1, "one\n")
    assert "events 2 to 4 are still on machine absent-mill, which is away" in done.stderr


async def test_a_start_reaches_the_machine_and_its_refusal_is_one_sentence(served: Served, tmp_path: Path) -> None:
    mill = await served.machine("start-mill")
    async with mill.attached() as attachment:
        prompt = "ä" * (1 << 19)  # a MiB, which no command line could carry
        words = (
            "run",
            "start",
            "--machine",
            "start-mill",
            "--repo",
            "/src/api",
            "--mode",
            "plan",
            "--scope",
            "*.py",
            "-",
        )
        starting = asyncio.create_task(served.cli(*words, by="ana", input=prompt))
        order = await told(attachment, "start")
        assert (order.start.path, order.start.agent, order.start.mode) == ("/src/api", "claude", "plan")
        assert list(order.start.scope) == ["*.py"]
        assert order.start.prompt == prompt
        assert order.start.owner == "ana"
        reason = "a scope cannot be enforced yet\x1b"
        await attachment.run(order.start.run_id, "REFUSED", reason=reason)
        await report(attachment, order.id, "FAILED", reason)
        done = await starting
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "switchboard: a scope cannot be enforced yet\\x1b\n"

        starting = asyncio.create_task(served.cli(*words[:6], "go on", by="ana"))
        await eventually(lambda: len([i for i in attachment.instructions if i.WhichOneof("kind") == "start"]) == 2)
        order = await told(attachment, "start")
        await attachment.run(order.start.run_id, "RUNNING")
        await report(attachment, order.id, "APPLIED")
        done = await starting
        assert (done.returncode, done.stdout) == (0, order.start.run_id + "\n")


async def test_what_a_person_says_reaches_the_run(served: Served) -> None:
    mill = await served.machine("say-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-say", "IDLE")
        for words, kind in (
            (("run", "send", "r-say", "go on"), "message"),
            (("run", "interrupt", "r-say", "--reason", "wait"), "interrupt"),
            (("run", "end", "r-say"), "end"),
        ):
            saying = asyncio.create_task(served.cli(*words, by="ana"))
            order = await told(attachment, kind)
            await report(attachment, order.id, "APPLIED")
            done = await saying
            assert (done.returncode, done.stdout) == (0, "applied\n"), done.stderr

        saying = asyncio.create_task(served.cli("run", "send", "r-say", "again", by="ana"))
        await eventually(lambda: len([i for i in attachment.instructions if i.WhichOneof("kind") == "message"]) == 2)
        await report(attachment, (await told(attachment, "message")).id, "FAILED", "the agent was gone")
        done = await saying
        assert (done.returncode, done.stderr) == (1, "switchboard: the agent was gone\n")


async def test_the_diff_is_asked_of_the_machine(served: Served) -> None:
    mill = await served.machine("diff-mill")
    async with mill.attached() as attachment, mill.uploading() as uploading:
        await attachment.run("r-diff", "IDLE")
        asking = asyncio.create_task(served.cli("run", "diff", "r-diff"))
        query = await told(attachment, "query")
        patch = "@@ -1 +1 @@\n-old\n+new\x1b[31m\n"
        file = {
            "path": "a\nb.py",
            "status": "modified",
            "additions": 1,
            "deletions": 1,
            "patch": patch,
            "truncated": True,
            "note": "cut here: 9,999 more bytes",
        }
        gone = {"path": "c.bin", "old_path": "d.bin", "status": "renamed", "binary": True}
        nested = {"path": "lib/", "status": "added", "truncated": True, "note": "a repository of its own: not shown"}
        await uploading.answer(query.id, {"files": [file, gone, nested], "count": 5}, cut=50)
        done = await asking
        assert done.returncode == 0, done.stderr
        for words in (
            "modified a\\x0ab.py  +1 −1",
            "+new\\x1b[31m",
            "… cut here: 9,999 more bytes",
            "… a repository of its own: not shown",
            "d.bin → c.bin",
            "(binary)",
            "… 2 more files have changed than are shown here",
        ):
            assert words in done.stdout

        asking = asyncio.create_task(served.cli("run", "diff", "r-diff"))
        await eventually(lambda: len(attachment.instructions) == 2)
        await uploading.answer(attachment.instructions[1].id, {"files": [file], "count": 1})
        assert "more files" not in (await asking).stdout


async def test_bad_input_is_one_sentence(served: Served, tmp_path: Path) -> None:
    start = ("run", "start", "--repo", "/x")
    for words, input, code, sentence in (
        ((*start, ""), "", 1, "the prompt is empty"),
        ((*start, "-"), "x" * ((1 << 20) + 1), 1, "the prompt is too long"),
        ((*start, "-"), "x" + "я" * (1 << 20), 1, "the prompt is too long"),
        (("run", "start", "--repo", "relative", "go"), "", 1, "relative is not absolute"),
        ((*start, "--machine", "nobody", "go"), "", 1, "no machine is called nobody"),
        (("run", "show", "../people"), "", 1, "'../people' is not an id"),
        (("run", "show", ".."), "", 1, "'..' is not an id"),
        (("run", "show", "r-\x1b[2J"), "", 1, "no run 'r-\\"),
        (("run", "output", "r-none"), "", 1, "no run"),
        (("run", "stop", "r-none", "--reason", "x"), "", 1, "no run"),
        (("runs", "--state", "odd"), "", 2, "Invalid value for '--state'"),
        (("run", "start", "go"), "", 2, "Missing option '--repo'"),
        (("purge", "r-none"), "", 2, "Missing option '--reason'"),
    ):
        done = await served.cli(*words, by="ana", input=input)
        assert (done.returncode, done.stdout) == (code, ""), (words, done.stderr)
        assert sentence in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert fit_for_a_terminal(done.stderr)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("run", "start", "--repo", b"/x\xff", "go"), "--repo"),
        (("run", "start", "--repo", "/x", "--scope", "a", "--scope", b"\xff", "go"), "--scope"),
        (("run", "start", "--repo", "/x", b"go\xff"), "prompt"),
        (("run", "stop", "r-1", "--reason", b"\xff"), "--reason"),
        (("run", "send", b"r-\xff", "go"), "id"),
        (("runs", "--owner", b"\xff"), "--owner"),
        (("runs", "--as", b"\xff"), "--as"),
        (("runs", "--token", b"\xff"), "--token"),
        (("approve", "a-1", "--note", b"\xff"), "--note"),
        (("stop", "order", "--repo", b"\xff", "--reason", "x"), "--repo"),
        (("people", "invite", "mal", "--name", b"\xff"), "--name"),
        (("serve", "--person", b"\xff"), "--person"),
        (("up", "--webhook", b"\xff"), "--webhook"),
    ],
)
async def test_words_that_are_no_utf8_are_one_sentence(words: tuple[str | bytes, ...], name: str) -> None:
    done = await asyncio.create_subprocess_exec(
        *("env", "SWITCHBOARD_URL=http://127.0.0.1:1", "SWITCHBOARD_TOKEN=x", sys.executable, "-m", "switchboard"),
        *words,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"},
    )
    _, said = await done.communicate()
    assert (done.returncode, said.decode()) == (1, f"switchboard: {name} is not valid UTF-8\n")


async def test_a_prompt_comes_behind_the_password(served: Served) -> None:
    mill = await served.machine("behind-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-idle", "IDLE")
        await attachment.run("r-ended", "SUCCEEDED", session_id="s-1")
        for verb, run, text in (("send", "r-idle", "говори\nдальше"), ("resume", "r-ended", "go on")):
            saying = asyncio.create_task(served.cli("run", verb, run, "-", by="ana", input=text))
            order = await told(attachment, "message" if verb == "send" else "resume")
            assert (order.message if verb == "send" else order.resume).text == text
            await report(attachment, order.id, "APPLIED")
            done = await saying
            assert (done.returncode, done.stdout) == (0, "applied\n"), done.stderr


async def test_who_asks_is_said_when_it_is_not_known(served: Served) -> None:
    done = await served.cli("runs", token="sbt_wrong")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("switchboard: this token is not known here")
    nobody = cli("runs", env={"SWITCHBOARD_URL": served.url})
    assert nobody.returncode == 1
    assert "say who you are" in nobody.stderr
    wrong = cli("runs", "--as", "ana", "--password-stdin", input="wrong\n", env={"SWITCHBOARD_URL": served.url})
    assert (wrong.returncode, wrong.stderr) == (1, "switchboard: the name or the password is wrong\n")


async def test_a_purge_needs_a_person_and_forgets(served: Served) -> None:
    mill = await served.machine("purge-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-purge", "SUCCEEDED")
        refused = await served.cli("purge", "r-purge", "--reason", "secrets in it", by="ben")
        assert refused.returncode == 1
        done = await served.cli("purge", "r-purge", "--reason", "secrets in it", by="ana")
        assert done.returncode == 0, done.stderr
        await told(attachment, "purge")

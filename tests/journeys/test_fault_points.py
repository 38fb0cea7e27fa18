"""`kill -9` at every named boundary of journal, store and wire, judged by somebody outside: process table, files, stream, transcript."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from helpers.daemons import alive_with
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel, scripted_model
from helpers.world import SLOW, World, world

SOURCE = Path(__file__).parents[2]

# Where the process dies, and on which pass: the first ones belong to its start, before the story begins.
DAEMON = (
    "journal.run.writing:2",
    "journal.run.written:3",
    "journal.approval.writing",
    "journal.approval.written",
    "journal.decision.writing",
    "journal.decision.written",
    "journal.order.writing",
    "journal.order.written",
    "journal.receipt.writing",
    "journal.receipt.written",
    "journal.instruction.writing:2",
    "journal.instruction.written:3",
    "spool.written:2",
    "spool.dropped",
    "link.hello.sent",
    "link.instruction.taken:2",
    "link.report.sent:4",
    "process.launched",
    "process.keeper.welcomed",
    "process.signalled",
    "process.proven",
    "runner.started",
    "runner.asked",
    "runner.decided",
    "runner.answered",
    "runner.stopping:2",
    "runner.emptied",
)
SERVER = (
    "store.record.saved:6",
    "store.output.appended:2",
    "store.change.published:5",
    "store.audit.appended:2",
    "store.orderjournal.written",
    "service.run.saved",
    "service.vote.saved",
    "service.instruction.saved",
    "service.order.journaled",
    "service.order.saved",
    "rpc.welcome.sent",
    "rpc.report.stored:3",
    "rpc.report.acked:3",
    "rpc.instruction.sent",
    "rpc.batch.stored:2",
)
JOINING = {"service.machine.enrolled", "service.link.used"}
# Proven where they live, by tests that end a process there and read the disk again.
ELSEWHERE = {
    "journal.meta.writing",
    "journal.meta.written",
    "identity.key.written",
    "identity.certificate.written",
    "safety.writing",
    "safety.written",
}


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as model:
        yield model


def test_every_named_point_is_in_some_campaign() -> None:
    source = "".join(path.read_text() for part in ("daemon", "switchboard") for path in (SOURCE / part).rglob("*.py"))
    named = set(re.findall(r'faults\.point\("([^"]+)"\)', source))
    named |= {name for pair in re.findall(r'\.writing\("([^"]*)", "([^"]*)"\)', source) for name in pair if name}
    met = {name.partition(":")[0] for name in (*DAEMON, *SERVER)} | JOINING
    assert named - ELSEWHERE == met
    tests = "".join(path.read_text() for path in (SOURCE / "tests").rglob("*.py") if path != Path(__file__))
    assert [name for name in ELSEWHERE if name not in tests] == []


@pytest.mark.parametrize("fault", DAEMON)
async def test_the_daemon_dies_at(fault: str, tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        daemon = await it.machine("mill")
        await daemon.kill()
        await daemon.start(SWITCHBOARD_FAULT=fault)

        async def again() -> int:
            assert daemon.process is not None
            code = await daemon.process.wait()
            await daemon.start()
            return code

        await _story(it, again)


@pytest.mark.parametrize("fault", SERVER)
async def test_the_server_dies_at(fault: str, tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.machine("mill")
        await it.kill_server()
        await it.serve(SWITCHBOARD_FAULT=fault)

        async def again() -> int:
            assert it.process is not None
            code = await it.process.wait()
            await it.serve()
            return code

        await _story(it, again)


async def test_the_server_dies_at_a_sign_in(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.kill_server()
        await it.serve(SWITCHBOARD_FAULT="service.link.used")
        with pytest.raises(httpx.TransportError):
            await it.sign_in()
        assert it.process is not None
        assert await it.process.wait() == -signal.SIGKILL
        await it.serve()
        # That link is used up; the next one works, and so does the password that was there before.
        await it.sign_in()
        assert (await _insist(lambda: it.get("/people")))["people"][0]["id"] == it.person


async def test_the_server_dies_while_a_machine_joins(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.kill_server()
        await it.serve(SWITCHBOARD_FAULT="service.machine.enrolled")
        joining = asyncio.create_task(it.machine("mill"), name="joining")
        assert it.process is not None
        assert await asyncio.wait_for(it.process.wait(), SLOW) == -signal.SIGKILL
        await it.serve()
        # The daemon asks again with the same key, and is the same machine.
        daemon = await joining
        machines = (await it.get("/machines"))["machines"]
        assert [machine["name"] for machine in machines] == ["mill"], machines
        assert daemon.process is not None
        assert daemon.process.returncode is None


async def test_the_store_dies_while_a_question_is_open(tmp_path: Path, model: ScriptedModel) -> None:
    async with world(tmp_path, model) as it:
        await it.machine("mill")
        run = await it.start("mill", [{"tool": "Bash", "input": {"command": "echo one >> log.txt"}}])
        asked = await it.asked(run)
        store = next(p for p in psutil.process_iter() if p.ppid() == it.process.pid and "valkey" in p.name())
        store.send_signal(signal.SIGKILL)

        # The question is there again, with the same digest, and is decided once.
        again = await _insist(lambda: it.asked(run))
        assert again["digest"] == asked["digest"]
        assert (await _insist(lambda: it.vote(again, "approve"))).status_code == 200
        await _insist(lambda: it.state(run, "idle"))
        assert (it.repo("mill") / "log.txt").read_text() == "one\n"


async def _story(it: World, again: Callable[[], Awaitable[int]]) -> None:
    """A run that asks and is approved, a second one that is stopped with its escapees, and a victim that comes back somewhere between."""
    token = f"31{secrets.randbelow(10**6):06}"
    words = [f"word-{secrets.token_hex(4)}" for _ in range(3)]
    async with _reborn(again) as death:
        first = await _insist(
            lambda: it.start(
                "mill",
                [{"text": f"{words[0]}\n"}, {"tool": "Bash", "input": {"command": "echo one >> log.txt"}}],
                [{"text": f"{words[1]}\n"}],
                request_id=f"first-{token}",
            )
        )
        await _carried(it, first, f"vote-{token}")
        escape = f"(setsid sleep {token} &) ; (setsid env -i sleep {token} &) ; sh -c 'sleep {token}'"
        second = await _insist(
            lambda: it.start("mill", [{"tool": "Bash", "input": {"command": escape}}], request_id=f"second-{token}")
        )
        await _carried(it, second, f"vote2-{token}", until=lambda: len(alive_with(token)) >= 3)
        order = await _insist(lambda: it.post("/orders", **_everything(f"order-{token}")))
        await _insist(lambda: _no_longer_active(it))
        assert await asyncio.wait_for(death, SLOW) == -signal.SIGKILL, "the point was never reached"
        await _insist(lambda: _no_longer_active(it))

    assert alive_with(token) == []
    assert _marked(it.machines["mill"]) == []
    # Each line ran at most once, and is there if its machine says that the agent took the decision and went on.
    log = it.repo("mill") / "log.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    assert lines in ([], ["one"])
    text = await _insist(lambda: _said(it, first))
    assert text.count(words[0]) <= 1
    assert text.count(words[1]) <= 1
    if words[1] in text:
        assert lines == ["one"]
    for run in (first, second):
        await eventually(lambda run=run: _streamed(it, run), SLOW)  # type: ignore[misc]
    await _decided_once(it)
    rows = (await _insist(lambda: it.get(f"/orders/{order['order']['id']}")))["rows"]
    assert {row["standing"] for row in rows} <= {"ended", "refused"}
    await _audited_once(it, {first, second}, order["order"]["id"])
    # And everything works as before.
    await _lifted(it, order["order"]["id"])
    third = await _insist(lambda: it.start("mill", [{"text": f"{words[2]}\n"}], request_id=f"third-{token}"))
    await _insist(lambda: it.state(third, "idle"))
    assert (await _said(it, third)).count(words[2]) == 1


async def _said(it: World, run: str) -> str:
    return "".join(event["text"] for event in await it.output(run) if event["kind"] == "message")


def _everything(request: str) -> dict[str, Any]:
    return {"selector": {"all": True}, "reason": "a test", "hold": True, "request_id": request}


@contextlib.asynccontextmanager
async def _reborn(again: Callable[[], Awaitable[int]]) -> AsyncIterator["asyncio.Task[int]"]:
    task = asyncio.create_task(again(), name="the victim comes back")
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _insist(act: Callable[[], Awaitable[Any]]) -> Any:
    """Do as a person does when the other side is away for a moment: again, with the same request id."""

    async def tried() -> Any:
        try:
            found = await act()
        except httpx.TransportError as error:
            raise AssertionError(str(error) or type(error).__name__) from error
        assert not isinstance(found, httpx.Response) or found.status_code < 500, found.text
        return [found]

    return (await eventually(tried, SLOW))[0]


async def _carried(it: World, run: str, vote: str, until: Callable[[], bool] | None = None) -> None:
    """Approve what *run* asks until it has gone as far as it can: done with its turn, over, or *until* holds."""

    async def there() -> bool:
        try:
            found = await it.run(run)
            if found["state"] in ("idle", "succeeded", "failed", "interrupted", "stopped", "refused"):
                return True
            if until is not None and until():
                return True
            for asked in (await it.get("/approvals", state="open", run=run))["approvals"]:
                await it.vote(asked, "approve", vote_id=f"{vote}-{asked['id']}")
        except httpx.TransportError as error:
            raise AssertionError(str(error)) from error
        return False

    await eventually(there, SLOW)


async def _no_longer_active(it: World) -> bool:
    runs = (await it.get("/runs"))["runs"]
    assert runs == [], [(run["id"], run["state"]) for run in runs]
    return True


async def _streamed(it: World, run: str) -> bool:
    """Every event that the machine has numbered is in the stream once, in order."""
    with contextlib.closing(sqlite3.connect(f"file:{it.root / 'mill' / 'spool.db'}?mode=ro", uri=True)) as spool:
        numbered = spool.execute("SELECT next - 1 FROM runs WHERE run = ?", (run,)).fetchone() or (0,)
    got = [event["seq"] for event in await it.output(run)]
    assert got == list(range(1, len(got) + 1))
    assert len(got) == numbered[0], f"the machine has numbered {numbered[0]} events, the stream has {len(got)}"
    return True


async def _decided_once(it: World) -> None:
    """What the machine's disk says was decided is what is shown as in force, and nothing is left open."""

    async def same() -> bool:
        with contextlib.closing(
            sqlite3.connect(f"file:{it.root / 'mill' / 'journal.db'}?mode=ro", uri=True)
        ) as journal:
            table = [json.loads(record) for (record,) in journal.execute("SELECT record FROM approvals")]
        for record in table:
            row = await it.get(f"/approvals/{record['id']}")
            assert row["state"] != "open"
            assert sum(vote["counted"] for vote in row["votes"]) <= 1
            in_force = (row["in_force"] or {}).get("verdict") or record["state"]
            happened = record["verdict"] or record["state"]  # a vote may have come too late: withdrawn is what happened
            assert in_force == happened, f"{record['id']}: in force {in_force}, on disk {happened}"
        return True

    await eventually(same, SLOW)


async def _audited_once(it: World, runs: set[str], order: str) -> None:
    """What people did is in the audit, each once, and its chain is whole."""

    async def there() -> bool:
        entries = (await it.get("/audit", limit=1000))["entries"]
        done = [(e["action"], e["subject"], e["details"].get("vote", "")) for e in entries]
        votes = {
            (a["id"], v["id"]) for a in (await it.get("/approvals"))["approvals"] for v in a["votes"] if v["counted"]
        }
        meant = {("run.started", run, "") for run in runs} | {("order.issued", order, "")}
        meant |= {("approval.voted", approval, vote) for approval, vote in votes}
        found = [one for one in done if one[0] in ("run.started", "order.issued", "approval.voted")]
        assert sorted(found) == sorted(meant)
        return True

    await eventually(there, SLOW)
    assert (await it.get("/audit/verdict"))["broken_at"] is None


async def _lifted(it: World, order: str) -> None:
    await _insist(lambda: it.api.post(f"/orders/{order}/lift", json={"reason": "the test goes on"}))


def _marked(machine: str) -> list[int]:
    """Return what still runs with the mark of one of this machine's runs in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get("SWITCHBOARD_RUN", "")
            if (
                mark.startswith(f"{machine}/")
                and process.status() != psutil.STATUS_ZOMBIE
                and process.pid != os.getpid()
            ):
                found.append(process.pid)
    return found

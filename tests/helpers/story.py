"""A day with a death in it, judged by somebody outside of the product: process table, files, stream and the agent's transcript."""

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
from helpers.daemons import alive_with, marked
from helpers.eventually import eventually
from helpers.world import SLOW, World


async def daemon_dies(it: World, fault: str, luck: random.Random) -> None:
    """Play the story while the machine's daemon dies at *fault*, `name:pass`."""
    daemon = await it.machine("mill")
    await daemon.kill()
    await daemon.start(SWITCHBOARD_FAULT=fault)

    async def again() -> int:
        assert daemon.process is not None
        code = await daemon.process.wait()
        await daemon.start()
        return code

    await story(it, again, luck)


async def server_dies(it: World, fault: str, luck: random.Random) -> None:
    """Play the story while the server dies at *fault*, `name:pass`."""
    await it.machine("mill")
    await it.kill_server()
    await it.serve(SWITCHBOARD_FAULT=fault)

    async def again() -> int:
        assert it.process is not None
        code = await it.process.wait()
        await it.serve()
        return code

    await story(it, again, luck)


async def story(it: World, again: Callable[[], Awaitable[int]], luck: random.Random) -> None:
    """A run that asks and is approved, a second one that is stopped with its escapees, and a victim that comes back somewhere between.

    *again* waits for the victim's death, starts it again and returns its exit code.
    """
    token = f"31{luck.randrange(10**6):06}"
    words = [f"word-{luck.randrange(16**8):08x}" for _ in range(3)]
    async with _reborn(again) as death:
        first = await insist(
            lambda: it.start(
                "mill",
                [{"text": f"{words[0]}\n"}, {"tool": "Bash", "input": {"command": "echo one >> log.txt"}}],
                [{"text": f"{words[1]}\n"}],
                request_id=f"first-{token}",
            )
        )
        came_to = await _carried(it, first, f"vote-{token}")
        escape = f"(setsid sleep {token} &) ; (setsid env -i sleep {token} &) ; sh -c 'sleep {token}'"
        second = await insist(
            lambda: it.start("mill", [{"tool": "Bash", "input": {"command": escape}}], request_id=f"second-{token}")
        )
        await _carried(it, second, f"vote2-{token}", until=lambda: len(alive_with(token)) >= 3)
        order = await insist(lambda: it.post("/orders", **_everything(f"order-{token}")))
        await insist(lambda: _no_longer_active(it))
        assert await asyncio.wait_for(death, SLOW) == -signal.SIGKILL, "the point was never reached"
        await insist(lambda: _no_longer_active(it))

    assert alive_with(token) == []
    assert marked(f"{it.machines['mill']}/") == []
    # Each line ran at most once, and is there if its machine says that the agent took the decision and went on.
    log = it.repo("mill") / "log.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    assert lines in ([], ["one"])
    for run in (first, second):
        await eventually(lambda run=run: _streamed(it, run), SLOW)  # type: ignore[misc]
    text = "".join(await _said(it, first))
    if came_to == "idle":  # its machine had seen the turn to its end, so it knew all of it
        assert [text.count(word) for word in words[:2]] == [1, 1]
    else:
        assert max(text.count(word) for word in words[:2]) <= 1
    if words[1] in text:
        assert lines == ["one"]
    await _decided_once(it)
    await insist(lambda: _proven(it, order["order"]["id"]))
    await _audited_once(it, {first, second}, order["order"]["id"])
    # And everything works as before.
    await _lifted(it, order["order"]["id"])
    third = await insist(lambda: it.start("mill", [{"text": f"{words[2]}\n"}], request_id=f"third-{token}"))
    await insist(lambda: it.state(third, "idle"))
    await eventually(lambda: _streamed(it, third), SLOW)
    said = await _said(it, third)
    assert "".join(said).count(words[2]) == 1
    await eventually(lambda: _transcript(it, third) == said, SLOW)  # the agent's own account of what it said


async def _said(it: World, run: str) -> list[str]:
    """Return what the stream has of the agent's words, one text per message."""
    blocks: dict[str, list[str]] = {}
    for event in await it.output(run):
        if event["kind"] == "message":
            blocks.setdefault(event["block"], []).append(event["text"])
    return ["".join(texts) for texts in blocks.values()]


def _transcript(it: World, run: str) -> list[str]:
    """Return the agent's words as its own transcript on the disk has them, one text per message."""
    (session,) = {record["session_id"] for record in _records(it, "runs") if record["id"] == run}
    (file,) = (it.root / "mill-claude" / "projects").glob(f"*/{session}.jsonl")
    entries = map(json.loads, file.read_text().splitlines())
    messages = [entry["message"]["content"] for entry in entries if entry["type"] == "assistant"]
    return [block["text"] for content in messages for block in content if block["type"] == "text"]


def _records(it: World, table: str) -> list[dict[str, Any]]:
    """Return what the machine's own journal holds."""
    with contextlib.closing(sqlite3.connect(f"file:{it.root / 'mill' / 'journal.db'}?mode=ro", uri=True)) as journal:
        return [json.loads(record) for (record,) in journal.execute(f"SELECT record FROM {table}")]


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


async def insist(act: Callable[[], Awaitable[Any]]) -> Any:
    """Do as a person does when the other side is away for a moment: again, with the same request id."""

    async def tried() -> Any:
        try:
            found = await act()
        except httpx.TransportError as error:
            raise AssertionError(str(error) or type(error).__name__) from error
        assert not isinstance(found, httpx.Response) or found.status_code < 500, found.text
        return [found]

    return (await eventually(tried, SLOW))[0]


async def _carried(it: World, run: str, vote: str, until: Callable[[], bool] | None = None) -> str:
    """Approve what *run* asks until it has gone as far as it can: done with its turn, over, or *until* holds. Return its state."""

    async def there() -> str:
        try:
            state = str((await it.run(run))["state"])
            if state in ("idle", "succeeded", "failed", "interrupted", "stopped", "refused"):
                return state
            if until is not None and until():
                return state
            for asked in (await it.get("/approvals", state="open", run=run))["approvals"]:
                await it.vote(asked, "approve", vote_id=f"{vote}-{asked['id']}")
        except httpx.TransportError as error:
            raise AssertionError(str(error)) from error
        return ""

    return str(await eventually(there, SLOW))


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


async def _proven(it: World, order: str) -> bool:
    """Every run that the order met has its receipt, and what a stopped one had not committed is kept."""
    for row in (await it.get(f"/orders/{order}"))["rows"]:
        assert row["standing"] in ("ended", "refused"), row
        if (await it.run(row["run"]))["state"] == "stopped":
            assert row["receipt"]["safety"], row
    return True


async def _decided_once(it: World) -> None:
    """What the machine's disk says was decided is what is shown as in force, and nothing is left open."""

    async def same() -> bool:
        for record in _records(it, "approvals"):
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
    await insist(lambda: it.api.post(f"/orders/{order}/lift", json={"reason": "the test goes on"}))

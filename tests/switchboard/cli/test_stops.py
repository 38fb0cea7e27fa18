"""Stops from the command line: what would be hit, the order, its proof and its exit code, and the lift."""

import json
from typing import Any

from helpers.eventually import eventually
from helpers.fleet import Attachment
from helpers.served import Served
from switchboard_rpc.v1 import stop_pb2


async def ordered(served: Served, *words: str) -> str:
    done = await served.cli("stop", "order", *words, "--reason", "a test", by="ana")
    assert done.returncode == 0, done.stderr
    return str(done.stdout.strip())


async def proves(attachment: Attachment, order: str, run: str, outcome: str = "ENDED") -> None:
    await attachment.told(
        receipt=stop_pb2.Receipt(
            order_id=order,
            run_id=run,
            attempt=1,
            outcome=stop_pb2.Outcome.Value(f"OUTCOME_{outcome}"),
            proof=stop_pb2.PROOF_CONTAINED,
            rung="terminate",
            took_ms=42,
            processes=7,
            reason="" if outcome == "ENDED" else "pid 7 sleep\x1b[2J",
            safety=stop_pb2.Safety(id="s-1", head="abc", files=3, bytes=2048, not_saved=["big.bin: over 50 MiB"]),
        )
    )


async def lifted(served: Served, order: str) -> None:
    done = await served.cli("stop", "lift", order, "--reason", "over", by="ana")
    assert done.returncode == 0, done.stderr


async def test_a_dry_run_shows_what_would_stop_and_stops_nothing(served: Served) -> None:
    mill = await served.machine("dry-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-dry", "RUNNING", repo="x/dry")
        done = await served.cli("stop", "order", "--repo", "x/dry", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert "r-dry" in done.stdout
        none = await served.cli("stop", "order", "--repo", "x/none", "--dry-run")
        assert none.stdout == "nothing on record matches now\n"
        assert json.loads((await served.cli("stop", "list", "--json")).stdout) == {"orders": []}


async def test_an_order_is_followed_to_its_proof(served: Served) -> None:
    mill = await served.machine("proof-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-p1", "RUNNING", repo="x/proof")
        await attachment.run("r-p2", "RUNNING", repo="x/proof")
        order = await ordered(served, "--repo", "x/proof")
        await eventually(lambda: any(o.id == order for o in attachment.orders.orders))
        early = await served.cli("stop", "status", order)
        assert early.returncode == 3
        assert "0 of 2 runs proven (2 unconfirmed)" in early.stdout

        await attachment.seen({order: ["r-p1", "r-p2"]})
        await proves(attachment, order, "r-p1")
        waited = await served.cli("stop", "status", order, "--wait", "--timeout", "0.5")
        assert waited.returncode == 3
        await proves(attachment, order, "r-p2")
        done = await served.cli("stop", "status", order, "--wait")
        assert done.returncode == 0, done.stdout
        for words in ("contained", "terminate", "42 ms", "s-1: 3 files, 2.0 KiB, 1 not saved", "2 of 2 runs proven"):
            assert words in done.stdout
        asked = json.loads((await served.cli("stop", "status", order, "--json")).stdout)
        assert asked["counts"] == {"ended": 2}

        listed = await served.cli("stop", "list")
        assert f"{order}" in listed.stdout
        assert "repo x/proof" in listed.stdout
        assert (await served.cli("stop", "lift", order, "--reason", "x", by="ben")).returncode == 1
        await lifted(served, order)
        assert (await served.cli("stop", "list")).stdout == "no order stands\n"
        again = await served.cli("stop", "lift", order, "--reason", "over", by="ana")
        assert (again.returncode, "is lifted" in again.stderr) == (1, True)


async def test_what_is_left_alive_ends_with_1_and_is_named(served: Served) -> None:
    mill = await served.machine("alive-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-alive", "RUNNING", repo="x/alive")
        order = await ordered(served, "--repo", "x/alive")
        await eventually(lambda: any(o.id == order for o in attachment.orders.orders))
        await attachment.seen({order: ["r-alive"]})
        await proves(attachment, order, "r-alive", "FAILED")
        done = await served.cli("stop", "status", order, "--wait")
        assert done.returncode == 1
        assert "pid 7 sleep\\x1b[2J" in done.stdout
        await lifted(served, order)


async def test_a_run_that_is_over_by_its_machines_word_alone_is_not_called_proven(served: Served) -> None:
    mill = await served.machine("word-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-word", "RUNNING", repo="x/word")
        order = await ordered(served, "--repo", "x/word")
        await attachment.seen({order: ["r-word"]})
        await attachment.run("r-word", "STOPPED", 2, repo="x/word")
        waited = await served.cli("stop", "status", order, "--wait", "--timeout", "0.5")
        assert waited.returncode == 3
        assert "0 of 1 runs proven (1 unproven)" in waited.stdout
        await proves(attachment, order, "r-word")
        done = await served.cli("stop", "status", order, "--wait")
        assert (done.returncode, "1 of 1 runs proven" in done.stdout) == (0, True)
        await lifted(served, order)


async def test_a_machine_that_is_away_is_said_to_be_unreachable(served: Served) -> None:
    mill = await served.machine("away-mill")
    async with mill.attached() as attachment:
        await attachment.run("r-away", "RUNNING", repo="x/away")

    async def gone() -> Any:
        machines = json.loads((await served.cli("machines", "--json")).stdout)["machines"]
        return not next(m for m in machines if m["name"] == "away-mill")["attached"]

    await eventually(gone, within=30)
    order = await ordered(served, "--repo", "x/away")
    done = await served.cli("stop", "status", order, "--wait", "--timeout", "5")
    assert done.returncode == 3
    assert "unreachable" in done.stdout
    assert "away-mill" in done.stdout.rpartition("away: ")[2]
    await lifted(served, order)


async def test_the_selector_is_what_was_said(served: Served) -> None:
    mill = await served.machine("said-mill")
    words = (
        *(
            "--repo",
            "x/a",
            "--repo",
            "x/b",
            "--machine",
            "said-mill",
            "--owner",
            "kim",
            "--run",
            "r-1",
            "--agent",
            "claude",
        ),
        *("--except-repo", "x/c", "--no-hold", "--json", "--reason", "why"),
    )
    made = json.loads((await served.cli("stop", "order", *words, by="ana")).stdout)["order"]
    assert made["hold"] is False
    assert made["selector"] == {
        "all": False,
        "repos": ["x/a", "x/b"],
        "machines": [mill.id],
        "owners": ["kim"],
        "runs": ["r-1"],
        "agents": ["claude"],
        "except_repos": ["x/c"],
        "except_runs": [],
    }
    one = await served.cli("stop", "extend", made["id"], "--hours", "12", by="ana")
    assert one.returncode in (0, 1)  # an order without a hold has nothing to review
    await lifted(served, made["id"])


async def test_a_stop_that_names_nothing_or_says_nothing_is_refused(served: Served) -> None:
    for words, sentence in (
        (("--reason", "x"), "say what to stop"),
        (("--all",), "say why with --reason"),
        (("--machine", "nobody", "--reason", "x"), "no machine is called nobody"),
    ):
        done = await served.cli("stop", "order", *words, by="ana")
        assert done.returncode in (1, 2)
        assert sentence in done.stderr
    assert (await served.cli("stop", "status", "o-none")).returncode == 1


async def test_a_token_of_one_machine_stops_only_there_and_it_is_said(served: Served) -> None:
    mill = await served.machine("bound-mill")
    barn = await served.machine("bound-barn")
    async with mill.attached() as at_mill, barn.attached() as at_barn:
        await at_mill.run("r-b1", "RUNNING", repo="x/bound")
        await at_barn.run("r-b2", "RUNNING", repo="x/bound")
        token = served.ask("token", machine=mill.id)["token"]
        done = await served.cli("stop", "order", "--repo", "x/bound", "--reason", "x", token=token)
        assert done.returncode == 0, done.stderr
        assert "reaches one machine only" in done.stderr
        found = json.loads((await served.cli("stop", "status", done.stdout.strip(), "--json")).stdout)
        assert [row["run"] for row in found["rows"]] == ["r-b1"]
        await lifted(served, done.stdout.strip())

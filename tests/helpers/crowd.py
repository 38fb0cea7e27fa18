"""A fleet with something of everything on it, so that every screen of the page has something to show."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helpers.eventually import eventually
from helpers.fleet import Attachment, approval
from helpers.house import House
from switchboard_rpc.v1 import approval_pb2, fleet_pb2, run_pb2, stop_pb2

from switchboard.domain.digest import canonical, digest
from switchboard.domain.stop import Selector

DIFF = "--- a/sieve.py\n+++ b/sieve.py\n@@ -1,3 +1,3 @@ def sieve():\n coarse = 1\n-fine = 0\n+fine = 1\n"
SCREENS = ("/", "/r/r-0", "/r/r-1", "/approvals", "/a/a-0", "/a/a-1", "/a/a-2", "/stops", "/machines", "/account")


@asynccontextmanager
async def crowd(home: House, say: str = "") -> AsyncIterator[tuple[Attachment, str]]:
    """Two machines, runs in every state, open and decided questions, a stop with receipts. *say* goes into every text.

    Yields the attachment of the first machine, and the address of the stop.
    """
    here, away = await home.machine(f"mill{say}"), await home.machine(f"kim's laptop{say}")
    agents = [
        fleet_pb2.Agent(name="claude", version=f"2.1.330{say}", signed_in=True),
        fleet_pb2.Agent(name=f"codex{say}", problem=f"codex is not signed in{say}"),
    ]
    async with here.attached(agents=agents, platform=f"linux{say}") as attached, here.uploading() as uploading:
        async with away.attached() as gone:
            await gone.run("r-9", repo=f"example.org/away{say}")
        for n, state in enumerate(("WAITING", "RUNNING", "IDLE", "STARTING", "STOPPING", "FAILED", "REFUSED")):
            await attached.run(
                f"r-{n}",
                state,
                repo=f"example.org/mill{say}",
                path=f"/src/mill{say}",
                branch=f"fix/sieve-{n}{say}",
                agent_version=f"2.1.330{say}",
                mode="patch",
                permission_mode=f"default{say}",
                owner="ana",
                prompt=f"Mend the sieve{say}",
                reason=f"the sieve is broken{say}" if state in ("FAILED", "REFUSED") else "",
                not_gated=[f"reads files inside the checkout{say}"],
                waits_for="a-0" if state == "WAITING" else "",
                containment="contained",
                base_commit="9f2c4e1ab3dd",
                age_ms=n * 700_000,
            )
        questions = [
            ("tool", "Bash", {"command": f"make flour{say}", "description": f"mills{say}", f"odd{say}": [say, 1]}),
            (
                "choice",
                "AskUserQuestion",
                {
                    "questions": [
                        {"question": f"Which mill?{say}", "options": [{"label": f"small{say}", "description": say}]}
                    ]
                },
            ),
            ("plan", "ExitPlanMode", {"plan": f"1. mend the sieve{say}"}),
            (
                "elicitation",
                f"forms{say}",
                {
                    "message": say,
                    "requested_schema": {
                        "properties": {f"name{say}": {"type": "string", "title": f"Name{say}", "description": say}}
                    },
                },
            ),
            ("unknown", f"odd{say}", {"whatever": say}),
        ]
        for n, (kind, tool, asked) in enumerate(questions):
            made = approval(f"a-{n}", "r-0", why=f"The sieve is mended.{say}", diff=DIFF + (f"+{say}\n" if say else ""))
            made.kind = approval_pb2.QuestionKind.Value(f"QUESTION_KIND_{kind.upper()}")
            made.tool, made.title, made.cwd = tool, f"{tool}: something{say}", f"/src/mill{say}"
            made.input_json = canonical(asked)
            made.digest = digest(run="r-0", attempt=1, kind=kind, tool=tool, input=asked, cwd=made.cwd)
            await attached.told(approval=made)
        await attached.told(approval=approval("a-8", "r-0", "WITHDRAWN", revision=9, reason=f"the agent went on{say}"))
        await _print(uploading, say)
        order = await home.services.stops.issue(
            await home.ana(), Selector(repos=(f"example.org/away{say}",), runs=("r-1", "r-9")), f"incident 42{say}"
        )
        all_but = await home.services.stops.issue(
            await home.ana(), Selector(except_repos=("example.org/none",)), f"incident{say}"
        )
        safety = stop_pb2.Safety(
            id="s-1", head="9f2c4e1ab3dd", files=4, bytes=18231, not_saved=[f".env: looks like credentials{say}"]
        )
        receipt = stop_pb2.Receipt(
            order_id=all_but.id,
            run_id="r-1",
            attempt=1,
            outcome=1,
            proof=1,
            rung=f"kill{say}",
            took_ms=312,
            processes=7,
            reason=say,
            safety=safety,
        )
        await attached.told(receipt=receipt)
        await attached.told(
            receipt=stop_pb2.Receipt(order_id=all_but.id, run_id="r-2", attempt=1, outcome=2, reason=f"pid 7{say}")
        )
        assert order.hold
        yield attached, f"/s/{all_but.id}"


async def _print(uploading: object, say: str) -> None:
    kinds = ("PROMPT", "MESSAGE", "THINKING", "TOOL_CALL", "TOOL_RESULT", "NOTICE", "GAP", "TURN_END", "UNKNOWN")
    events = [
        run_pb2.RunEvent(
            seq=n,
            kind=run_pb2.EventKind.Value(f"EVENT_KIND_{kind}"),
            text=""
            if kind == "TOOL_CALL"
            else f"{kind.lower()} {say}\n" + ("more\n" * 40 if kind == "TOOL_RESULT" else ""),
            tool=f"Bash{say}" if kind.startswith("TOOL") else "",
            block="b-tool" if kind.startswith("TOOL") else f"b-{n}",
            detail_json=json.dumps(
                {
                    "command": f"make {say}",
                    "is_error": kind == "TOOL_RESULT",
                    "duration_ms": 1200,
                    "num_turns": 3,
                    "x": say,
                }
            ),
        )
        for n, kind in enumerate(kinds, 1)
    ]
    for run in ("r-0", "r-1"):
        batch = run_pb2.OutputBatch(
            run_id=run, first=1, count=len(events), events=run_pb2.RunEvents(events=events).SerializeToString()
        )
        await uploading.call.write(fleet_pb2.UploadRequest(batch=batch))  # type: ignore[attr-defined]
        await eventually(lambda run=run: uploading.watermarks.get(run) == len(events) + 1)  # type: ignore[attr-defined]

"""Questions of real agents at a real daemon: decided once, bound to what was asked, and a no in every doubt."""

import hashlib
import json
from pathlib import Path

from helpers.eventually import eventually
from helpers.mill import Mill, bash, mill
from helpers.scripted import ScriptedModel
from switchboard_rpc.v1 import approval_pb2, fleet_pb2

FAILED = fleet_pb2.REPORT_STATE_FAILED
ACCEPTED, APPLIED_, REFUSED, UNDELIVERABLE = (
    approval_pb2.APPLICATION_ACCEPTED,
    approval_pb2.APPLICATION_APPLIED,
    approval_pb2.APPLICATION_REFUSED,
    approval_pb2.APPLICATION_UNDELIVERABLE,
)


def by_the_contract(asked: approval_pb2.Approval, input: object) -> str:
    """The digest as the contract writes it, computed by hand."""
    kinds = {approval_pb2.QUESTION_KIND_TOOL: "tool", approval_pb2.QUESTION_KIND_CHOICE: "choice"}
    body = {
        "run": asked.run_id,
        "attempt": asked.attempt,
        "kind": kinds[asked.kind],
        "tool": asked.tool,
        "input": input,
        "cwd": asked.cwd,
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def applications(machine: Mill, asked: approval_pb2.Approval, decision: str) -> list[int]:
    return [r.application for r in machine.switch.decision_receipts(asked.id) if r.decision_id == decision]


async def test_a_decision_is_in_force_once_and_every_other_is_refused(machine: Mill) -> None:
    run = await machine.start([{"text": "I need it.\n"}, bash("echo one >> made.txt")], [{"text": "finished\n"}])
    asked = await machine.asked(run)
    assert asked.digest == by_the_contract(asked, json.loads(asked.input_json))
    assert asked.cwd == str(machine.repo)
    assert asked.why == "I need it."
    assert 0 < asked.expires_in_ms <= 8 * 3600 * 1000

    wrong = await machine.decide(asked, digest="sha256:" + "0" * 64)
    assert "digest differs" in (await machine.outcome(wrong)).reason
    assert applications(machine, asked, wrong) == [REFUSED]
    assert not (machine.repo / "made.txt").exists()

    first = await machine.decide(asked, by="ben")
    second = await machine.decide(asked, approve=False, by="kim", message="no")
    await eventually(lambda: applications(machine, asked, first) == [ACCEPTED, APPLIED_])
    await eventually(lambda: applications(machine, asked, second) == [REFUSED])
    (late,) = [r for r in machine.switch.decision_receipts(asked.id) if r.decision_id == second]
    assert (late.verdict, late.by) == (approval_pb2.VERDICT_APPROVE, "ben")
    assert "ben decided it first" in late.reason

    await machine.said(run, "finished")
    given = len(applications(machine, asked, first))
    again = await machine.decide(asked, id=first, by="ben")  # delivered a second time
    assert again == first
    await eventually(lambda: applications(machine, asked, first)[given:] == [APPLIED_])
    await machine.state(run, "idle")
    assert (machine.repo / "made.txt").read_text() == "one\n"
    assert (await machine.outcome(first)).state == fleet_pb2.REPORT_STATE_APPLIED


async def test_a_denial_reaches_the_agent_with_its_words(machine: Mill) -> None:
    run = await machine.start([bash("echo never > never.txt")], [{"text": "I see.\n"}])

    await machine.decide(await machine.asked(run), approve=False, message="not on a Friday")

    await machine.said(run, "I see.")
    await machine.said(run, "Denied by ben: not on a Friday")
    assert not (machine.repo / "never.txt").exists()


async def test_an_edited_input_runs_when_its_own_digest_fits(machine: Mill) -> None:
    run = await machine.start([bash("echo theirs > made.txt")], [{"text": "finished\n"}])
    asked = await machine.asked(run)
    edited = {**json.loads(asked.input_json), "command": "echo ours > made.txt"}

    forged = await machine.decide(asked, input_json=json.dumps(edited), edited_digest=asked.digest)
    assert "not the one that was voted for" in (await machine.outcome(forged)).reason
    await machine.decide(asked, input_json=json.dumps(edited), edited_digest=by_the_contract(asked, edited))

    await machine.said(run, "finished")
    assert (machine.repo / "made.txt").read_text() == "ours\n"


async def test_questions_with_options_are_answered(machine: Mill) -> None:
    options = [{"label": "Red", "description": "like fire"}, {"label": "Blue", "description": "like water"}]
    question = {"question": "Which colour?", "header": "Colour", "options": options, "multiSelect": False}
    run = await machine.start(
        [{"tool": "AskUserQuestion", "input": {"questions": [question]}}], [{"text": "Thank you.\n"}]
    )
    asked = await machine.asked(run)
    assert asked.kind == approval_pb2.QUESTION_KIND_CHOICE
    answer = {"answers": {"Which colour?": "Blue"}}

    await machine.decide(asked, input_json=json.dumps(answer), edited_digest=by_the_contract(asked, answer))

    await machine.said(run, "Thank you.")
    assert "Blue" in machine.switch.text(run)


async def test_nobody_answers_and_the_agent_is_told_so(tmp_path: Path, model: ScriptedModel) -> None:
    async with mill(tmp_path, model, "expiry_s = 1") as machine:
        run = await machine.start([bash("echo never > never.txt")], [{"text": "I see.\n"}])
        asked = await machine.asked(run)

        await machine.said(run, "I see.")
        await machine.said(run, "nobody answered within 1 s; this is not a person's denial")
        (over,) = machine.switch.approvals(run)
        assert over.state == approval_pb2.APPROVAL_STATE_EXPIRED
        late = await machine.decide(asked)
        assert "the question is expired" in (await machine.outcome(late)).reason
        assert not (machine.repo / "never.txt").exists()


async def test_a_stopped_run_takes_no_decision(machine: Mill) -> None:
    run = await machine.start([bash("echo never > never.txt")])
    asked = await machine.asked(run)
    await machine.switch.order(runs=[run], hold=False)
    await machine.state(run, "stopped")

    late = await machine.decide(asked)

    assert "withdrawn: stopped by order" in (await machine.outcome(late)).reason
    assert applications(machine, asked, late) == [REFUSED]
    assert not (machine.repo / "never.txt").exists()


async def test_secrets_never_leave_the_machine(tmp_path: Path, model: ScriptedModel) -> None:
    secret = "tr0ub4dor-and-3-and-more"
    settings = 'secrets = ["MILL_NAME"]\n[env]\nDEPLOY_TOKEN = "' + secret + '"\nMILL_NAME = "the-old-mill"'
    async with mill(tmp_path, model, settings) as machine:
        run = await machine.start(
            [{"text": f"the token is {secret} here\n"}, bash(f"echo {secret} the-old-mill > leak.txt; cat leak.txt")],
            [{"text": "finished\n"}],
        )
        asked = await machine.asked(run)
        assert asked.masked
        assert secret not in asked.input_json
        assert asked.digest != by_the_contract(asked, json.loads(asked.input_json))
        edit = {"command": "echo x"}
        refused = await machine.decide(asked, input_json=json.dumps(edit), edited_digest=by_the_contract(asked, edit))
        assert "was masked" in (await machine.outcome(refused)).reason
        await machine.decide(asked)
        await machine.said(run, "finished")

        assert (machine.repo / "leak.txt").read_text().startswith(secret)
        diff = await machine.query(diff=fleet_pb2.DiffQuery(run_id=run))
        everything = json.dumps(diff) + str(machine.switch.facts) + str(machine.switch.events) + machine.daemon.log()
        assert "«redacted" in everything
        assert secret not in everything
        assert "the-old-mill" not in everything
        assert secret.encode() not in (machine.daemon.home / "spool.db").read_bytes()


async def test_what_a_content_rule_keeps_stays_on_the_machine(tmp_path: Path, model: ScriptedModel) -> None:
    async with mill(tmp_path, model, 'content = "metadata"') as machine:
        run = await machine.start(
            [{"text": "privately said\n"}, bash("echo private thing > file.txt")], [{"text": "finished\n"}]
        )
        asked = await machine.asked(run)
        assert asked.masked
        await machine.decide(asked)
        await machine.state(run, "idle")

        everything = str(machine.switch.facts) + str(machine.switch.events)
        assert "privately said" not in everything
        assert "private thing" not in everything
        id = await machine.switch.instruct(query=fleet_pb2.Query(diff=fleet_pb2.DiffQuery(run_id=run)))
        _, error = await eventually(lambda: machine.switch.answers.get(id))
        assert "stays on its machine" in error

"""Votes and what machines say about them, over the real store and a real machine's stream."""

import asyncio
import json
from datetime import timedelta

import pytest
from helpers.eventually import eventually
from helpers.fleet import ANA, BEN, KIM, approval, core, person, token_of
from helpers.valkey import ManualClock
from switchboard_rpc.v1 import approval_pb2, fleet_pb2

from daemon.domain.approval import digest as daemon_digest
from switchboard.domain.approval import AlreadyDecided
from switchboard.domain.errors import Conflict, Forbidden, Invalid, NotFound
from switchboard.domain.people import Role
from switchboard.services.approvals import DecisionReceipt


async def asked(stream, id="a-1", run_id="r-1", **fields):
    """Announce a run of ana's and its question."""
    await stream.run(run_id, "WAITING", waits_for=id)
    await stream.told(approval=approval(id, run_id, **fields))


def receipt(decision, application, verdict="approve", by="kim", reason="", id="a-1"):
    return approval_pb2.DecisionReceipt(
        approval_id=id,
        decision_id=decision,
        application=approval_pb2.Application.Value(f"APPLICATION_{application}"),
        verdict=approval_pb2.Verdict.Value(f"VERDICT_{verdict.upper()}") if verdict else 0,
        by=by,
        reason=reason,
    )


async def test_fifty_vote_at_once_and_exactly_one_decides(store_url):
    async with core(store_url) as sb, core(store_url) as other:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            card = sb.approvals.get("a-1")
            await eventually(lambda: other.projection.approval("a-1"))

            async def vote(n):
                replica = (sb, other)[n % 2]
                return await replica.approvals.vote(
                    person(f"reviewer-{n}"),
                    "a-1",
                    verdict=("approve", "deny")[n % 3 == 0],
                    digest=card.digest,
                    note="no: it is late",
                    vote_id=f"v-{n}",
                )

            answers = await asyncio.gather(*(vote(n) for n in range(50)), return_exceptions=True)

            winners = [answer for answer in answers if not isinstance(answer, Exception)]
            assert len(winners) == 1
            first = winners[0].decision
            for late in answers:
                if isinstance(late, Exception):
                    assert isinstance(late, AlreadyDecided)
                    assert f"by {first.by} at" in str(late)
            stands = await sb.store.approvals.get("a-1")
            assert [vote.by for vote in stands.votes if vote.counted] == [first.by]
            assert len(stands.votes) == 50
            await eventually(lambda: stream.instructions)
            assert [i.id for i in stream.instructions] == [first.id]
            assert [entry.by for entry in await sb.audited("approval.voted")] == [first.by]


async def test_a_decision_comes_again_after_a_reconnect_until_it_is_reported(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            await sb.approvals.vote(
                KIM, "a-1", verdict="deny", digest=sb.approvals.get("a-1").digest, note="not on a Friday", vote_id="v-1"
            )
            await eventually(lambda: stream.instructions)
        async with mill.attached(approvals=[approval("a-1", "r-1")]) as stream:
            await eventually(lambda: stream.instructions)
            decision = stream.instructions[0].decision
            assert decision.message == "not on a Friday"
            assert decision.verdict == approval_pb2.VERDICT_DENY
            assert sb.approvals.get("a-1").state == "denied"


async def test_a_decision_whose_instruction_the_store_lost_is_sent_again(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            digest = sb.approvals.get("a-1").digest
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            await eventually(lambda: stream.instructions)
            await sb.instructions.forget_runs(frozenset({"r-1"}))
            await eventually(lambda: len(stream.instructions) == 2)
            assert {i.id for i in stream.instructions} == {"v-1"}


async def test_a_machine_that_lost_a_decision_which_it_had_settled_gets_it_again_on_the_same_stream(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            digest = sb.approvals.get("a-1").digest
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            await eventually(lambda: stream.instructions)
            await stream.told(
                instruction_report=fleet_pb2.InstructionReport(
                    instruction_id="v-1", state=fleet_pb2.REPORT_STATE_FAILED, reason="no such question"
                )
            )
            await stream.told(approval=approval("a-1", "r-1", revision=5))
            await eventually(lambda: len(stream.instructions) == 2)
            assert stream.instructions[0].decision == stream.instructions[1].decision


async def test_a_decision_that_was_settled_while_its_receipt_was_lost_is_sent_again_until_there_is_one(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            digest = sb.approvals.get("a-1").digest
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            await eventually(lambda: stream.instructions)
            await stream.told(
                instruction_report=fleet_pb2.InstructionReport(
                    instruction_id="v-1", state=fleet_pb2.REPORT_STATE_APPLIED
                )
            )
            await sb.approvals.redeliver()
            assert not sb.projection.instruction("v-1").pending
            clock.forward(timedelta(seconds=31))
            await eventually(lambda: len(stream.instructions) == 2)
            assert stream.instructions[0].decision == stream.instructions[1].decision
            await stream.told(decision_receipt=receipt("v-1", "APPLIED"))
            await stream.told(
                instruction_report=fleet_pb2.InstructionReport(
                    instruction_id="v-1", state=fleet_pb2.REPORT_STATE_APPLIED
                )
            )
            clock.forward(timedelta(seconds=31))
            await sb.approvals.redeliver()
            assert not sb.projection.instruction("v-1").pending


async def test_the_owner_of_a_run_does_not_decide_on_it_but_in_solo_mode(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            digest = sb.approvals.get("a-1").digest
            with pytest.raises(Forbidden, match="somebody else decides"):
                await sb.approvals.vote(ANA, "a-1", verdict="approve", digest=digest)
            solo = person("ana", Role.ADMIN, solo=True)
            await sb.approvals.vote(solo, "a-1", verdict="approve", digest=digest)


async def test_a_question_whose_run_is_unknown_waits_for_it(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.told(approval=approval("a-1", "r-1"))
            digest = sb.approvals.get("a-1").digest
            with pytest.raises(Conflict, match="not known yet"):
                await sb.approvals.vote(BEN, "a-1", verdict="approve", digest=digest)
            await stream.run("r-1", owner="ben")
            with pytest.raises(Forbidden):
                await sb.approvals.vote(BEN, "a-1", verdict="approve", digest=digest)


@pytest.mark.parametrize(
    "caller", [person("zoe", Role.DEVELOPER), person("zoe", Role.VIEWER), token_of("zoe", "")], ids=lambda c: c.via
)
async def test_who_may_not_vote_cannot(store_url, caller):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            with pytest.raises(Forbidden):
                await sb.approvals.vote(caller, "a-1", verdict="deny", digest="x", note="no")
            assert sb.approvals.get("a-1").votes == ()


async def test_a_vote_that_will_not_do_is_one_clear_sentence(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            await asked(stream, "a-masked", "r-2", masked=True)
            await asked(stream, "a-fixed", "r-3", edits_input=False)
            digest = sb.approvals.get("a-1").digest

            async def vote(id="a-1", verdict="approve", **fields):
                return await sb.approvals.vote(KIM, id, verdict=verdict, **{"digest": digest, **fields})

            for refused, why, call in (
                (NotFound, "no approval", {"id": "a-0"}),
                (Invalid, "approve or deny", {"verdict": "maybe"}),
                (Invalid, "needs a reason", {"verdict": "deny", "note": "  "}),
                (Invalid, "surrogate", {"verdict": "deny", "note": "\ud800"}),
                (Conflict, "has changed since you looked", {"digest": "sha256:0"}),
                (Conflict, "stays on its machine", {"id": "a-masked", "input": {"command": "ls"}}),
                (Invalid, "takes no edited input", {"id": "a-fixed", "input": {"command": "ls"}}),
                (Invalid, "goes with approve only", {"verdict": "deny", "note": "no", "input": {}}),
                (Invalid, "cannot be written as JSON", {"input": {"x": float("nan")}}),
                (Invalid, "is not an id", {"vote_id": "../v"}),
            ):
                with pytest.raises(refused, match=why):
                    await vote(**call)
            assert sb.approvals.get("a-1").votes == ()


async def test_an_edited_input_names_the_digest_that_the_daemon_computes(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            card = sb.approvals.get("a-1")
            edited = {"command": "make test ä \ud800", "b": 1.5, "a": [None, True]}
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=card.digest, input=edited, vote_id="v-1")
            await eventually(lambda: stream.instructions)

            decision = stream.instructions[0].decision
            expected = daemon_digest("r-1", 1, "tool", "Bash", edited, "/src")
            assert decision.edited_digest == expected
            assert (
                decision.input_json
                == json.dumps(edited, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                .encode("utf-8", "backslashreplace")
                .decode()
            )
            assert card.digest == daemon_digest("r-1", 1, "tool", "Bash", json.loads(card.input_json), "/src")


def question(kind, asked, id="a-1", **fields):
    """A question of r-1 that is answered with input."""
    made = approval(id, "r-1", **fields)
    made.kind = approval_pb2.QuestionKind.Value(f"QUESTION_KIND_{kind.upper()}")
    made.digest = daemon_digest("r-1", 1, kind, "Bash", asked, "/src")
    made.input_json = "{}" if made.masked else json.dumps(asked)
    return made


@pytest.mark.parametrize("masked", [False, True])
async def test_a_choice_is_approved_with_its_answers_or_not_at_all(store_url, masked):
    asked = {"questions": [{"question": "Which mill?"}]}
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1", "WAITING")
            await stream.told(approval=question("choice", asked, masked=masked))
            digest = sb.approvals.get("a-1").digest
            for input in (None, {}, {"answers": {}}, {"answers": "small"}):
                with pytest.raises(Invalid, match="approved with what was chosen"):
                    await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, input=input)
            assert sb.approvals.get("a-1").votes == ()

            answer = {"answers": {"Which mill?": "small"}}
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, input=answer, vote_id="v-1")
            await eventually(lambda: stream.instructions)
            decision = stream.instructions[0].decision
            assert json.loads(decision.input_json) == answer
            assert decision.edited_digest == daemon_digest("r-1", 1, "choice", "Bash", answer, "/src")


async def test_a_form_whose_content_stays_on_its_machine_is_answered_all_the_same(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await stream.run("r-1", "WAITING")
            await stream.told(approval=question("elicitation", {"message": "Whose flour?"}, masked=True))
            digest = sb.approvals.get("a-1").digest
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, input={"name": "ana"}, vote_id="v-1")
            await eventually(lambda: stream.instructions)
            assert json.loads(stream.instructions[0].decision.input_json) == {"name": "ana"}


async def test_the_same_vote_again_is_the_same_vote(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            await asked(stream, "a-2", "r-2")
            digest = sb.approvals.get("a-1").digest
            first = await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            again = await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            assert first.votes == again.votes
            with pytest.raises(Conflict, match="taken by another vote"):
                await sb.approvals.vote(BEN, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            with pytest.raises(Conflict, match="is taken"):
                await sb.approvals.vote(
                    KIM, "a-2", verdict="approve", digest=sb.approvals.get("a-2").digest, vote_id="v-1"
                )
            assert sb.approvals.get("a-2").state == "open"


async def test_an_expired_question_takes_no_vote_and_its_machine_closes_it(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream, expires_in_ms=60_000)
            clock.forward(timedelta(minutes=2))
            with pytest.raises(Conflict, match="expired"):
                await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=sb.approvals.get("a-1").digest)
            await sb.approvals.expire_due(frozenset(), timedelta())
            assert sb.approvals.get("a-1").state == "open"
            await stream.told(approval=approval("a-1", "r-1", "EXPIRED", 2, reason="nobody answered within 8 h"))
            assert (sb.approvals.get("a-1").state, sb.approvals.get("a-1").decision) == ("expired", None)


async def test_questions_of_a_machine_that_never_returns_are_closed_here(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream, expires_in_ms=60_000)
        clock.forward(timedelta(minutes=30))
        await sb.approvals.expire_due(frozenset({mill.id}), timedelta(hours=1))
        assert sb.approvals.get("a-1").state == "open"
        clock.forward(timedelta(hours=1))
        await sb.approvals.expire_due(frozenset({mill.id}), timedelta(hours=1))
        assert sb.approvals.get("a-1").state == "expired"
        assert "not a person's denial" in sb.approvals.get("a-1").reason


async def test_a_receipt_that_differs_from_the_record_is_shown_and_alarms(store_url):
    """As after a fail-over: the machine took a vote that the store then forgot, and people decided again."""
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            digest = sb.approvals.get("a-1").digest
            await sb.approvals.vote(BEN, "a-1", verdict="deny", digest=digest, note="no", vote_id="v-2")
            await stream.told(decision_receipt=receipt("v-1", "ACCEPTED", "approve", "kim"))
            await stream.told(decision_receipt=receipt("v-2", "REFUSED", "approve", "kim", "another was first"))

            found = sb.approvals.get("a-1")
            assert (found.state, found.delivery) == ("denied", "refused")
            assert (found.in_force.verdict, found.in_force.by) == ("approve", "kim")
            alarms = await sb.audited("approval.differs")
            assert [(a.details["record"], a.details["in_force"]) for a in alarms] == [("denied", "approve")]


async def test_a_receipt_decides_where_the_store_lost_the_vote(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            await stream.told(decision_receipt=receipt("v-1", "APPLIED", "deny", "kim", "no"))
            found = sb.approvals.get("a-1")
            assert (found.state, found.delivery, found.in_force.by) == ("denied", "applied", "kim")


async def test_receipts_only_ever_say_more(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            digest = sb.approvals.get("a-1").digest
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            assert sb.approvals.get("a-1").delivery == "sent"
            for application in ("APPLIED", "ACCEPTED", "REFUSED"):
                await stream.told(decision_receipt=receipt("v-1", application))
                assert sb.approvals.get("a-1").delivery == "applied"


async def test_a_decision_that_comes_too_late_is_shown_as_not_in_force(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            digest = sb.approvals.get("a-1").digest
            await sb.approvals.vote(KIM, "a-1", verdict="approve", digest=digest, vote_id="v-1")
            await stream.told(approval=approval("a-1", "r-1", "WITHDRAWN", 2, reason="the agent went on"))
            await stream.told(decision_receipt=receipt("v-1", "REFUSED", "", "", "it was withdrawn"))

            found = sb.approvals.get("a-1")
            assert (found.state, found.delivery, found.in_force.verdict) == ("approved", "refused", "withdrawn")


async def test_a_receipt_for_what_is_not_known_or_not_its_own_changes_nothing(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with mill.attached() as stream, forge.attached() as rogue:
            await asked(stream)
            await rogue.told(decision_receipt=receipt("v-1", "APPLIED"))
            await rogue.told(decision_receipt=receipt("v-1", "APPLIED", id="a-9"))
            assert sb.approvals.get("a-1").state == "open"


async def test_the_notifier_is_told_once_of_each_question(store_url):
    told = []

    class Bell:
        async def waiting(self, approval):
            told.append(approval.id)

    async with core(store_url, notifier=Bell()) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            await asked(stream)
            await stream.told(approval=approval("a-1", "r-1", revision=2))
            await stream.told(approval=approval("a-2", "r-1", "WITHDRAWN"))
            assert told == ["a-1"]
            assert [a.id for a in sb.approvals.open()] == ["a-1"]
            assert [a.id for a in sb.approvals.listed(run="r-1")] == ["a-1", "a-2"]


async def test_the_store_lost_the_approval_and_a_vote_lands_after_its_return(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream:
            await asked(stream)
            await sb.store.approvals.delete("a-1")
            await eventually(lambda: sb.projection.approval("a-1") is None)
            await stream.told(approval=approval("a-1", "r-1"))
            assert sb.approvals.get("a-1").state == "open"
            bad = DecisionReceipt(approval="a-1", decision="v", application="applied", verdict="approve", by="kim")
            with pytest.raises(Forbidden):
                await sb.approvals.receipt("m-other", bad)

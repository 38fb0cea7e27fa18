"""Runs on one machine, with the real Claude Code: started, told, interrupted, ended, resumed, and refused in one sentence."""

from pathlib import Path

from helpers.checkouts import checkout, git, write
from helpers.eventually import eventually
from helpers.mill import Mill, bash, mill
from helpers.scripted import ScriptedModel, script
from switchboard_rpc.v1 import fleet_pb2, run_pb2

APPLIED, FAILED = fleet_pb2.REPORT_STATE_APPLIED, fleet_pb2.REPORT_STATE_FAILED


async def test_a_run_goes_through_its_states_and_its_output_arrives_in_order(machine: Mill) -> None:
    run = await machine.start([{"text": "First words.\n"}, bash("echo hello > made.txt")], [{"text": "It is there.\n"}])
    await machine.approved(run)
    idle = await machine.state(run, "idle")

    assert (machine.repo / "made.txt").read_text() == "hello\n"
    states = machine.switch.states(run)
    assert states[0] == "starting"
    assert "waiting" in states
    assert idle.agent_version
    assert idle.session_id
    assert idle.permission_mode == "default"
    assert idle.branch == "main"
    assert idle.base_commit == git(machine.repo, "rev-parse", "HEAD")
    assert idle.repo == "local/repo"
    assert idle.containment in ("contained", "traced")
    assert idle.not_gated
    assert {"edits input", "denies with a message", "prints as it works"} <= set(idle.abilities)
    await machine.said(run, "It is there.")
    events = machine.switch.events[run]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].kind == run_pb2.EVENT_KIND_PROMPT
    diff = await machine.query(diff=fleet_pb2.DiffQuery(run_id=run))
    assert [(file["path"], file["status"]) for file in diff["files"]] == [("made.txt", "added")]
    held = await machine.query(output=fleet_pb2.OutputQuery(run_id=run, first=2, count=3))
    assert [event["seq"] for event in held["events"]] == [2, 3, 4]
    assert held["next"] == 5


async def test_a_follow_up_is_said_and_an_idle_session_ends_in_good_order_and_is_resumed(machine: Mill) -> None:
    run = await machine.start([{"text": "one\n"}])
    await machine.state(run, "idle")

    told = await machine.switch.instruct(message=fleet_pb2.Message(run_id=run, text=script([{"text": "two\n"}])))
    assert (await machine.outcome(told)).state == APPLIED
    await machine.said(run, "two")
    await machine.state(run, "idle")
    ended = await machine.switch.instruct(end=fleet_pb2.End(run_id=run))
    assert (await machine.outcome(ended)).state == APPLIED
    await machine.state(run, "succeeded")

    resumed = await machine.switch.instruct(resume=fleet_pb2.Resume(run_id=run, text=script([{"text": "three\n"}])))
    assert (await machine.outcome(resumed)).state == APPLIED
    await machine.said(run, "three")
    again = await machine.state(run, "idle")
    assert again.attempt == 2
    seqs = [event.seq for event in machine.switch.events[run]]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_an_interrupt_ends_the_turn_withdraws_the_question_and_leaves_the_session(machine: Mill) -> None:
    run = await machine.start([bash("echo never > never.txt")])
    asked = await machine.asked(run)

    interrupted = await machine.switch.instruct(interrupt=fleet_pb2.Interrupt(run_id=run))

    assert (await machine.outcome(interrupted)).state == APPLIED
    await machine.state(run, "idle")
    assert not (machine.repo / "never.txt").exists()
    states = {a.id: a.state for a in machine.switch.approvals(run)}
    await eventually(lambda: machine.switch.open_approval(run) is None)
    assert states[asked.id]
    again = await machine.switch.instruct(interrupt=fleet_pb2.Interrupt(run_id=run))
    report = await machine.outcome(again)
    assert (report.state, "no turn to interrupt" in report.reason) == (FAILED, True)


async def test_an_idle_session_ends_by_itself_when_its_time_is_up(tmp_path: Path, model: ScriptedModel) -> None:
    async with mill(tmp_path, model, "idle_after_s = 1") as machine:
        run = await machine.start([{"text": "done\n"}])

        await machine.state(run, "succeeded")
        assert "idle" in machine.switch.states(run)


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"agent": "nobody"}, "knows no agent 'nobody'; it knows: claude"),
    ({"mode": "diagnose"}, "the mode diagnose cannot be enforced with claude yet"),
    ({"mode": "yolo"}, "there is no mode 'yolo'; the modes are diagnose, patch, plan"),
    ({"scope": ["src/**"]}, "a scope cannot be enforced yet"),
    ({"path": "/nowhere/at/all"}, "there is no such folder"),
    ({"path": "relative/../path"}, "not a full path"),
    ({"path": "/tmp"}, "is not in a git repository"),
    ({"path": "/tmp\n<b>x</b>"}, "cannot be opened"),
    ({"path": "/tmp/\0"}, "not a full path"),
    ({"prompt": "  "}, "the prompt is empty"),
    ({"prompt": "x" * (2**20 + 1)}, "at most 1,048,576 are taken"),
]


async def test_what_cannot_start_is_refused_in_one_sentence(machine: Mill) -> None:
    for more, why in REFUSED:
        run = await machine.start([{"text": "never"}], **more)

        refused = await machine.state(run, "refused")
        assert why in refused.reason, (more, refused.reason)
        assert "\n" not in refused.reason
        assert machine.switch.states(run) == ["refused"]


async def test_a_folder_outside_of_the_allowed_ones_is_refused(tmp_path: Path, model: ScriptedModel) -> None:
    checkout(tmp_path / "other")
    (tmp_path / "repo").mkdir()
    checkout(tmp_path / "repo")
    (tmp_path / "repo" / "link").symlink_to(tmp_path / "other")
    async with mill(tmp_path, model, f'repos = ["{tmp_path}/repo"]\nmax_runs = 1') as machine:
        for path in (tmp_path / "other", tmp_path / "repo" / ".." / "other", tmp_path / "repo" / "link"):
            refused = await machine.state(await machine.start([{"text": "never"}], path=str(path)), "refused")
            assert "runs may start only under" in refused.reason

        await machine.state(await machine.start([{"text": "fine"}]), "idle")
        crowded = await machine.state(await machine.start([{"text": "never"}]), "refused")
        assert "1 runs are alive on this machine" in crowded.reason


async def test_a_repository_without_commits_is_refused_and_a_dirty_one_is_noted(machine: Mill) -> None:
    empty = machine.root / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    refused = await machine.state(await machine.start([{"text": "never"}], path=str(empty)), "refused")
    assert "has no commits yet" in refused.reason

    write(machine.repo, {"dirty.txt": "mine\n"})
    run = await machine.start([{"text": "fine\n"}])
    await machine.state(run, "idle")
    assert machine.switch.events[run][0].kind == run_pb2.EVENT_KIND_NOTICE
    assert "changes of its own when the run began" in machine.switch.events[run][0].text


async def test_an_agent_that_cannot_be_used_is_one_sentence(tmp_path: Path, model: ScriptedModel) -> None:
    async with mill(tmp_path, model, 'claude = "/nowhere/claude"') as machine:
        (agent,) = machine.switch.stream.hello.agents
        assert agent.problem
        refused = await machine.state(await machine.start([{"text": "never"}]), "refused")
        assert refused.reason == agent.problem


async def test_an_agent_that_dies_is_told_on_the_run(machine: Mill) -> None:
    run = await machine.start([bash("kill -9 $PPID; sleep 100")])
    await machine.approved(run)

    failed = await machine.state(run, "failed")
    assert "signal 9" in failed.reason


async def test_a_prompt_of_a_megabyte_works(machine: Mill) -> None:
    turns = script([{"text": "I read all of it.\n"}])
    run = await machine.start(prompt=turns + "x" * (2**20 - len(turns)))

    idle = await machine.state(run, "idle")
    await machine.said(run, "I read all of it.")
    assert len(idle.prompt) < 20_000
    assert idle.prompt.endswith("(1,048,576 characters in all)")


async def test_an_instruction_that_comes_twice_is_carried_out_once(machine: Mill) -> None:
    start = fleet_pb2.Start(
        run_id="r-twice", path=str(machine.repo), agent="claude", prompt=script([{"text": "once\n"}]), owner="ana"
    )
    await machine.switch.instruct("i-same", start=start)
    await machine.switch.instruct("i-same", start=start)
    await machine.state("r-twice", "idle")
    await machine.switch.instruct("i-same", start=start)

    await eventually(lambda: machine.switch.text("r-twice").count("once\n") == 1)
    assert machine.switch.run("r-twice").attempt == 1
    assert (await machine.outcome("i-same")).state == APPLIED
    # And the same run by two other instructions at once: one of them is told.
    for id in ("i-other", "i-another"):
        await machine.switch.instruct(id, start=start)
        assert (await machine.outcome(id)).state == FAILED
    await machine.outcome(await machine.switch.instruct(end=fleet_pb2.End(run_id="r-twice")))
    await machine.state("r-twice", "succeeded")
    resume = fleet_pb2.Resume(run_id="r-twice", text=script([{"text": "resumed\n"}]))
    ids = [await machine.switch.instruct(resume=resume), await machine.switch.instruct(resume=resume)]
    assert {(await machine.outcome(id)).state for id in ids} == {APPLIED, FAILED}
    assert (await machine.state("r-twice", "idle")).attempt == 2


async def test_what_this_daemon_does_not_know_is_answered(machine: Mill) -> None:
    unknown = await machine.switch.instruct()
    report = await machine.outcome(unknown)
    assert (report.state, "older than the switchboard" in report.reason) == (FAILED, True)

    gone = await machine.switch.instruct(message=fleet_pb2.Message(run_id="r-none", text="hello"))
    assert "holds no run r-none" in (await machine.outcome(gone)).reason


async def test_a_purge_forgets_what_an_ended_run_said(machine: Mill) -> None:
    run = await machine.start([{"text": "confidential\n"}])
    await machine.said(run, "confidential")
    await machine.state(run, "idle")
    early = await machine.switch.instruct(purge=fleet_pb2.Purge(run_id=run))
    assert "is alive: stop or end it first" in (await machine.outcome(early)).reason

    await machine.outcome(await machine.switch.instruct(end=fleet_pb2.End(run_id=run)))
    await machine.state(run, "succeeded")
    purged = await machine.switch.instruct(purge=fleet_pb2.Purge(run_id=run))
    assert (await machine.outcome(purged)).state == APPLIED
    held = await machine.query(output=fleet_pb2.OutputQuery(run_id=run, first=1, count=10))
    assert held["events"] == []
    for file in machine.daemon.home.glob("*.db*"):
        assert b"confidential" not in file.read_bytes(), file

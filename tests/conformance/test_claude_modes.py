"""What a mode promises holds on the real claude, whatever the user's own settings allow."""

import json
import sys
from pathlib import Path

import pytest
from helpers.host import Host
from helpers.scripted import script

from daemon.agents.claude_modes import not_gated
from daemon.agents.driver import AgentUnusable
from daemon.domain.agent import Answer, OutputKind, QuestionKind, Ready

FORMS = Path(__file__).with_name("forms_server.py")
ALL = ["Bash", "Edit", "Write", "NotebookEdit", "WebFetch", "Monitor", "CronCreate", "EnterWorktree", "Workflow"]
EXIT = {"tool": "ExitPlanMode", "input": {}}


@pytest.fixture
def careless(place):
    """A user whose settings allow everything."""
    rules = {"permissions": {"allow": [*ALL, "mcp__forms__cancel"], "defaultMode": "acceptEdits"}}
    (place.config / "settings.json").write_text(json.dumps(rules))
    server = {"type": "stdio", "command": sys.executable, "args": [str(FORMS)]}
    (place.config / ".claude.json").write_text(json.dumps({"mcpServers": {"forms": server}}))
    place.extra["MCP_CONNECTION_NONBLOCKING"] = "0"
    (place.cwd / "a.txt").write_text("one\n")
    (place.cwd / "n.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    return place


async def test_in_plan_mode_every_action_is_asked_or_impossible(careless):
    place = careless
    path = str(place.cwd / "a.txt")
    actions = [
        {"tool": "Bash", "input": {"command": "touch made"}},
        {"tool": "Bash", "input": {"command": "ls"}},
        {"tool": "Edit", "input": {"file_path": path, "old_string": "one", "new_string": "two"}},
        {"tool": "Write", "input": {"file_path": str(place.cwd / "made"), "content": "x"}},
        {
            "tool": "NotebookEdit",
            "input": {
                "notebook_path": str(place.cwd / "n.ipynb"),
                "new_source": "x",
                "cell_type": "code",
                "edit_mode": "insert",
            },
        },
        {"tool": "WebFetch", "input": {"url": "http://127.0.0.1:9/", "prompt": "x"}},
        {"tool": "mcp__forms__cancel", "input": {"seat": 1}},
    ]
    impossible = [
        {
            "tool": "Monitor",
            "input": {"command": "touch made", "description": "d", "timeout_ms": 1000, "persistent": False},
        },
        {"tool": "CronCreate", "input": {"cron": "* * * * *", "prompt": "x"}},
        {"tool": "EnterWorktree", "input": {}},
    ]
    reads = [{"tool": "Read", "input": {"file_path": str(place.cwd / name)}} for name in ("a.txt", "n.ipynb")]
    turns = [[block] for block in [*reads, *actions, *impossible]]
    async with place.running(script(*turns, [{"text": "finished"}]), mode="plan") as (_, host):
        for number, action in enumerate(actions, 1):
            question = await host.question(number)
            assert question.tool == action["tool"]
            host.answer(Answer(allow=False, message="plan only"), number)
        assert (await host.turn()).ok

        assert host.of(Ready)[0].permission_mode == "plan"
        assert len(host.questions) == len(actions)
        results = host.outputs(OutputKind.TOOL_RESULT)[-len(impossible) :]
        assert all("No such tool available" in result.text for result in results)
        assert sorted(path.name for path in place.cwd.iterdir()) == ["a.txt", "n.ipynb"]
        assert (place.cwd / "a.txt").read_text() == "one\n"


async def test_leaving_plan_mode_is_a_question_and_what_follows_is_still_asked(careless):
    write = {"tool": "Write", "input": {"file_path": str(careless.cwd / "made"), "content": "x"}}
    async with careless.running(script([EXIT], [write], [{"text": "finished"}]), mode="plan") as (_, host):
        assert (await host.question(1)).kind is QuestionKind.PLAN
        host.answer(Answer(allow=True), 1)
        assert (await host.question(2)).tool == "Write"
        host.answer(Answer(allow=False, message="no"), 2)

        assert (await host.turn()).ok
        assert [ready.permission_mode for ready in host.of(Ready)] == ["plan", "default"]
        assert not (careless.cwd / "made").exists()


async def test_a_plan_that_is_refused_keeps_plan_mode(careless):
    async with careless.running(script([EXIT], [{"text": "finished"}]), mode="plan") as (_, host):
        await host.question()
        host.answer(Answer(allow=False, message="think again"))

        assert (await host.turn()).ok
        assert host.outputs(OutputKind.TOOL_RESULT)[0].text == "think again"
        assert [ready.permission_mode for ready in host.of(Ready)] == ["plan"]


async def test_edits_are_asked_though_the_settings_would_start_in_a_looser_mode(place):
    (place.config / "settings.json").write_text('{"permissions": {"defaultMode": "acceptEdits"}}')
    write = {"tool": "Write", "input": {"file_path": str(place.cwd / "made"), "content": "x"}}
    async with place.running(script([write])) as (_, host):
        await host.question()
        assert host.of(Ready)[0].permission_mode == "default"


@pytest.mark.parametrize("mode", ["diagnose", "patch", "anything"])
async def test_a_mode_that_cannot_be_enforced_is_refused(place, mode):
    with pytest.raises(AgentUnusable, match=f"the mode {mode} cannot be enforced with Claude Code"):
        await place.driver.start(place.spec("hello", mode), Host().ask)


def test_a_looser_mode_says_what_it_lets_pass():
    assert not_gated("acceptEdits")[0] == "edits files in the checkout without asking"
    assert not_gated("bypassPermissions")[0] == "does everything without asking"
    assert not_gated("default") == not_gated("") == not_gated("plan")

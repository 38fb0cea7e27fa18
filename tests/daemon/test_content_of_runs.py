"""What leaves a machine of a real agent's run, repo by repo: everything, words and names, or kinds and sizes; a secret never."""

from pathlib import Path

import pytest
from helpers.checkouts import checkout, write
from helpers.eventually import eventually
from helpers.mill import Mill, bash, mill
from helpers.scripted import ScriptedModel
from switchboard_rpc.v1 import fleet_pb2

from daemon.questions import WHY_CHARACTERS

SECRET = "tr0ub4dor-and-3-and-more"
CONTENTS = "what-only-the-file-says"
WORDS = "I-will-look-into-it"
COMMAND = "cat private.txt && touch made.txt && echo $DEPLOY_TOKEN"
HALF = len(SECRET) // 2


def left(machine: Mill, run: str) -> str:
    """Everything that has left the machine of *run*: records, questions, receipts, output."""
    facts = [str(m) for _, m in machine.switch.facts if run in (getattr(m, "id", ""), getattr(m, "run_id", ""))]
    return "\n".join([*facts, *(str(event) for event in machine.switch.events[run])])


@pytest.mark.parametrize(
    ("content", "contents", "words", "names"),
    [("full", True, True, True), ("redacted", False, True, True), ("metadata", False, False, False)],
)
async def test_only_what_the_repos_rule_lets_out_leaves(
    tmp_path: Path, model: ScriptedModel, content: str, contents: bool, words: bool, names: bool
) -> None:
    checkout(tmp_path / "repo", {"private.txt": CONTENTS + "\n"})
    other = "full" if content == "metadata" else "metadata"
    rule = f'content = "{other}"\n[content_of]\n"local/repo" = "{content}"\n'
    async with mill(tmp_path, model, rule, DEPLOY_TOKEN=SECRET) as machine:
        # The secret lies across the place where the last words are cut.
        spoken = f"{WORDS} {SECRET}{'.' * (WHY_CHARACTERS - HALF)}\n"
        run = await machine.start([{"text": spoken}, bash(COMMAND)], [{"text": "finished\n"}])
        asked = await machine.asked(run)
        assert SECRET[HALF:] not in asked.why
        assert ("made.txt" in asked.input_json) is names
        await machine.decide(asked)
        await machine.state(run, "idle")
        assert machine.switch.run(run).content == content
        kinds = {event.kind for event in machine.switch.events[run]}
        assert len(kinds) >= 4, "prompt, message, call, result: that they were is told under every rule"

        write(machine.repo, {".env": "A=1\n", f"{SECRET}.pem": "x\n"})
        order = await machine.switch.order(runs=[run])
        await machine.state(run, "stopped")
        await eventually(lambda: machine.switch.receipts(order)[run].safety.id, 60)
        saved = machine.switch.receipts(order)[run].safety
        assert (saved.files, saved.left_out) == (1, 2)
        assert any(".env" in path for path in saved.not_saved) is names
        copy = await machine.query(safety=fleet_pb2.SafetyQuery(verb="show", id=saved.id))
        assert ([entry["path"] for entry in copy["entries"]], copy["files"]) == (["made.txt"] if names else [], 1)

        told = left(machine, run) + str(copy)
        assert SECRET not in told
        assert (CONTENTS in told) is contents
        assert (WORDS in told) is words
        assert ("made.txt" in told) is names

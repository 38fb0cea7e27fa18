"""What is said of a claude that cannot be used: one sentence each, for the person who started the run."""

import asyncio
import os
from pathlib import Path

import pytest
from helpers.eventually import eventually
from helpers.host import Host
from helpers.scripted import clean_environment, script

from daemon.agents.claude_code import ClaudeCode
from daemon.agents.driver import AgentUnusable, Launch, Spec

HELLO = script([{"text": "hello"}])


def only_path(folder: Path) -> dict[str, str]:
    return {**clean_environment({}), "PATH": str(folder), "HOME": str(folder)}


async def test_the_real_program_is_found_with_its_version_and_sign_in(place):
    found = await place.driver.find()

    assert (found.name, found.version, found.path) == ("claude", "2.1.330", place.program)
    assert (found.signed_in, found.problem) == (True, "")


async def test_the_settings_come_before_path_and_path_before_the_bundled_one(place, tmp_path):
    on_path = tmp_path / "bin" / "claude"
    on_path.parent.mkdir()
    on_path.symlink_to(place.program)
    env = clean_environment({"PATH": str(on_path.parent), "CLAUDE_CONFIG_DIR": str(place.config)})

    assert (await ClaudeCode(place.program, env).find()).path == place.program
    assert (await ClaudeCode(None, env).find()).path == on_path
    assert (await ClaudeCode(None, {**env, "PATH": str(tmp_path)}).find()).path == place.program


async def test_a_program_that_is_not_there_is_missing(place, tmp_path):
    driver = ClaudeCode(tmp_path / "nowhere", only_path(tmp_path))

    found = await driver.find()

    assert found.problem == f"Claude Code cannot be started: {tmp_path}/nowhere: No such file or directory"
    with pytest.raises(AgentUnusable, match="cannot be started"):
        await driver.start(place.spec(HELLO), Host().ask)


async def test_an_old_program_is_refused(place, fake, tmp_path):
    driver = ClaudeCode(fake('echo "1.0.0 (Claude Code)"'), only_path(tmp_path))

    found = await driver.find()

    assert (found.version, found.signed_in) == ("1.0.0", False)
    assert found.problem.startswith("Claude Code 1.0.0 is too old, 2.0.0 or later is needed")
    with pytest.raises(AgentUnusable, match="too old"):
        await driver.start(place.spec(HELLO), Host().ask)


async def test_something_else_under_its_name_is_not_taken_for_it(place, fake, tmp_path):
    found = await ClaudeCode(fake("echo hello; exit 4"), only_path(tmp_path)).find()

    assert found.problem.endswith("is not Claude Code: `--version` ended with code 4 and no version")


async def test_a_program_that_was_replaced_is_looked_at_again(fake, tmp_path):
    driver = ClaudeCode(fake('echo "2.0.1 (Claude Code)"'), only_path(tmp_path))
    assert (await driver.find()).version == "2.0.1"

    fake('echo "2.10.15 (Claude Code)"')

    assert (await driver.find()).version == "2.10.15"


async def test_without_a_login_nothing_is_started(place):
    place.extra = {"ANTHROPIC_API_KEY": ""}
    driver = place.driver

    found = await driver.find()

    assert (found.version, found.signed_in) == ("2.1.330", False)
    assert found.problem.startswith("claude is not signed in on this machine")
    with pytest.raises(AgentUnusable, match="claude is not signed in on this machine"):
        await driver.start(place.spec(HELLO), Host().ask)


@pytest.mark.parametrize(
    ("settings", "signed_in"), [('{"apiKeyHelper": "echo key"}', True), ("{}", False), ("not json", False)]
)
async def test_an_older_program_is_judged_by_what_lies_about(fake, tmp_path, settings, signed_in):
    (tmp_path / "settings.json").write_text(settings)
    env = only_path(tmp_path) | {"CLAUDE_CONFIG_DIR": str(tmp_path)}

    found = await ClaudeCode(fake('[ "$1" = --version ] && echo 2.0.0 || exit 1'), env).find()

    assert found.signed_in is signed_in
    assert bool(found.problem) is not signed_in


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("echo 'first' >&2; echo 'libfoo.so is missing' >&2; exit 1", "claude ended with code 1: libfoo.so is missing"),
        ("exit 0", "claude ended at once and said nothing"),
        ("kill -9 $$", "claude was killed by signal 9 (SIGKILL)"),
    ],
)
async def test_a_program_that_dies_at_its_start_says_why(place, fake, lines, sentence):
    with pytest.raises(AgentUnusable) as refused:
        await place.driver.start(place.spec(HELLO, launch=fake(lines)), Host().ask)

    assert str(refused.value) == sentence


async def test_a_launcher_that_cannot_be_executed_is_told(place, tmp_path):
    with pytest.raises(AgentUnusable, match="claude could not be started: No such file or directory"):
        await place.driver.start(place.spec(HELLO, launch=tmp_path / "nothing"), Host().ask)


async def test_a_folder_that_is_not_there_is_told(place):
    spec = Spec("r1", place.cwd / "away", HELLO, "", Launch(place.launcher()))

    with pytest.raises(AgentUnusable, match="there is no folder"):
        await place.driver.start(spec, Host().ask)


async def test_a_session_that_never_was_cannot_be_taken_up(place):
    name = "00000000-0000-4000-8000-000000000000"
    try:
        async with place.running(HELLO, resume=name) as (_, host):
            reason = (await host.ended()).reason
    except AgentUnusable as refused:
        reason = str(refused)

    assert "No conversation found" in reason


async def test_a_start_that_is_given_up_leaves_no_process(place, fake):
    silent = fake(f"echo $$ >{place.folder}/pid; exec sleep 600")
    starting = asyncio.create_task(place.driver.start(place.spec(HELLO, launch=silent), Host().ask))
    await eventually(lambda: (place.folder / "pid").exists() and (place.folder / "pid").read_text().strip())

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    with pytest.raises(ProcessLookupError):
        os.kill(int((place.folder / "pid").read_text()), 0)

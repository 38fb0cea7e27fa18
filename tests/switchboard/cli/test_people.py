"""People, machines, tokens and the audit from the command line, and what no token may ever do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.eventually import eventually
from helpers.served import PASSWORDS, Served
from helpers.ups import cli

from switchboard.store.embedded import Embedded
from switchboard.store.redis import open_store


async def test_a_person_is_invited_chooses_a_password_and_is_shut_out(served: Served) -> None:
    made = await served.cli("people", "invite", "lee", "--name", "Lee\x1b[2J", "--role", "viewer", by="ana")
    assert made.returncode == 0, made.stderr
    link = made.stdout.strip()
    assert link.startswith(served.url + "/sign-in#")
    chosen = cli("passwd", "--link", "--url", served.url, input=f"{link}\nlee's long password\n")
    assert (chosen.returncode, chosen.stdout) == (0, "lee has a password now\n"), chosen.stderr
    named = ("--as", "lee", "--password-stdin", "--url", served.url)
    assert cli("runs", *named, input="lee's long password\n").returncode == 0
    changed = cli("passwd", *named, input="lee's long password\nanother long password\n")
    assert changed.returncode == 0, changed.stderr
    assert cli("runs", *named, input="lee's long password\n").returncode == 1

    listed = await served.cli("people", "list")
    assert "Lee\\x1b[2J" in listed.stdout
    assert "\x1b" not in listed.stdout
    assert (await served.cli("people", "role", "lee", "reviewer", by="ana")).stdout == "lee is reviewer\n"
    assert (await served.cli("people", "disable", "lee", by="ana")).stdout == "lee is disabled\n"
    assert cli("runs", *named, input="another long password\n").returncode == 1
    assert (await served.cli("people", "disable", "lee", "--undo", by="ana")).stdout == "lee is active\n"
    assert (await served.cli("people", "link", "lee", by="ana")).stdout.startswith(served.url)


async def test_a_short_password_is_one_sentence(served: Served) -> None:
    named = ("--as", "kim", "--password-stdin", "--url", served.url)
    done = cli("passwd", *named, input=f"{PASSWORDS['kim']}\nshort\n")
    assert (done.returncode, "too short" in done.stderr) == (1, True)


async def test_a_machine_is_invited_and_revoked(served: Served) -> None:
    made = await served.cli("machines", "invite", "--name", "barn", by="ana")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("switchboard-daemon join ")
    assert made.stdout.count("\n") == 1
    mill = await served.machine("revoke-mill")
    async with mill.attached() as attachment:
        assert "revoke-mill" in (await served.cli("machines")).stdout
        done = await served.cli("machines", "revoke", "revoke-mill", "--reason", "lost", by="ana")
        assert done.returncode == 0, done.stderr
        await eventually(lambda: attachment.ended, within=5)
    assert "revoked" in (await served.cli("machines")).stdout


async def test_two_machines_of_one_name_are_told_apart_by_id(served: Served) -> None:
    first, second = await served.machine("twin"), await served.machine("twin")
    done = await served.cli("runs", "--machine", "twin")
    assert done.returncode == 1
    assert first.id in done.stderr
    assert second.id in done.stderr
    assert (await served.cli("runs", "--machine", first.id)).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ("approve", "a-1"),
        ("deny", "a-1", "--reason", "x"),
        ("stop", "lift", "o-1", "--reason", "x"),
        ("machines", "invite"),
        ("machines", "revoke", "m-1", "--reason", "x"),
        ("people", "invite", "mal"),
        ("people", "role", "ana", "admin"),
        ("people", "link", "ana"),
        ("tokens", "mint", "more"),
        ("audit",),
        ("purge", "r-1", "--reason", "x"),
    ],
)
async def test_what_no_token_may_asks_for_a_password(served: Served, words: tuple[str, ...]) -> None:
    done = await served.cli(*words, "--as", "ana", input="")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    # The question is shown before the password is asked for, and there is none.
    unknown = words[0] in ("approve", "deny")
    assert ("no approval" if unknown else "there is no terminal to ask for the password on") in done.stderr


async def test_a_token_that_starts_or_stops_names_its_machine(served: Served) -> None:
    unbound = await served.cli("tokens", "mint", "much", "--may", "look", "--may", "stop", by="ana")
    assert (unbound.returncode, unbound.stdout) == (1, "")
    assert "a token may stop on one machine only: say which" in unbound.stderr
    await served.machine("token-mill")
    bound = await served.cli("tokens", "mint", "bound", "--may", "stop", "--machine", "token-mill", by="ana")
    assert bound.returncode == 0, bound.stderr


async def test_a_token_is_shown_once_and_ended(served: Served) -> None:
    made = await served.cli("tokens", "mint", "ci", "--may", "look", "--days", "2", by="ana")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert (await served.cli("runs", token=token)).returncode == 0
    refused = await served.cli("stop", "order", "--all", "--reason", "x", token=token)
    assert refused.returncode == 1
    listed = json.loads((await served.cli("tokens", "list", "--json", by="ana")).stdout)["tokens"]
    [row] = [row for row in listed if row["name"] == "ci"]
    assert token not in json.dumps(listed)
    assert (await served.cli("tokens", "revoke", row["id"], by="ana")).returncode == 0
    assert (await served.cli("runs", token=token)).returncode == 1


async def test_the_audit_tells_who_did_what(served: Served) -> None:
    done = await served.cli("audit", "--limit", "1000", by="ana")
    assert done.returncode == 0, done.stderr
    assert "person.invited" in done.stdout
    assert (await served.cli("audit", by="kim")).returncode == 1


async def test_a_tampered_entry_of_the_audit_is_named(own: Served) -> None:
    whole = await own.cli("audit", "--verify", by="ana")
    assert (whole.returncode, whole.stdout) == (0, "the audit is whole\n"), whole.stderr
    async with open_store(str(Embedded(own.data).socket)) as store:
        entries = await store.client.call("XRANGE", "sb:{audit}:log", "-", "+", again=True)
        await store.client.call("DEL", "sb:{audit}:log", again=True)
        for id, (field, blob) in entries:
            forged = blob.replace(b'"via":"', b'"via":"not ') if id == b"2-0" else blob
            await store.client.call("XADD", "sb:{audit}:log", id, field, forged, again=True)

    broken = await own.cli("audit", "--verify", by="ana")
    assert (broken.returncode, broken.stdout) == (1, "")
    assert (
        broken.stderr
        == "switchboard: the audit is broken at entry 2: it, or what stood there, was changed or taken out\n"
    )
    asked = await own.cli("audit", "--verify", "--json", by="ana")
    assert (asked.returncode, json.loads(asked.stdout)) == (1, {"broken_at": 2})


async def test_nobody_there_ends_with_3() -> None:
    done = cli("runs", env={"SWITCHBOARD_URL": "http://127.0.0.1:1", "SWITCHBOARD_TOKEN": "x"})
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("switchboard: no switchboard answers at http://127.0.0.1:1")


def test_a_fault_of_ours_is_a_sentence_and_its_story_a_file(tmp_path: Path) -> None:
    program = (
        "import click, switchboard.__main__ as m\n"
        "@click.command('fail')\n"
        "def fail(): raise KeyError('inside')\n"
        "m.cli.add_command(fail)\n"
        "m.main()\n"
    )
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program, "fail"], capture_output=True, text=True, env=env, check=False)
    story = tmp_path / "switchboard" / "faults.log"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"switchboard: a fault of ours (KeyError); its story is in {story}\n"
    assert "KeyError: 'inside'" in story.read_text()


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    done = subprocess.run(
        [f"{sys.executable} -m switchboard --help | true"], shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""

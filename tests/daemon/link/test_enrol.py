"""Coming to a certificate and to the next one: lost replies, expiry by any clock, and a crash at any line."""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from helpers.clocks import StillClock
from helpers.eventually import eventually
from helpers.wire import wired

from daemon.identity import BadAddress, CannotJoin, Identity, boot_id, read_address, read_invitation
from daemon.link import enrol

HOUR_MS = 3_600_000


async def test_a_join_leaves_an_identity_that_only_this_user_reads(tmp_path: Path) -> None:
    async with wired(tmp_path) as wire:
        machine = wire.identity.machine()
        assert (machine.id, machine.name) == ("m-mill", "mill")
        assert (machine.fleet, machine.enroll) == (wire.ports.fleet_address, wire.ports.enroll_address)
        for file in wire.identity.home.iterdir():
            assert file.stat().st_mode & 0o077 == 0, file
        assert b"PRIVATE KEY" in wire.identity.key_pem()
        assert not list(wire.identity.home.glob("*.next.*"))


async def test_a_certificate_is_due_at_two_thirds_of_its_life_by_the_boot_clock(tmp_path: Path) -> None:
    clock = StillClock()
    async with wired(tmp_path, clock) as wire:
        certificate = wire.identity.certificate()
        clock.wall += 400 * 24 * HOUR_MS  # a wrong wall clock changes nothing
        clock.boot += 15 * HOUR_MS
        assert not certificate.due(boot_id(), clock.boot_ms())
        clock.boot += 2 * HOUR_MS
        assert certificate.due(boot_id(), clock.boot_ms())
        assert certificate.due("another boot", clock.boot_ms())


async def test_a_renewal_over_the_certificate_and_one_without(tmp_path: Path) -> None:
    clock = StillClock()
    async with wired(tmp_path, clock) as wire:
        first = wire.identity.key_pem()
        await enrol.renew(wire.identity, clock)
        second = wire.identity.key_pem()
        assert wire.identity.certificate().generation == 2
        clock.boot += 48 * HOUR_MS
        await enrol.renew(wire.identity, clock)

        assert wire.switch.renewals == ["attached", "expired"]
        assert wire.identity.certificate().generation == 3
        assert len({first, second, wire.identity.key_pem()}) == 3


async def test_a_lost_reply_is_asked_for_again_with_the_same_request(tmp_path: Path) -> None:
    clock = StillClock()
    async with wired(tmp_path, clock) as wire:
        wire.switch.lost_replies = 1
        before = wire.identity.key_pem()
        with pytest.raises(grpc.aio.AioRpcError):
            await enrol.renew(wire.identity, clock)
        assert wire.identity.key_pem() == before

        await enrol.renew(wire.identity, clock)

        assert wire.switch.enrolled[-1] == wire.switch.enrolled[-2]
        assert wire.identity.key_pem() != before


async def test_a_machine_that_was_restarted_renews_whatever_has_happened_to_its_certificate(tmp_path: Path) -> None:
    clock = StillClock()
    async with wired(tmp_path, clock) as wire:
        # Nobody can say how long it was off: the certificate may be over, which shows as a link that does not come about.
        certificate = wire.identity.certificate()
        from dataclasses import replace

        wire.identity.put_certificate(replace(certificate, boot="another"))
        machine = wire.identity.machine()
        wire.identity.move("127.0.0.1:1", machine.enroll)

        await enrol.renew(wire.identity, clock)

        assert wire.switch.renewals == ["expired"]


@pytest.mark.parametrize("point", ["identity.key.written", "identity.certificate.written"])
async def test_killed_while_it_renews_it_comes_back_with_a_key_that_fits(tmp_path: Path, point: str) -> None:
    clock = StillClock()
    async with wired(tmp_path, clock) as wire:
        home = wire.identity.home
        program = (
            "import asyncio; from pathlib import Path; from daemon.identity import Identity; from daemon.link import enrol;"
            "from daemon.clock import SystemClock;"
            f"asyncio.run(enrol.renew(Identity(Path({str(home)!r})), SystemClock()))"
        )

        def die() -> int:
            env = {"SWITCHBOARD_FAULT": point, "PATH": "/usr/bin:/bin"}
            return subprocess.run([sys.executable, "-c", program], env=env, timeout=60).returncode

        import asyncio

        assert await asyncio.to_thread(die) == -9

        again = Identity(home)
        certificate, key = again.certificate(), again.key_pem()
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        issued = x509.load_pem_x509_certificate(certificate.certificate_pem.encode())
        assert issued.public_key() == load_pem_private_key(key, None).public_key()
        await enrol.renew(again, clock)
        await eventually(lambda: again.certificate().generation == wire.switch.generation)


async def test_a_used_token_and_a_stranger_are_refused_in_one_sentence(tmp_path: Path) -> None:
    async with wired(tmp_path) as wire:
        home = tmp_path / "second"
        home.mkdir()
        used = f"sbj_used_{wire.switch.authority.enroll_fingerprint}"
        with pytest.raises(CannotJoin, match="this join token was used before"):
            await enrol.join(Identity(home), wire.ports.enroll_address, used, "x", StillClock())
        with pytest.raises(CannotJoin, match="is not the switchboard that made this token"):
            await enrol.join(Identity(home), wire.ports.enroll_address, f"sbj_s_{'0' * 32}", "x", StillClock())
        with pytest.raises(CannotJoin, match="no switchboard answers"):
            await enrol.join(Identity(home), "127.0.0.1:2", wire.switch.token, "x", StillClock())
        assert not Identity(home).enrolled


@pytest.mark.parametrize("line", ["", "sbj_x", "sbj_secret_xyz", f"sbj__{'0' * 32}\n", f"SBJ_s_{'0' * 32}"])
def test_a_token_that_is_not_whole_is_told(line: str) -> None:
    with pytest.raises(CannotJoin, match="not whole"):
        read_invitation("host:1", line)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:70000", "host:0"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(BadAddress, match="is not an address"):
        read_address(address)


def test_addresses_of_all_kinds() -> None:
    assert read_address("[::1]:7802") == ("::1", 7802)
    assert read_address("switchboard.example:7802") == ("switchboard.example", 7802)

"""Who gets in: every method, every kind of certificate, and how fast somebody is thrown out."""

import asyncio
import contextlib
from datetime import timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from helpers.eventually import eventually
from helpers.fleet import ANA, core, person, request_for
from helpers.valkey import ManualClock
from switchboard_rpc.v1 import approval_pb2, enroll_pb2, fleet_pb2, run_pb2, stop_pb2

from switchboard.domain.errors import Forbidden
from switchboard.domain.machine import CERTIFICATE_LIFE
from switchboard.domain.people import Role
from switchboard.rpc.access import ACCESS, Who
from switchboard.rpc.ca import Authority
from switchboard.services import fleet, guard

FILES = (approval_pb2, enroll_pb2, fleet_pb2, run_pb2, stop_pb2)
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods_by_name.values()
]


def path_of(method):
    return f"/{method.containing_service.full_name}/{method.name}"


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value


async def attach_refusal(machine, **kwargs):
    async with machine.service(**kwargs) as stub:
        call = stub.Attach()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(fleet_pb2.AttachRequest(report=1, hello=fleet_pb2.Hello(name="x", boot_epoch="b")))
            await call.read()
        return await call.code(), await call.details()


def test_every_method_of_the_contract_is_in_the_table_and_nothing_else():
    assert {path_of(method) for method in METHODS} == set(ACCESS)


@pytest.mark.parametrize("method", METHODS, ids=path_of)
async def test_only_enrolment_is_open_to_strangers(store_url, method):
    """Called without a certificate, on whichever port takes the call, with an empty request."""
    async with core(store_url) as sb:
        for port in (sb.ports.enroll, sb.ports.fleet):
            root = sb.authority.enroll.certificate if port == sb.ports.enroll else sb.authority.ca_pem
            options = (("grpc.ssl_target_name_override", "switchboard"),)
            credentials = grpc.ssl_channel_credentials(root)
            async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
                call = channel.unary_unary(path_of(method))
                error = await refusal(call(b"", timeout=5))
            if port == sb.ports.fleet:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # no handshake without a certificate
            elif ACCESS[path_of(method)] is Who.ANYBODY:
                assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
            else:
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_method_without_a_row_is_refused_to_everybody(store_url, monkeypatch):
    monkeypatch.delitem(ACCESS, "/switchboard_rpc.v1.FleetService/Renew")
    async with core(store_url) as sb:
        mill = await sb.machine()
        error = await refusal(mill.renew())

        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_certificate_of_another_authority_gets_no_handshake(store_url, tmp_path):
    async with core(store_url) as sb:
        mill = await sb.machine()
        other = Authority(tmp_path / "other", ManualClock())
        forged = other.issue(request_for(mill.key), mill.id, 1).certificate_pem.encode()
        code, _ = await attach_refusal(mill, certificate=forged)

        assert code is grpc.StatusCode.UNAVAILABLE


async def test_the_servers_own_certificates_name_no_machine(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        pair = sb.authority.server()
        code, _ = await attach_refusal(mill, certificate=pair.certificate, key=pair.key)

        assert code is not grpc.StatusCode.OK


async def test_a_certificate_of_a_machine_that_was_never_enrolled_is_refused(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        stray = sb.authority.issue(request_for(mill.key), "m-stray", 1).certificate_pem.encode()
        code, details = await attach_refusal(mill, certificate=stray)

        assert (code, "not known here" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_an_expired_certificate_gets_no_handshake_but_renews_for_thirty_days(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        clock.forward(-timedelta(days=3))
        old = sb.authority.issue(request_for(mill.key), mill.id, 1)
        mill.certificate.certificate_pem = old.certificate_pem.encode()
        clock.forward(timedelta(days=3))
        code, _ = await attach_refusal(mill)
        assert code is grpc.StatusCode.UNAVAILABLE

        fresh = ec.generate_private_key(ec.SECP256R1())
        csr = request_for(fresh)
        request = enroll_pb2.EnrollServiceRenewRequest(
            expired_pem=mill.certificate.certificate_pem, csr_pem=csr, signature=signed(mill.key, csr)
        )
        async with mill.enrolment() as stub:
            forged = enroll_pb2.EnrollServiceRenewRequest()
            forged.CopyFrom(request)
            forged.signature = signed(fresh, csr)
            assert (await refusal(stub.Renew(forged))).code() is grpc.StatusCode.PERMISSION_DENIED
            first = await stub.Renew(request)
            again = await stub.Renew(request)
            assert first.certificate.certificate_pem == again.certificate.certificate_pem
            clock.forward(timedelta(days=28))
            late = await refusal(stub.Renew(request))
            assert "over 30 days ago" in late.details()
            clock.forward(-timedelta(days=28))
        mill.key, mill.certificate = fresh, first.certificate
        async with mill.attached() as stream:
            await stream.run("r-1")


def signed(key, data):
    from cryptography.hazmat.primitives import hashes

    return key.sign(data, ec.ECDSA(hashes.SHA256()))


async def test_a_server_clock_that_is_two_days_fast_when_it_signs_locks_nobody_out(store_url):
    clock = ManualClock()
    clock.forward(timedelta(days=2))
    async with core(store_url, clock=clock) as sb:
        mill = await sb.machine()
        clock.forward(-timedelta(days=2))
        async with mill.attached() as stream:
            await stream.run("r-1")


async def test_revoking_closes_both_streams_within_seconds_and_keeps_them_closed(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        async with mill.attached() as stream, mill.uploading() as uploading:
            await stream.run("r-1")
            await uploading.batch("r-1", 1, ["a"])
            await eventually(lambda: uploading.watermarks.get("r-1") == 2)
            with pytest.raises(Forbidden):
                await sb.identity.revoke(person("ben", Role.INCIDENT_LEAD), mill.id, "left the team")
            await sb.identity.revoke(ANA, mill.id, "left the team")

            await eventually(lambda: stream.ended and uploading.error, within=5)

            assert (stream.fenced.retry, stream.error.code()) == (False, grpc.StatusCode.PERMISSION_DENIED)
            assert uploading.error.code() is grpc.StatusCode.PERMISSION_DENIED
        code, details = await attach_refusal(mill)
        assert (code, "revoked" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
        async with mill.uploading() as uploading:
            await eventually(lambda: uploading.error)
            assert uploading.error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert uploading.watermarks == {}
        assert (await refusal(mill.renew())).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_upload_ends_with_the_certificate_that_it_was_opened_with(store_url, monkeypatch):
    monkeypatch.setattr(fleet, "STANDING_EVERY", 0)
    async with core(store_url) as sb:
        mill = await sb.machine()
        copy = mill.copy()
        async with mill.attached() as stream, mill.uploading() as up, copy.uploading() as theirs:
            await stream.run("r-1")
            await up.batch("r-1", 1, ["a"])
            await eventually(lambda: up.watermarks.get("r-1") == 2)
            mill.certificate = await mill.renew()
            await sb.fleet.tick()
            assert not up.error, "a renewal whose reply was lost cuts nobody off"
            async with mill.attached() as stream:
                await eventually(lambda: up.error and theirs.error)
                assert up.error.code() is theirs.error.code() is grpc.StatusCode.UNAVAILABLE
                assert await sb.audited("machine.copied") == []

                async with copy.uploading() as theirs, mill.uploading() as up:
                    await up.batch("r-1", 2, ["b"])
                    await theirs.batch("r-1", 2, ["forged"])
                    await eventually(lambda: theirs.error and up.watermarks.get("r-1") == 3)
                    assert "newer certificate" in theirs.error.details()
                    assert [event.text for event in (await sb.output.read("r-1", 1, 10))[0]] == ["a", "b"]
                    assert [entry.subject for entry in await sb.audited("machine.copied")] == [mill.id]
                    assert not stream.ended


async def test_streams_end_when_their_certificate_expires(store_url, monkeypatch):
    monkeypatch.setattr(fleet, "STANDING_EVERY", 0)
    monkeypatch.setattr(guard, "EXPIRY_GRACE", 0)
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        clock.forward(timedelta(seconds=8) - CERTIFICATE_LIFE)
        late = sb.authority.issue(request_for(mill.key), mill.id, 1)
        clock.forward(CERTIFICATE_LIFE - timedelta(seconds=8))
        mill.certificate.certificate_pem = late.certificate_pem.encode()
        async with mill.attached() as stream, mill.uploading() as up, forge.attached() as other:
            await stream.run("r-1")
            clock.forward(timedelta(days=2))  # which is the server's own mistake, and costs nobody the connection
            await eventually(lambda: stream.ended and up.error, within=30)

            assert stream.error.code() is up.error.code() is grpc.StatusCode.UNAVAILABLE
            assert "expired" in up.error.details()
            assert not other.ended


async def test_a_revocation_at_another_replica_closes_the_streams_here(store_url):
    async with core(store_url) as here, core(store_url) as there:
        mill = await here.machine()
        async with mill.attached() as stream:
            await there.identity.revoke(ANA, mill.id, "left the team")

            await eventually(lambda: stream.ended, within=5)


async def test_a_revoked_machine_stays_out_when_the_store_is_emptied(store_url, store, tmp_path):
    async with core(store_url, tmp_path) as sb:
        mill = await sb.machine()
        kept = await sb.machine("forge")
        await sb.identity.revoke(ANA, mill.id, "left the team")
    await store.client.call("FLUSHALL", again=True)
    async with core(store_url, tmp_path) as sb:
        mill.ports = kept.ports = sb.ports
        code, _ = await attach_refusal(mill)
        assert code is grpc.StatusCode.PERMISSION_DENIED
        async with kept.attached() as stream:
            await stream.run("r-1")
        assert sb.projection.machine(kept.id).owner == "ana"


async def test_two_copies_that_take_turns_are_locked(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        copy = mill.copy()
        refused = None
        for turn in range(10):
            who = (mill, copy)[turn % 2]
            try:
                async with who.attached(boot_epoch=f"boot {turn % 2}"):
                    pass
            except grpc.aio.AioRpcError as error:
                refused = error
                break

        assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
        assert sb.projection.machine(mill.id).standing == "locked"
        assert len(await sb.audited("machine.copied")) == 1


async def test_a_daemon_that_restarts_often_is_no_copy(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        for turn in range(12):
            async with mill.attached(boot_epoch=f"boot {turn}"):
                pass
            await eventually(lambda: not sb.presence.attached(mill.id))
        for _ in range(12):
            async with mill.attached(boot_epoch="the last"):
                pass


async def test_every_refusal_of_the_upload_is_of_its_own_run_only(store_url):
    async with core(store_url) as sb:
        mill, forge = await sb.machine("mill"), await sb.machine("forge")
        async with mill.attached() as honest, forge.attached() as rogue, forge.uploading() as uploading:
            await honest.run("r-1")
            await rogue.run("r-2", owner="ben")
            await uploading.batch("r-1", 1, ["not mine"])
            await uploading.batch("r-2", 1, ["mine"])
            await eventually(lambda: uploading.watermarks.get("r-2") == 2)

            assert "r-1" not in uploading.watermarks
            assert (await sb.output.read("r-1", 1, 10))[0] == []


async def test_keys_lie_in_files_that_only_the_server_reads(store_url, tmp_path):
    async with core(store_url, tmp_path):
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ca").iterdir()}
        assert modes == {"ca.pem": 0o600, "enroll.pem": 0o600, "register.jsonl": 0o600}
        assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700


async def test_two_servers_that_start_at_once_make_one_authority(tmp_path):
    made = await asyncio.gather(*(asyncio.to_thread(Authority, tmp_path / "ca", ManualClock()) for _ in range(8)))
    assert len({authority.ca_pem for authority in made}) == 1
    assert len({authority.enroll_fingerprint for authority in made}) == 1

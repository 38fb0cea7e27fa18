"""Join tokens and renewals: used once, by the clock of the server, and proof against lost replies and copies."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from helpers.eventually import eventually
from helpers.fleet import ANA, BareMachine, core, person, request_for
from helpers.valkey import ManualClock
from switchboard_rpc.v1 import enroll_pb2

from switchboard.domain.errors import Forbidden
from switchboard.domain.people import Role


async def test_a_join_token_is_good_once(store_url):
    async with core(store_url) as sb:
        token, record = await sb.identity.invite(ANA, "mill")
        assert token not in str(record)
        first, second = BareMachine(sb.ports, "mill"), BareMachine(sb.ports, "other")
        await first.enrol(token)
        with pytest.raises(grpc.aio.AioRpcError, match="used before"):
            await second.enrol(token)
        assert [(m.id, m.owner, m.name) for m in sb.projection.machines()] == [(first.id, "ana", "mill")]


async def test_the_same_machine_asks_again_when_its_reply_was_lost(store_url):
    async with core(store_url) as sb:
        token, _ = await sb.identity.invite(ANA, "mill")
        machine = BareMachine(sb.ports, "mill")
        first, again = await machine.enrol(token), await machine.enrol(token)
        assert first.machine_id == again.machine_id
        assert first.certificate.certificate_pem == again.certificate.certificate_pem


async def test_a_join_token_is_good_for_fifteen_minutes(store_url):
    clock = ManualClock()
    async with core(store_url, clock=clock) as sb:
        token, _ = await sb.identity.invite(ANA, "mill")
        clock.forward(timedelta(minutes=15))
        with pytest.raises(grpc.aio.AioRpcError, match="over 15 minutes old"):
            await BareMachine(sb.ports, "mill").enrol(token)


async def test_of_two_hundred_that_use_a_token_at_once_exactly_one_gets_in(store_url):
    async with core(store_url) as sb:
        token, _ = await sb.identity.invite(ANA, "mill")
        thieves = [BareMachine(sb.ports, f"mill-{n}") for n in range(200)]
        answers = await asyncio.gather(*(thief.enrol(token) for thief in thieves), return_exceptions=True)

        assert sum(isinstance(answer, enroll_pb2.EnrollResponse) for answer in answers) == 1
        assert {a.code() for a in answers if isinstance(a, Exception)} == {grpc.StatusCode.PERMISSION_DENIED}
        assert len(sb.projection.machines()) == 1


@pytest.mark.parametrize("token", ["", "x", "sbj__", "sbj_" + "0" * 40 + "_" + "0" * 32, "x" * 10_000, "\x00\n"])
async def test_a_token_that_was_never_made_is_one_clear_sentence(store_url, token):
    async with core(store_url) as sb:
        machine = BareMachine(sb.ports, "mill")
        async with machine.enrolment() as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Enroll(enroll_pb2.EnrollRequest(token=token, csr_pem=request_for(machine.key)))
        assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
        assert "switchboard machines invite" in refused.value.details()


@pytest.mark.parametrize("csr", [b"", b"nonsense", b"x" * 20_000])
async def test_a_request_that_cannot_be_read_uses_no_token_up(store_url, csr):
    async with core(store_url) as sb:
        token, _ = await sb.identity.invite(ANA, "mill")
        machine = BareMachine(sb.ports, "mill")
        async with machine.enrolment() as stub:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Enroll(enroll_pb2.EnrollRequest(token=token, csr_pem=csr))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await machine.enrol(token)


async def test_a_viewer_invites_nobody(store_url):
    async with core(store_url) as sb:
        with pytest.raises(Forbidden):
            await sb.identity.invite(person("ben", Role.VIEWER), "mill")


async def test_a_hostile_name_becomes_a_label(store_url):
    async with core(store_url) as sb:
        token, _ = await sb.identity.invite(ANA, "")
        machine = BareMachine(sb.ports, "../../\x1b[2J<script>\n" + "x" * 500)
        await machine.enrol(token)
        name = sb.projection.machine(machine.id).name
        assert name.isprintable()
        assert len(name) <= 80


async def test_a_renewal_whose_reply_was_lost_is_answered_with_the_same_certificate(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        fresh = ec.generate_private_key(ec.SECP256R1())
        first, again = await mill.renew(fresh), await mill.renew(fresh)
        assert first.certificate_pem == again.certificate_pem
        assert (first.generation, again.generation) == (2, 2)
        async with mill.attached():  # the old one is good for one more connection: the reply may be lost for good
            pass
        mill.key, mill.certificate = fresh, first
        async with mill.attached() as stream:
            await stream.run("r-1")
        assert 86_000 < first.life_s <= 86_400


async def test_a_second_key_for_one_renewal_locks_the_machine_and_closes_its_streams(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        copy = mill.copy()
        fresh = ec.generate_private_key(ec.SECP256R1())
        mill.certificate, mill.key = await mill.renew(fresh), fresh
        async with mill.attached() as stream:
            with pytest.raises(grpc.aio.AioRpcError, match="locked"):
                await copy.renew(ec.generate_private_key(ec.SECP256R1()))

            await eventually(lambda: stream.ended, within=5)
            assert not stream.fenced.retry
        assert sb.projection.machine(mill.id).standing == "locked"
        assert len(await sb.audited("machine.copied")) == 1


async def test_an_old_copy_is_refused_without_locking_the_real_machine_out(store_url):
    async with core(store_url) as sb:
        mill = await sb.machine()
        old = mill.copy()
        for _ in range(2):
            fresh = ec.generate_private_key(ec.SECP256R1())
            mill.certificate, mill.key = await mill.renew(fresh), fresh
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError, match="old copy"):
                async with old.attached():
                    pass
        async with mill.attached() as stream:
            await stream.run("r-1")
        assert len(await sb.audited("machine.copied")) == 1

"""What must hold of a machine's identity: generations only rise, and a token is good once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchboard.domain.errors import Forbidden
from switchboard.domain.machine import Cloned, JoinToken, Machine, Standing

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MILL = Machine(id="m-1", name="mill", owner="ana", enrolled_at=NOON, certificate_until=NOON, key_fingerprint="k-1")
TOKEN = JoinToken(id="t", name="mill", by="ana", until=NOON + timedelta(minutes=15))


@given(st.lists(st.integers(0, 6), max_size=10))
def test_only_the_newest_generation_renews_and_each_renewal_counts_one(presented):
    machine = MILL
    for generation in presented:
        before = machine
        try:
            machine = machine.renewed(presented=generation, fingerprint="k", certificate_pem="c", until=NOON)
        except Cloned:
            assert generation != before.generation
            assert machine is before
        else:
            assert machine.generation == before.generation + 1


@pytest.mark.parametrize("standing", Standing)
def test_only_an_active_machine_takes_part(standing):
    machine = replace(MILL, standing=standing)
    if standing is Standing.ACTIVE:
        assert machine.checked() is machine
    else:
        with pytest.raises(Forbidden, match="invite it anew"):
            machine.checked()


@given(st.lists(st.tuples(st.sampled_from(["m-1", "m-2"]), st.integers(0, 20)), max_size=6))
def test_a_join_token_makes_one_machine_in_its_time(tries):
    token, used = TOKEN, []
    for machine, minutes in tries:
        try:
            token = token.used(machine, NOON + timedelta(minutes=minutes))
        except Forbidden:
            assert used or minutes >= 15
        else:
            used.append(machine)
            assert minutes < 15
    assert len(used) <= 1

"""Records survive being written down, whatever their texts hold and whichever version wrote them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.approval import Application, ApprovalState, Verdict
from daemon.domain.facts import ApprovalRecord, OrderRecord, ReceiptRecord, RunRecord, Saved, pack, unpack
from daemon.domain.run import RunState

texts = st.text(st.characters(), max_size=20)


@given(st.builds(RunRecord, id=texts, prompt=texts, path=texts, not_gated=st.lists(texts).map(tuple)))
def test_a_run_comes_back_as_it_was(run):
    assert unpack(RunRecord, pack(run)) == run


@pytest.mark.parametrize("verdict", [None, Verdict.DENY])
def test_an_approval_comes_back_with_its_enums(verdict):
    record = ApprovalRecord("a1", "r1", 1, "tool", "Bash", "{}", "{}", "sha256:0", verdict=verdict)
    back = unpack(ApprovalRecord, pack(record))

    assert back == record
    assert isinstance(back.state, ApprovalState)
    assert isinstance(back.application, Application)


def test_a_receipt_comes_back_with_what_was_saved():
    receipt = ReceiptRecord("o1", "r1", 1, safety=Saved("s1", not_saved=(".env: looks like a credential",)))

    assert unpack(ReceiptRecord, pack(receipt)) == receipt


def test_an_order_keeps_its_selector():
    order = OrderRecord("o1", 7, {"all": True, "except_repos": ["h/a"]})

    assert unpack(OrderRecord, pack(order)) == order


def test_an_older_record_takes_defaults_and_a_younger_one_is_read_for_what_is_known():
    older = {"id": "r1", "state": "idle"}
    younger = json.loads(pack(RunRecord("r1"))) | {"mood": "good", "state": "idle"}

    assert unpack(RunRecord, json.dumps(older)) == RunRecord("r1", state=RunState.IDLE)
    assert unpack(RunRecord, json.dumps(younger)) == RunRecord("r1", state=RunState.IDLE)

"""Blocking work ends, or the waiting for it does."""

import asyncio
import threading

import pytest

from daemon.threads import TookTooLong, soon


async def test_the_loop_goes_on_meanwhile_and_the_result_comes():
    go = threading.Event()
    waiting = asyncio.ensure_future(soon(lambda: go.wait(10) and "done", limit_s=10))
    await asyncio.sleep(0)
    go.set()

    assert await waiting == "done"


async def test_its_error_is_ours():
    def fail() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await soon(fail, limit_s=10)


async def test_a_disk_that_hangs_is_left_behind():
    go = threading.Event()
    with pytest.raises(TookTooLong, match=r"did not answer within 0\.01 s"):
        await soon(go.wait, limit_s=0.01)
    go.set()

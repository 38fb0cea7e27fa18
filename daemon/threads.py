"""Work that blocks on a disk, away from the loop and with an end to the waiting."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


class TookTooLong(Exception):
    """The text is one sentence."""


async def soon(work: Callable[[], R], *, limit_s: float) -> R:
    """Do *work* in a thread of its own. Raises TookTooLong after *limit_s*, and leaves the thread behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def settle(result: R | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # an R, as there is no error

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # whatever it is belongs to the one who waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    # A daemon thread: a file system that hangs must not keep the process from ending.
    threading.Thread(target=run, name="disk work", daemon=True).start()
    await asyncio.wait([done], timeout=limit_s)
    if not done.done():
        done.cancel()
        raise TookTooLong(f"the disk did not answer within {limit_s:g} s: there is too much to read, or it hangs")
    return done.result()

"""Commands that come together go together: one write and one fsync for all that wait, on a few connections.

A batch that breaks is in doubt as a whole; what that means for each command is its sender's to say.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TooSlow

LANES = 8  # batches under way
BATCH = 128  # commands
BATCH_BYTES = 1 << 20

Command = tuple[Any, ...]


class Lines:
    def __init__(self, pool: ConnectionPool, timeout: float) -> None:
        # A maker of connections only: a lane holds one at most, so there is nothing to wait for.
        # Any, because redis-py's annotations are partial.
        self._pool: Any = pool
        self._timeout = timeout
        self._idle: list[Any] = []
        self._waiting: deque[_Sent] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._flushing = self._closed = False

    async def send(self, *commands: Command) -> list[Any]:
        """Send *commands*, in their order, with whatever else is sent in this moment; return their answers.

        Raises RedisError: the link's, or the first refusal among the answers.
        """
        loop = asyncio.get_running_loop()
        answers: asyncio.Future[list[Any]] = loop.create_future()
        text = b"".join(packed(command) for command in commands)
        self._waiting.append(_Sent(text, len(commands), answers, loop.time()))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return await answers

    async def aclose(self) -> None:
        self._closed = True
        for task in list(self._under_way):
            task.cancel()
        try:
            await asyncio.gather(*self._under_way, return_exceptions=True)
        finally:
            # Without a wait, so that nothing stays open when whoever closes this is cancelled meanwhile.
            self._flush()
            while self._idle:
                await self._idle.pop().disconnect(nowait=True)
        await asyncio.sleep(0)  # their sockets are closed in the loop's next round
        if isinstance(self._pool, SentinelConnectionPool):
            for sentinel in self._pool.sentinel_manager.sentinels:
                await sentinel.aclose(close_connection_pool=True)

    def _flush(self) -> None:
        self._flushing = False
        while self._closed and self._waiting:
            self._waiting.popleft().fail(Broken("this end was closed"))
        too_old = asyncio.get_running_loop().time() - self._timeout
        while self._waiting and len(self._under_way) < LANES:
            batch: list[_Sent] = []
            size = 0
            while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
                sent = self._waiting.popleft()
                if sent.at < too_old:
                    sent.fail(TooSlow(f"nothing was sent within {self._timeout} s"))
                elif not sent.answers.done():  # else its sender has gone
                    batch.append(sent)
                    size += len(sent.text)
            if batch:
                task = asyncio.create_task(self._carry(batch), name="store")
                self._under_way.add(task)
                task.add_done_callback(self._carried)

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._flush()

    async def _carry(self, batch: list["_Sent"]) -> None:
        try:
            answers = iter(await self._exchange([sent.text for sent in batch], sum(sent.count for sent in batch)))
        except asyncio.CancelledError:
            for sent in batch:
                sent.answers.cancel()
            raise
        except (RedisError, OSError) as error:
            for sent in batch:
                sent.fail(error)
            return
        for sent in batch:
            mine = [next(answers) for _ in range(sent.count)]
            refusal = next((answer for answer in mine if isinstance(answer, ResponseError)), None)
            if refusal is not None:
                sent.fail(refusal)
            elif not sent.answers.done():
                sent.answers.set_result(mine)

    async def _exchange(self, texts: list[bytes], count: int) -> list[Any]:
        # One time-out around all of it; redis-py's own lose a cancellation that comes while they write (before 3.12).
        try:
            async with asyncio.timeout(self._timeout):
                connection = self._idle.pop() if self._idle else self._pool.make_connection()
                try:
                    await _ready(connection)
                    answers = await _exchanged(connection, texts, count)
                except BaseException:
                    # Answers that are still on their way belong to nobody.
                    await connection.disconnect(nowait=True)
                    raise
                if self._closed:
                    await connection.disconnect(nowait=True)
                else:
                    self._idle.append(connection)
                return answers
        except TimeoutError as error:
            raise TooSlow(f"no answer within {self._timeout} s") from error


async def _ready(connection: Any) -> None:
    """Connect it; once more when the other end has closed it since its last use, or said what nobody asked."""
    if connection.is_connected:
        try:
            stale = await connection.can_read()
        except (RedisError, OSError):
            stale = True
        if stale:
            await connection.disconnect(nowait=True)
    await connection.connect()


async def _exchanged(connection: Any, texts: list[bytes], count: int) -> list[Any]:
    await connection.send_packed_command([b"".join(texts)], check_health=False)
    answers: list[Any] = []
    for _ in range(count):
        try:
            answers.append(await connection.read_response())
        except ResponseError as error:
            answers.append(error)
    return answers


@dataclass(slots=True)
class _Sent:
    text: bytes
    count: int
    answers: "asyncio.Future[list[Any]]"
    at: float

    def fail(self, error: Exception) -> None:
        if not self.answers.done():
            self.answers.set_exception(error)


def packed(command: Command) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for part in command:
        raw = part if isinstance(part, bytes) else str(part).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)

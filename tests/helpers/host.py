"""Stands where the runner stands: keeps what a session says, and lets a test answer what it asks."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

from daemon.agents.driver import Session
from daemon.domain.agent import Answer, Ended, Output, OutputKind, Question, SessionEvent, TurnEnded

T = TypeVar("T")
PATIENCE_S = 30.0


class Host:
    def __init__(self) -> None:
        self.events: list[SessionEvent] = []
        self.questions: list[Question] = []
        self.withdrawn: list[Question] = []
        self._answers: list[asyncio.Future[Answer]] = []
        self._news = asyncio.Condition()

    async def ask(self, question: Question) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self.questions.append(question)
        await self._tell()
        try:
            return await answer
        except asyncio.CancelledError:
            self.withdrawn.append(question)
            await self._tell()
            raise

    async def listen(self, session: Session) -> None:
        async for event in session.events():
            self.events.append(event)
            await self._tell()

    async def question(self, number: int = 1) -> Question:
        """The *number*th question, once it is there."""
        return await self.until(lambda: len(self.questions) >= number and self.questions[number - 1])

    def answer(self, answer: Answer | Exception, number: int = 1) -> None:
        if isinstance(answer, Exception):
            self._answers[number - 1].set_exception(answer)
        else:
            self._answers[number - 1].set_result(answer)

    async def turn(self, number: int = 1) -> TurnEnded:
        """The end of the *number*th turn."""
        return await self.until(lambda: len(self.of(TurnEnded)) >= number and self.of(TurnEnded)[number - 1])

    async def ended(self) -> Ended:
        return await self.until(lambda: self.of(Ended) and self.of(Ended)[0])

    async def until(self, fact: Callable[[], T | bool]) -> T:
        """Wait for a fact, about this host or about the world outside."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not (value := fact()):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05), self._news:
                            await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it did not happen; what did: {self.events} {self.questions}") from None
        return value  # type: ignore[return-value]

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def outputs(self, kind: OutputKind) -> list[Output]:
        return [event for event in self.of(Output) if event.kind is kind]

    def text(self, kind: OutputKind = OutputKind.MESSAGE) -> str:
        return "".join(output.text for output in self.outputs(kind))

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

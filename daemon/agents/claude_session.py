"""One live session of Claude Code: the SDK's client, its questions put to *ask*, its output as events."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)

from daemon.agents import claude_found, claude_modes, claude_questions
from daemon.agents.claude_messages import Translator
from daemon.agents.claude_process import ClaudeProcess
from daemon.agents.driver import AgentGone, AgentUnusable, Ask, Json, Spec
from daemon.domain.agent import Answer, Ended, Question, Ready, SessionEvent

BACKLOG = 1_000  # events not yet fetched at which claude is made to wait
START_S = 60.0
REPLY_S = 10.0
LEAVE_S = 3.0  # for a program whose input was closed
TERM_S = 2.0  # and for one that was sent SIGTERM


class ClaudeSession:
    """One live claude. Its events are queued for one reader; claude waits when they are not fetched."""

    def __init__(self, spec: Spec, ask: Ask, env: Mapping[str, str]) -> None:
        self._spec, self._ask = spec, ask
        self._queue: asyncio.Queue[SessionEvent] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()
        self._ending = False
        self._asking: set[asyncio.Task[Any]] = set()
        self._requests: dict[str, asyncio.Task[None]] = {}  # other than can_use_tool, by their id
        self._tools: dict[str, Json] = {}  # can_use_tool as claude sent it, by its tool call
        self._said = Translator()
        self._process = ClaudeProcess(_argv(spec), spec.cwd, _environment(spec, env), self._take, self._over)
        options = ClaudeAgentOptions(can_use_tool=self._may_use, cwd=spec.cwd, forward_subagent_text=True)
        self._client = ClaudeSDKClient(options, transport=self._process)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def open(self) -> None:
        """Start the program and shake hands. Raises AgentUnusable."""
        try:
            async with asyncio.timeout(START_S):
                await self._begin()
        except BaseException as error:  # a start that is called off leaves no process either
            await self.end()
            if isinstance(error, TimeoutError):
                raise AgentUnusable(f"claude did not answer within {START_S:.0f} s of its start") from error
            if isinstance(error, AgentGone):
                raise AgentUnusable(self._why() or "claude ended at once and said nothing") from error
            if isinstance(error, OSError):
                raise AgentUnusable(f"claude could not be started: {error.strerror or error}") from error
            raise

    async def _begin(self) -> None:
        # The SDK would wait a minute for a program that died while they shook hands.
        await self._until_gone(self._client.connect())
        info = await self._client.get_server_info() or {}
        account = info.get("account") or {}
        has_none = account.get("tokenSource") == "none" and not account.get("apiKeySource")
        if has_none and account.get("apiProvider") == "firstParty":
            raise AgentUnusable(claude_found.NOT_SIGNED_IN)
        if self._spec.prompt:
            await self._until_gone(self._client.query(self._spec.prompt))
        else:  # it says nothing of itself before it is spoken to
            self._put(
                self._said.ready(
                    session=self._spec.resume,
                    version=str(info.get("claude_code_version") or ""),
                    permission_mode=str(info.get("current_permission_mode") or ""),
                )
            )

    async def events(self) -> AsyncIterator[SessionEvent]:
        while True:
            event = await self._queue.get()
            if self._queue.qsize() < BACKLOG:
                self._room.set()
            yield event
            if isinstance(event, Ended):
                return

    async def send(self, text: str) -> None:
        await self._reply(self._client.query(text))

    async def interrupt(self) -> None:
        await self._reply(self._client.interrupt())
        self._withdraw()

    async def end(self) -> None:
        first, self._ending = not self._ending, True
        self._room.set()
        if first:
            try:
                await self._leave()
            finally:
                self._over()
        await self._gone.wait()

    async def _leave(self) -> None:
        try:
            if self._said.in_turn:
                with contextlib.suppress(AgentGone):  # it is on its way out, or will be made to go
                    await self._reply(self._client.interrupt(), within=TERM_S)
            self._withdraw()
            await self._process.end_input()
            if not await self._process.exited(LEAVE_S):
                self._process.terminate()
            if await self._process.exited(TERM_S) and self._process.reading:
                with contextlib.suppress(TimeoutError):  # an escapee may keep its pipes open, and talk
                    async with asyncio.timeout(TERM_S):
                        await self._gone.wait()  # its last words
        finally:
            await self._client.disconnect()  # also when whoever waits for the end has lost patience

    async def _take(self, frame: Json) -> bool:
        """Sort what claude says: the SDK gets its own, questions it does not know and all output come here."""
        kind = frame["type"]
        if kind == "control_response":
            return True
        if kind == "control_cancel_request":
            serving = self._requests.get(str(frame.get("request_id")))
            if serving is not None:
                serving.cancel()
            return serving is None
        if kind == "control_request":
            given = frame.get("request")
            request: Json = given if isinstance(given, dict) else {"request": given}
            known = request.get("subtype") == "can_use_tool" and "tool_name" in request
            if known and isinstance(request.get("input"), dict):
                request.pop("permission_suggestions", None)  # never handed back, so never parsed either
                self._tools[str(request.get("tool_use_id"))] = request
                return True
            name = str(frame.get("request_id"))
            self._requests[name] = asyncio.create_task(self._serve(name, request), name=f"claude's request {name}")
            return False
        self._put(self._said.take(frame))
        if self._queue.qsize() >= BACKLOG and not self._ending:
            self._room.clear()
            await self._room.wait()
        return False

    def _put(self, events: list[SessionEvent]) -> None:
        for event in events:
            self._queue.put_nowait(event)
            if isinstance(event, Ready) and (notice := claude_modes.notice(event.permission_mode)):
                self._queue.put_nowait(notice)

    async def _may_use(
        self, tool: str, call: Json, context: ToolPermissionContext
    ) -> PermissionResultAllow | PermissionResultDeny:
        request = self._tools.pop(str(context.tool_use_id), None) or {"tool_name": tool, "input": call}
        try:
            question = await asyncio.to_thread(claude_questions.of_tool, request, self._spec.cwd)
            return claude_questions.tool_result(question, await self._answer(question))
        except Exception as error:  # whatever goes wrong with a question, the answer is no and says why
            return PermissionResultDeny(message=_undecided(error))

    async def _serve(self, name: str, request: Json) -> None:
        """Put a request that the SDK would reject unseen."""
        response: Json | None = None
        answer = Answer(allow=False)
        try:
            question = claude_questions.of_control(request)
            answer = await self._answer(question)
            response, error = claude_questions.control_result(question, answer)
        except Exception as wrong:  # as above
            error = _undecided(wrong)
        finally:
            self._requests.pop(name, None)
        body: Json = {"request_id": name}
        body |= (
            {"subtype": "error", "error": error} if response is None else {"subtype": "success", "response": response}
        )
        try:
            await self._process.write(json.dumps({"type": "control_response", "response": body}) + "\n")
            if answer.interrupt and not answer.allow:
                await self.interrupt()
        except AgentGone:
            pass  # told by Ended

    async def _answer(self, question: Question) -> Answer:
        asking = asyncio.current_task()
        assert asking is not None
        self._asking.add(asking)
        try:
            return await self._ask(question)
        finally:
            self._asking.discard(asking)

    def _withdraw(self) -> None:
        """Nobody waits for these answers any more: whoever was asked is told by the cancellation."""
        for asking in self._asking:
            asking.cancel()

    def _over(self) -> None:
        if self._gone.is_set():
            return
        self._gone.set()
        self._withdraw()
        self._queue.put_nowait(Ended("" if self._ending else self._why(), self._process.code))

    def _why(self) -> str:
        """Why it is gone, in one sentence; "" when it went in good order."""
        code = self._process.code
        last = self._said.error or (self._process.errors[-1] if self._process.errors else "")
        if code is None:
            return "claude is gone, and something that it started still runs"
        number = -code if code < 0 else code - 128
        if number in _SIGNALS:
            return f"claude was killed by signal {number} ({_SIGNALS[number]})"
        if code:
            return f"claude ended with code {code}" + (f": {last}" if last else "")
        return "claude ended in the middle of a turn" if self._said.in_turn else ""

    async def _until_gone(self, saying: Coroutine[Any, Any, None]) -> None:
        """Run it, unless claude dies first. Raises AgentGone."""
        talking = asyncio.create_task(saying, name="a word with claude")
        leaving = asyncio.create_task(self._gone.wait(), name="claude's end")
        try:
            await asyncio.wait({talking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not talking.done():
                raise AgentGone(self._why() or "claude is no longer there")
            await talking
        finally:
            leaving.cancel()
            if not talking.done():
                talking.cancel()
                await asyncio.wait({talking})

    async def _reply(self, saying: Coroutine[Any, Any, None], within: float = REPLY_S) -> None:
        if self._gone.is_set():
            saying.close()
            raise AgentGone(self._why() or "claude is no longer there")
        try:
            async with asyncio.timeout(within):
                await self._until_gone(saying)
        except TimeoutError as error:
            raise AgentGone(f"claude did not answer within {within:.0f} s") from error
        except AgentGone:
            raise
        except Exception as error:  # the SDK raises bare Exceptions for what claude refuses
            raise AgentGone(f"claude did not take it: {error}") from error


_SIGNALS = {number.value: number.name for number in signal.Signals}


def _undecided(error: Exception) -> str:
    return f"refused, because the question could not be put to anyone: {error or type(error).__name__}"


def _argv(spec: Spec) -> list[str]:
    argv = [str(spec.launch.program), "--output-format", "stream-json", "--verbose", "--input-format", "stream-json"]
    argv += ["--include-partial-messages", "--permission-prompt-tool", "stdio"]
    argv += claude_modes.flags(spec.mode)
    if spec.resume:
        argv.append(f"--resume={spec.resume}")  # in one word: an id is text from a stranger, and must not become a flag
    return argv


def _environment(spec: Spec, env: Mapping[str, str]) -> dict[str, str]:
    return {
        **env,
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_CODE_SDK_READS_SESSION_STATE": "1",  # it then tells when it runs and when it is idle
        "PWD": str(spec.cwd),
        **spec.launch.env,
    }

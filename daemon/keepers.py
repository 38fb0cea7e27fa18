"""The socket that keepers call in on: whoever names a launch's secret, once, and was started by this daemon, is its keeper."""

import asyncio
import hmac
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from daemon import faults, proctable
from daemon.clock import Clock
from daemon.domain.stop_ladder import LADDER, PATIENCE_MS
from daemon.domain.tree import Born, Seen, Table, living
from daemon.kept import Keeper, KeeperFailed

PING_EVERY_S = 2.0
CALLING_IN_S = 5.0  # a connection that has not named its run by then is nobody's
LONGEST_WORD = 65_536
MOST_STRANGERS = 64
LONGEST_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux


@dataclass(slots=True)
class Expected:
    """A keeper that was launched and has not called in yet."""

    run: str
    marker: str
    secret: str
    arrived: asyncio.Future[Keeper]
    keeper: Keeper | None = None


class Keepers:
    # Of every instance in this process: a keeper of one must not look like an orphan to another.
    ever: set[Born] = set()  # noqa: RUF012 - shared on purpose

    def __init__(self, home: Path, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._expected: dict[str, Expected] = {}
        self._of: dict[str, Keeper] = {}
        self._retired: set[Born] = set()
        self._calls: dict[Call, None] = {}  # in the order in which they came
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self.socket = home / "keepers.sock"

    async def open(self) -> None:
        if len(os.fsencode(self.socket)) > LONGEST_PATH:
            self.socket = Path(tempfile.mkdtemp(prefix="switchboard-")) / "keepers.sock"  # 0700, as the home is
        self.socket.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: Call(self), str(self.socket), backlog=512)
        finally:
            os.umask(mask)
        self._tick()

    def close(self) -> None:
        if self._ticking:
            self._ticking.cancel()
        if self._server:
            self._server.close()
        for call in list(self._calls):
            call.hang_up()
        for expected in list(self._expected):
            self.revoke(expected)
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self._home:
            self.socket.parent.rmdir()

    def of(self, run: str) -> Keeper | None:
        return self._of.get(run)

    def all(self) -> list[Keeper]:
        return list(self._of.values())

    def again(self) -> Table:
        """Return the keepers as they stand now."""
        return proctable.read(keeper.pid for keeper in self._of.values())

    def expect(self, run: str, marker: str) -> str:
        """Return the secret with which the run's next keeper may call in, once."""
        self.revoke(run)
        self.forget(run)
        arrived: asyncio.Future[Keeper] = asyncio.get_running_loop().create_future()
        self._expected[run] = Expected(run, marker, secrets.token_urlsafe(32), arrived)
        return self._expected[run].secret

    async def arrival(self, run: str, timeout: float) -> Keeper:
        expected = self._expected.get(run)
        if expected is None:
            raise KeeperFailed(f"run {run} was not launched, or was stopped before it started")
        try:
            return await asyncio.wait_for(asyncio.shield(expected.arrived), timeout)
        except TimeoutError:
            raise KeeperFailed(f"run {run}: its keeper did not call in within {timeout:g} s") from None

    def revoke(self, run: str) -> None:
        """A keeper of this run that has not called in yet is refused, and so starts nothing."""
        expected = self._expected.pop(run, None)
        if expected and not expected.arrived.done():
            expected.arrived.set_exception(KeeperFailed(f"run {run} was stopped before its agent started"))
            expected.arrived.exception()  # nobody need be waiting for it

    def forget(self, run: str) -> None:
        self._expected.pop(run, None)
        keeper = self._of.pop(run, None)
        if keeper:
            self._retired.add(keeper.born)
            keeper.hang_up()

    def prune(self, table: Table) -> None:
        """Let go of retired keepers that have left the process table: their exit codes have been collected."""
        for born in [born for born in self._retired if born[0] not in table or table[born[0]].start != born[1]]:
            self._retired.discard(born)
            self.ever.discard(born)

    def steady(self, table: Table) -> bool:
        """Whether no keeper is dead whose orphans may have come to this process."""
        return all(keeper.proven or living(table, keeper.born) for keeper in self._of.values())

    def welcome(self, call: "Call", words: dict[str, Any], pid: int) -> Expected | None:
        """Return whom this call is from, or None for a stranger."""
        secret = str(words.get("secret", "")).encode()
        for expected in self._expected.values():
            if expected.keeper is None and hmac.compare_digest(expected.secret.encode(), secret):
                break
        else:
            return None
        process = self._started_here(pid)
        if process is None or expected.marker != words.get("hello") or call.transport is None:
            return None
        keeper = expected.keeper = Keeper(expected.run, process.born, call.transport, self._clock)
        self._of[expected.run] = keeper
        self.ever.add(keeper.born)
        faults.point("process.keeper.welcomed")
        return expected

    def _started_here(self, pid: int) -> Seen | None:
        """Return the caller if a driver of this daemon started it; a process of another run could steal a secret, and would
        as a keeper be spared when its own run is stopped."""
        caller = proctable.read([pid]).get(pid)
        at = caller
        while at and at.pid != os.getpid():
            if at.session != os.getsid(0) or at.born in self.ever:
                return None
            at = proctable.read([at.parent]).get(at.parent)
        return caller if at else None

    def enter(self, call: "Call") -> None:
        """Take in a stranger. In a flood the oldest goes: a keeper says its word at once."""
        self._calls[call] = None
        strangers = [call for call in self._calls if call.expected is None]
        for call in strangers[:-MOST_STRANGERS]:
            call.hang_up()

    def leave(self, call: "Call") -> None:
        self._calls.pop(call, None)

    def _tick(self) -> None:
        for keeper in self._of.values():
            keeper.ping()
        self._ticking = asyncio.get_running_loop().call_later(PING_EVERY_S, self._tick)


class Call(asyncio.Protocol):
    """One connection: a stranger until it has said hello with the secret of a launch."""

    def __init__(self, keepers: Keepers) -> None:
        self.keepers = keepers
        self.transport: asyncio.Transport | None = None
        self.expected: Expected | None = None
        self._pid = 0
        self._rest = b""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._pid, uid = proctable.peer(transport.get_extra_info("socket"))
        if uid != os.getuid():
            transport.abort()
            return
        self.keepers.enter(self)
        self._deadline = asyncio.get_running_loop().call_later(CALLING_IN_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_WORD:
            self.hang_up()
        for line in lines:
            try:
                words = json.loads(line)
            except ValueError:
                words = None
            if not isinstance(words, dict) or not self._take(words):
                self.hang_up()
                return

    def connection_lost(self, _: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        self.keepers.leave(self)
        if self.expected and self.expected.keeper:
            self.expected.keeper.gone()
            if not self.expected.arrived.done():
                self._fail("its keeper ended before the agent had started")

    def hang_up(self) -> None:
        if self.transport:
            self.transport.abort()

    def _take(self, words: dict[str, Any]) -> bool:
        """Act on one line; False hangs up."""
        if self.expected is None:
            self.expected = self.keepers.welcome(self, words, self._pid)
            if self.expected is None or self.transport is None:
                return False
            if self._deadline:
                self._deadline.cancel()
            ladder = [[rung.value, PATIENCE_MS[rung]] for rung in LADDER]
            self.transport.write(json.dumps({"ladder": ladder}).encode() + b"\n")
            return True
        keeper = self.expected.keeper
        if keeper is None:
            return False
        keeper.heard()
        match words:
            case {"agent": int(pid)}:
                keeper.agent_pid = pid
                if not self.expected.arrived.done():
                    self.expected.arrived.set_result(keeper)
            case {"failed": str(reason)}:
                self._fail(reason)
            case {"exited": int(code)}:
                keeper.tell_exit(code)
            case {"empty": _}:
                keeper.empty = True
        return True

    def _fail(self, reason: str) -> None:
        if self.expected and not self.expected.arrived.done():
            self.expected.arrived.set_exception(KeeperFailed(f"run {self.expected.run}: {reason[:500]}"))
            self.expected.arrived.exception()  # nobody need be waiting for it

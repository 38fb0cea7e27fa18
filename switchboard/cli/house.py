"""What `up` keeps: a server and a daemon, each started again when it dies, and `up.json`, which tells the command line of them."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from switchboard.cli import notes
from switchboard.cli.errors import Failed
from switchboard.cli.line import Line
from switchboard.cli.parts import Leash, Part
from switchboard.cli.ports import reachable, shown
from switchboard.cli.tables import agent_line
from switchboard.cli.text import plain
from switchboard.settings import Address

FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_AFTER_S = 0.2, 10.0, 60.0
ATTACHES_WITHIN_S = 60.0
FACTS_EVERY_S = 2.0  # the server may have started its store again
TOKEN_EVERY_S = 7 * 24 * 3600.0  # the token of up.json lives 30 days
DAEMON_ENDS_WITHIN_S, SERVER_ENDS_WITHIN_S = 25.0, 15.0

# -P: nothing of the folder in which somebody happens to stand is imported.
PYTHON = (sys.executable, "-P", "-m")


class House:
    def __init__(
        self,
        *,
        data: Path,
        addresses: Mapping[str, Address],
        leash: Leash,
        tell: Callable[[str], None],
        person: str,
        daemon: bool,
        server_options: tuple[str, ...],
        redis_url: str | None,
        tls: bool,
        public_url: str | None,
        webhook: str | None,
    ) -> None:
        self.data = data
        self.has_daemon = daemon
        self.ready = asyncio.Event()
        self._addresses = addresses
        self._tell = tell
        self._person = person
        self._options = server_options
        # Either may hold a secret, which a command line would show.
        self._unseen = {"SWITCHBOARD_REDIS_URL": redis_url, "SWITCHBOARD_WEBHOOK": webhook}
        self._public_url = public_url
        self._scheme = "https" if tls else "http"
        self._server = Part("switchboard", data / "log" / "switchboard.log", leash)
        self._daemon = Part("daemon", data / "log" / "daemon.log", leash)
        self._line: Line | None = None
        self._serving = asyncio.Event()
        self._served_once = False
        self._written = True  # whether `up.json` says how it is
        self._facts: dict[str, Any] = {}
        self._token = ""
        self._machine: Mapping[str, Any] = {}

    @property
    def base_url(self) -> str:
        return self._public_url or self._local_url

    @property
    def _local_url(self) -> str:
        return f"{self._scheme}://{shown(reachable(self._addresses['http']))}"

    @property
    def _machine_file(self) -> Path:
        return self.data / "daemon" / "machine.json"

    async def live(self) -> None:
        """Keep both parts running until cancelled. Raises Failed when the server cannot be started at all."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep(self._server, self._start_server, self._serve), name="keep switchboard")
            if self.has_daemon:
                tasks.create_task(self._keep(self._daemon, self._start_daemon, None), name="keep daemon")
            tasks.create_task(self._tell_all(), name="up.json")

    async def _keep(self, part: Part, start: Callable[[], Any], after: Callable[[], Any] | None) -> None:
        wait = FIRST_WAIT_S
        while True:
            begun = time.monotonic()
            await start()
            using = asyncio.create_task(after(), name=f"speak to {part.name}") if after else None
            how = await part.ended()
            if using:
                using.cancel()
                await asyncio.gather(using, return_exceptions=True)
            if part is self._server:
                self._serving.clear()
                if not self._served_once:
                    raise Failed(part.last_words() or f"the server {how}; its log is {part.log}")
            if time.monotonic() - begun > STEADY_AFTER_S:
                wait = FIRST_WAIT_S
            words = part.last_words() if "code" in how else ""
            self._tell(
                f"the {part.name} {how}{': ' + words if words else ''}; starting it again in {wait:.1f} s (log: {part.log})"
            )
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_S)

    async def _start_server(self) -> None:
        ours, theirs = socket.socketpair()
        env = {k: v for k, v in os.environ.items() if k not in self._unseen}
        env |= {name: value for name, value in self._unseen.items() if value}
        listen = [word for name in ("http", "grpc", "enroll") for word in (f"--{name}", shown(self._addresses[name]))]
        with theirs:
            await self._server.start(
                [
                    *(*PYTHON, "switchboard", "serve", "--data", str(self.data), "--person", self._person),
                    *(*listen, *self._options, "--parent-fd", str(theirs.fileno())),
                ],
                env=env,
                cwd=self.data,
                fds=(theirs.fileno(),),
            )
        if self._line:
            self._line.close()
        self._line = await Line.over(ours)

    async def _serve(self) -> None:
        """Wait until the server serves, then let everything go on that needs it, and keep what it says of itself."""
        assert self._line is not None
        with contextlib.suppress(ConnectionError):  # it died; whoever waits for its end starts it again
            while True:
                facts = await self._line.ask("ready")
                back = not self._serving.is_set()
                if back and self._served_once:
                    self._tell("the switchboard is back")
                self._served_once = True
                self._serving.set()
                if back or facts != self._facts or not self._written:
                    self._facts = facts
                    if self.ready.is_set():
                        self._write()
                await asyncio.sleep(FACTS_EVERY_S)

    async def _start_daemon(self) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("SWITCHBOARD_")}
        home = self.data / "daemon"
        home.mkdir(mode=0o700, exist_ok=True)
        fleet, enroll = (shown(reachable(self._addresses[name])) for name in ("grpc", "enroll"))
        if not self._enrolled(home):
            joins = await self._insist("join", name=socket.gethostname())
            env["SWITCHBOARD_JOIN"] = f"{enroll} {joins['token']}"
        # The addresses each time: the ports of this folder's server may have changed since.
        where = ("--data", str(home), "--fleet", fleet, "--enroll", enroll)
        await self._daemon.start([*PYTHON, "daemon", "run", *where], env=env, cwd=home)
        if self.ready.is_set():
            self._write()

    @staticmethod
    def _enrolled(home: Path) -> bool:
        return (home / "machine.json").exists() and any(home.glob("certificate*.json"))

    async def _insist(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Ask until there is an answer: the server may be being started again, or its store be away."""
        wait, told = FIRST_WAIT_S, ""
        while True:
            await self._serving.wait()
            try:
                return await self._asked().ask(op, **arguments)
            except ConnectionError:
                pass
            except Failed as error:
                if error.message != told:
                    told = error.message
                    self._tell(f"the switchboard cannot do its part yet: {plain(told)}")
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT_S)

    def _asked(self) -> Line:
        if self._line is None:
            raise ConnectionResetError("the server is not there")
        return self._line

    async def link(self) -> str:
        return str((await self._asked().ask("link"))["link"])

    async def machine_words(self) -> str:
        """Return one line on this machine: what it is called and which agents were found on it."""
        if not self._machine.get("attached"):
            return f"the daemon has not attached yet: its log is {self._daemon.log}"
        # A daemon that has looked says of each agent that it knows whether it is there.
        found = "; ".join(map(agent_line, self._machine["agents"])) or "its agents are still being looked for"
        return f"{self._machine['name']} ({self._machine['id']}): {found}"

    async def _tell_all(self) -> None:
        """Write `up.json` once all is there, and a fresh token into it long before the old one ends."""
        await self._serving.wait()
        if self.has_daemon:
            with contextlib.suppress(TimeoutError):  # then without it, until it comes
                await asyncio.wait_for(self._attached(), ATTACHES_WITHIN_S)
        while True:
            self._token = (await self._insist("token", machine=self._machine.get("id", "")))["token"]
            self._write()
            self.ready.set()
            if self.has_daemon and not self._machine.get("attached"):
                await self._attached()
            else:
                await asyncio.sleep(TOKEN_EVERY_S)

    async def _attached(self) -> None:
        """Wait until this machine's daemon has attached and said which agents it found."""
        while not (self._machine.get("attached") and self._machine["agents"]):
            with contextlib.suppress(OSError, ValueError, KeyError, Failed):  # not enrolled yet, or no server just now
                machine = json.loads(self._machine_file.read_text())["id"]
                self._machine = (await self._asked().ask("machine", machine=machine))["machine"]
            await asyncio.sleep(0.1)

    def _write(self) -> None:
        pids = {
            "up": os.getpid(),
            "switchboard": self._server.pid,
            "daemon": self._daemon.pid,
            "valkey": self._facts.get("valkey"),
        }
        self._written = notes.keep(
            self.data / "up.json",
            {
                # Over TLS only the name in the certificate will do; a proxy's clients may as well come directly.
                "http": self.base_url if self._scheme == "https" else self._local_url,
                "grpc": shown(reachable(self._addresses["grpc"])),
                "enroll": shown(reachable(self._addresses["enroll"])),
                "machine": self._machine.get("id", ""),
                "person": self._facts.get("person", self._person),
                "pids": pids,
                "token": self._token,
            },
            self._tell if self._written else lambda _: None,
        )

    def kill(self) -> None:
        """End both at once: the keepers end the agents themselves, and the store goes with its server."""
        self._daemon.kill()
        self._server.kill()

    async def end(self) -> None:
        """End everything in good order: the daemon first, so that its last words still reach the server."""
        (self.data / "up.json").unlink(missing_ok=True)
        await self._daemon.end(DAEMON_ENDS_WITHIN_S)
        await self._server.end(SERVER_ENDS_WITHIN_S)
        if self._line:
            self._line.close()

"""A whole Switchboard as people run it: the server, the store and the daemons as processes, spoken to over HTTP."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from helpers.checkouts import checkout
from helpers.daemons import DaemonProcess, daemon_process
from helpers.eventually import eventually
from helpers.scripted import ScriptedModel, clean_environment, script

from switchboard.cli.line import Line

PASSWORD = "correct horse battery staple"
SLOW = 60


class World:
    """One server, its first person, and the machines that joined it."""

    def __init__(self, root: Path, model: ScriptedModel) -> None:
        self.root, self._model = root, model
        self.process: asyncio.subprocess.Process | None = None
        self.daemons: dict[str, DaemonProcess] = {}
        self.machines: dict[str, str] = {}  # name: id
        self.facts: dict[str, Any] = {}
        self.person = "ana"
        self._line: Line | None = None
        self._stack = contextlib.AsyncExitStack()
        self.page: httpx.AsyncClient  # looks, by the session of a sign-in: to check a password takes the server long
        self.api: httpx.AsyncClient  # acts, by password

    # The server.

    async def serve(self, **env: str) -> None:
        """Start the server, on the ports that it had before if it had any."""
        ours, theirs = socket.socketpair()
        data = self.root / "s"
        data.mkdir(exist_ok=True)
        ports = {
            "http": urlsplit(self.facts["http"]).netloc if self.facts else "127.0.0.1:0",
            "grpc": self.facts.get("grpc", "127.0.0.1:0"),
            "enroll": self.facts.get("enroll", "127.0.0.1:0"),
        }
        listen = [word for name, address in ports.items() for word in (f"--{name}", address)]
        argv = [sys.executable, "-m", "switchboard", "serve", "--data", str(data), "--person", self.person, *listen]
        with theirs, (self.root / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *argv,
                "--parent-fd",
                str(theirs.fileno()),
                env=clean_environment(env),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if self._line:
            self._line.close()
        self._line = await Line.over(ours)
        async with asyncio.timeout(SLOW):
            self.facts = await self._line.ask("ready")

    async def kill_server(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    def server_log(self) -> str:
        return (self.root / "server.log").read_text(errors="replace")

    async def ask(self, op: str, **said: Any) -> dict[str, Any]:
        assert self._line is not None
        return await self._line.ask(op, **said)

    async def sign_in(self) -> None:
        """Give the first person a password, and sign them in."""
        secret = (await self.ask("link"))["link"].partition("#")[2].rpartition("=")[2]
        async with self.client() as guest:
            answer = await guest.post("/session/link", json={"secret": secret, "password": PASSWORD})
            assert answer.status_code == 200, answer.text
            session = httpx.Cookies(guest.cookies)
        self.page = await self._stack.enter_async_context(self.client(cookies=session))
        self.api = await self._stack.enter_async_context(self.client(auth=(self.person, PASSWORD)))

    def client(self, **more: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"{self.facts['http']}/api/v1", timeout=SLOW, **more)

    # Machines.

    async def machine(self, name: str, settings: str = "", *, fleet: str = "", **env: str) -> DaemonProcess:
        """Join a machine, with a checkout of its own beside it; *fleet* is where it dials, when not the server itself."""
        home = self.root / name
        home.mkdir()
        (home / "daemon.toml").write_text(settings)
        environment = clean_environment({**self._model.claude_env(self.root / f"{name}-claude"), **env})
        daemon = await self._stack.enter_async_context(daemon_process(home, environment))
        token = (await self.ask("join", name=name))["token"]
        await daemon.start(SWITCHBOARD_JOIN=f"{self.facts['enroll']} {token} {fleet or self.facts['grpc']}")
        self.daemons[name] = daemon
        found = await eventually(lambda: self._attached(set(self.machines.values())), SLOW, f"{name} to attach")
        self.machines[name] = found["id"]
        checkout(self.root / f"{name}-repo")
        return daemon

    async def _attached(self, known: set[str]) -> dict[str, Any] | None:
        try:
            machines = (await self.get("/machines"))["machines"]
        except httpx.TransportError as error:  # the server may be dying at this very moment: it is asked again
            raise AssertionError(str(error)) from error
        return next((m for m in machines if m["id"] not in known and m["attached"]), None)

    def repo(self, machine: str) -> Path:
        return self.root / f"{machine}-repo"

    # People.

    async def get(self, path: str, /, **params: Any) -> Any:
        return self._good(await self.page.get(path, params=params))

    async def post(self, path: str, /, **body: Any) -> Any:
        return self._good(await self.api.post(path, json=body))

    def _good(self, answer: httpx.Response) -> Any:
        assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
        return answer.json()

    async def start(self, machine: str, *turns: list[dict[str, Any]], **more: Any) -> str:
        """Start a run that plays *turns*; return its id."""
        return str((await self.post("/runs", **self.wanted(machine, *turns, **more)))["run"]["id"])

    def wanted(self, machine: str, *turns: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return the body of a start."""
        body = {"machine": self.machines[machine], "path": str(self.repo(machine)), "agent": "claude", "mode": ""}
        return {**body, "prompt": script(*turns), **more}

    async def run(self, id: str) -> dict[str, Any]:
        found = await self.get(f"/runs/{id}")
        return dict(found.get("run", found))

    async def state(self, id: str, *wanted: str, within: float = SLOW) -> dict[str, Any]:
        async def there() -> dict[str, Any]:
            found = await self.run(id)
            assert found["state"] in wanted, f"it is {found['state']}: {found['reason']}"
            return found

        return dict(await eventually(there, within, f"run {id} to be {' or '.join(wanted)}"))

    async def asked(self, run: str) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            found = (await self.get("/approvals", state="open", run=run))["approvals"]
            return found[0] if found else None

        return dict(await eventually(there, SLOW, f"run {run} to ask"))

    async def vote(self, approval: dict[str, Any], verdict: str, **more: Any) -> httpx.Response:
        body = {"verdict": verdict, "digest": approval["digest"], "note": "", **more}
        return await self.api.post(f"/approvals/{approval['id']}/votes", json=body)

    async def output(self, run: str) -> list[dict[str, Any]]:
        return list((await self.get(f"/runs/{run}/output", first=1, limit=1000))["events"])

    async def text(self, run: str) -> str:
        return "".join(event["text"] for event in await self.output(run))


@contextlib.asynccontextmanager
async def world(root: Path, model: ScriptedModel, **env: str) -> AsyncIterator[World]:
    """A world with its first person signed in, its server in *env*; everything of it is gone when the block is left."""
    made = World(root, model)
    async with made._stack:
        try:
            await made.serve(**env)
            await made.sign_in()
            yield made
        finally:
            await made._stack.aclose()
            if made._line:
                made._line.close()
            if made.process and made.process.returncode is None:
                made.process.terminate()
                try:
                    async with asyncio.timeout(20):
                        await made.process.wait()
                except TimeoutError:
                    await made.kill_server()
            for log in sorted(root.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-6_000:]}")  # shown when the test fails

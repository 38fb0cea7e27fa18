"""Stands between the daemon and one agent, so that the agent never works on without its gate.

Run as `python -I -S keeper.py <machine>/<run> [arguments of the agent]`: alone, with nothing but the standard library, small.
Without a daemon that knows it, it starts nothing; when its line to the daemon breaks, it ends everything that it started.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

LINUX = sys.platform == "linux"
SETTINGS = "SWITCHBOARD_KEEPER_"
REFUSED = 75  # EX_TEMPFAIL of <sysexits.h>
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)  # Python's doing; the agent must get them as they were


def main() -> NoReturn:
    marker, arguments = sys.argv[1], sys.argv[2:]
    settings = {name: os.environ.pop(SETTINGS + name, "") for name in ("SOCKET", "SECRET", "PROGRAM", "CGROUP", "RUN")}
    libc = ctypes.CDLL(None, use_errno=True)
    if LINUX:
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: this process has held a secret
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: whatever the agent starts stays below this process
    os.environ["SWITCHBOARD_RUN"] = marker
    line = Line(settings["SOCKET"])
    ladder = line.call_in(marker, settings["SECRET"])
    if os.getsid(0) != os.getpid():
        # Only after the welcome: to the daemon an unknown child with a session of its own is an orphan. A process that
        # already leads its group (started so by hand) cannot have a session, and works on without.
        with contextlib.suppress(PermissionError):
            os.setsid()
    Keeper(line, ladder, settings["CGROUP"]).run(settings["PROGRAM"], arguments)


def refuse(sentence: str) -> NoReturn:
    os.write(2, f"switchboard keeper: {sentence}; the agent was not started\n".encode())
    os._exit(REFUSED)


class Line:
    """The life line: one JSON object a line, over the daemon's unix socket, which the agent never inherits."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.rest = b""
        self.broken = False
        try:
            self.sock.connect(path)
        except OSError as error:
            refuse(f"the daemon does not answer at {path or 'an unnamed socket'} ({error.strerror or error})")

    def call_in(self, marker: str, secret: str) -> list[tuple[str, float]]:
        """Say who this is; return the ladder that is to be climbed if the line breaks, in seconds."""
        self.tell(hello=marker, secret=secret)
        while not (words := self.hear()) and not self.broken:
            pass
        if not words or "ladder" not in words[0]:
            refuse("the daemon does not know this run")
        self.sock.setblocking(False)
        return [(str(rung), ms / 1000) for rung, ms in words[0]["ladder"]]

    def tell(self, **words: Any) -> None:
        try:
            self.sock.sendall(json.dumps(words).encode() + b"\n")
        except BlockingIOError:
            pass  # the daemon is not reading: it will miss this word, and look for itself
        except OSError:
            self.broken = True

    def hear(self) -> list[Any]:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.broken = not data
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Keeper:
    def __init__(self, line: Line, ladder: list[tuple[str, float]], cgroup: str) -> None:
        self.line = line
        self.ladder = ladder
        self.cgroup = cgroup
        self.agent = 0
        self.status: int | None = None  # of the agent, as wait(2) gives it
        self.empty = False

    def run(self, program: str, arguments: list[str]) -> NoReturn:
        woken, wake = os.pipe()
        for fd in (woken, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, *PASSED_ON):
            signal.signal(signum, self.pass_on if signum in PASSED_ON else lambda *_: None)
        self.start(program, arguments)
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(self.line.sock, select.POLLIN)
        while not self.line.broken and not self.empty:
            for fd, _ in poll.poll():
                if fd == woken:
                    _drain(woken)
                    self.reap()
                else:
                    for words in self.line.hear():
                        self.line.tell(pong=words.get("ping"))
        if not self.empty:
            self.climb(woken)
        self.leave()

    def start(self, program: str, arguments: list[str]) -> None:
        """Start the agent, born in its cgroup; tell the daemon its pid, or why it did not start."""
        if self.cgroup:
            _put(self.cgroup + "/cgroup.procs", "0")
        failed, fail = os.pipe()  # closed on exec, as everything that Python opens
        self.agent = os.fork()
        if self.agent == 0:
            try:
                # Its own group: an agent that signals its group must not hit its keeper.
                os.setpgid(0, 0)
                signal.set_wakeup_fd(-1)
                for signum in (signal.SIGCHLD, *PASSED_ON, *IGNORED):
                    signal.signal(signum, signal.SIG_DFL)
                if self.cgroup:
                    _put(self.cgroup + "/tree/cgroup.procs", "0")
                os.execve(program, [program, *arguments], os.environ)  # noqa: S606 - this is what it is for
            except BaseException as error:  # whatever it is, this copy of the keeper must not live on
                os.write(fail, str(getattr(error, "strerror", None) or error).encode())
            finally:
                os._exit(127)
        os.close(fail)
        reason = os.read(failed, 500).decode("utf-8", "replace")
        os.close(failed)
        if reason:
            os.write(2, f"switchboard keeper: cannot start {program}: {reason}\n".encode())
            self.line.tell(failed=f"cannot start {program}: {reason}")
        else:
            self.line.tell(agent=self.agent)
        # The ends of the agent's pipes: whoever reads them must see the agent go, even while this waits for the rest.
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.close(nothing)
        os.chdir("/")

    def pass_on(self, signum: int, _: object) -> None:
        """A driver that ends its program by a signal means the agent, or what the agent has left."""
        if self.status is None and self.agent:
            os.kill(self.agent, signum)
        elif self.agent:
            self.signal_tree(signum)

    def reap(self) -> None:
        """Bury the dead. Without a child left nothing of the tree is left: orphans come here."""
        # A tree that dies whole is buried in one go: to wake for each of it would slow its death down.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        time.sleep(0.002)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.agent:
                    self.status = status
                    self.line.tell(exited=os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            self.empty = True

    def climb(self, woken: int) -> None:
        """The line broke: climb until nothing is left. What is paused was not to work any more and is killed at once."""
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        paused = self.paused()
        for rung, patience in self.ladder:
            if rung != "kill" and (paused or (rung == "interrupt" and self.status is not None)):
                continue
            pause = 0.02
            until = time.monotonic() + patience
            if rung == "interrupt":
                os.kill(self.agent, signal.SIGINT)
            elif rung == "terminate":
                self.signal_tree(signal.SIGTERM)
            while not self.empty and (rung == "kill" or time.monotonic() < until):
                if rung == "kill":
                    self.kill()
                    pause = min(pause * 1.5, 1.0)  # what even SIGKILL does not move must not cost a processor
                poll.poll(pause * 1000)
                _drain(woken)
                self.reap()
                if rung == "interrupt" and self.status is not None:
                    break
            if self.empty:
                return

    def paused(self) -> bool:
        if self.cgroup and _get(self.cgroup + "/tree/cgroup.freeze").strip() == "1":
            return True
        return any(pid == self.agent and state == "T" for pid, _, state in self.tree())

    def kill(self) -> None:
        if self.cgroup:
            _put(self.cgroup + "/tree/cgroup.freeze", "1")
            _put(self.cgroup + "/tree/cgroup.kill", "1")
        self.signal_tree(signal.SIGSTOP)
        self.signal_tree(signal.SIGKILL)

    def tree(self) -> list[tuple[int, int, str]]:
        """Return pid, start time and state of everything below this process."""
        below, found = {os.getpid()}, []
        processes = _processes()
        while more := [process for process in processes if process[1] in below and process[0] not in below]:
            below.update(process[0] for process in more)
            found += more
        return [(pid, start, state) for pid, _, start, state in found]

    def signal_tree(self, signum: int) -> None:
        for pid, start, _ in self.tree():
            try:
                if not LINUX:
                    os.kill(pid, signum)
                    continue
                fd = os.pidfd_open(pid)  # type: ignore[attr-defined,unused-ignore]
                try:
                    if any(process[2] == start for process in _processes([pid])):
                        signal.pidfd_send_signal(fd, signum)  # type: ignore[attr-defined,unused-ignore]
                finally:
                    os.close(fd)
            except OSError:
                pass  # dead meanwhile, or another user's: the loop above goes on until nothing is left

    def leave(self) -> NoReturn:
        """End as the agent ended, so that its exit code reaches whoever started this."""
        self.line.tell(empty=True)
        code = os.waitstatus_to_exitcode(self.status) if self.status is not None else REFUSED
        if code < 0:
            if -code not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
            code = 128 - code
        os._exit(code)


def _processes(only: list[int] | None = None) -> list[tuple[int, int, int, str]]:
    """Return pid, parent, start time and state of every process, or of these."""
    found = []
    if not LINUX:
        for row in os.popen("/bin/ps -axo pid=,ppid=,stat="):  # noqa: S605 - a constant
            pid, parent, state = row.split()[:3]
            found.append((int(pid), int(parent), 0, state[0]))
        return found
    for name in only if only is not None else [name for name in os.listdir("/proc") if name.isdigit()]:
        fields = _get(f"/proc/{name}/stat").rpartition(")")[2].split()
        if len(fields) > 19:
            found.append((int(name), int(fields[1]), int(fields[19]), fields[0]))
    return found


def _get(path: str) -> str:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).decode("utf-8", "replace")
        finally:
            os.close(fd)
    return ""


def _put(path: str, text: str) -> None:
    """Write to a cgroup. Without one the tree is held by kinship alone; the daemon looks for itself which it is."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


if __name__ == "__main__":
    main()

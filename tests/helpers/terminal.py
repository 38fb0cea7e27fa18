"""A process and what it says, on a terminal of its own or on a pipe."""

import asyncio
import os
import pty
import subprocess
from collections.abc import Mapping, Sequence

from helpers.eventually import eventually


class Spoken:
    """Started at once; what it says on stdout and stderr is gathered in `said`."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], *, terminal: bool) -> None:
        self.said = ""
        self._end, theirs = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            ["setsid", "-c", *argv] if terminal else argv,  # no code of ours between fork and exec: gRPC has threads
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=env,
            start_new_session=not terminal,
        )
        os.close(theirs)
        os.set_blocking(self._end, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._end, self._read)

    def _read(self) -> bool:
        try:
            got = os.read(self._end, 65536)
        except BlockingIOError:
            return False
        except OSError:
            got = b""  # the other end of a terminal was closed
        if not got:
            self._loop.remove_reader(self._end)
        self.said += got.decode(errors="replace").replace("\r\n", "\n")
        return bool(got)

    async def says(self, words: str, within: float = 30) -> None:
        await eventually(lambda: words in self.said, within=within, message=f"{words!r} is not in {self.said!r}")

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    async def ended(self, within: float = 60) -> int:
        """Wait for its end and return its code; everything that it said is read then."""
        await eventually(lambda: self.process.poll() is not None, within=within, message=f"it goes on: {self.said}")
        while self._read():
            pass
        return int(self.process.returncode)

    def stop_reading(self) -> None:
        """Close this end: what it says from now on has no reader."""
        if self._end >= 0:
            self._loop.remove_reader(self._end)
            os.close(self._end)
            self._end = -1

    def close(self) -> None:
        """End it, if it still runs."""
        self.stop_reading()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

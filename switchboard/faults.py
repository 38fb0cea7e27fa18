"""Named points at which a test may end this process as `kill -9` would, to prove that nothing is lost there.

`SWITCHBOARD_FAULT=name` or `name:3` (the third pass) in the environment arms one; without it a point costs one comparison.
"""

import os
import signal

_NAME, _, _COUNT = os.environ.get("SWITCHBOARD_FAULT", "").partition(":")
_left = int(_COUNT or 1)


def point(name: str) -> None:
    global _left
    if name != _NAME:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

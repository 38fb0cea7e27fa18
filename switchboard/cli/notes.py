"""The small files that `up` keeps in its folder, for its owner alone. One that cannot be written costs no more than what it notes."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def keep(path: Path, value: Any, tell: Callable[[str], None]) -> bool:
    """Replace a file by *value* as JSON, so that nobody ever sees half of it; return False when *tell* was told why not."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        tell(f"{path} cannot be written ({error.strerror}): everything else goes on")
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True

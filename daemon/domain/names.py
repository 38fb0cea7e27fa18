"""Names that strangers chose, made fit to be shown: of files, branches and remotes."""

import re
import unicodedata
from pathlib import PurePath
from urllib.parse import urlsplit

_USUAL_PORTS = {"ssh": 22, "git+ssh": 22, "https": 443, "http": 80, "git": 9418}


def shown(path: bytes | str | PurePath) -> str:
    """Return *path* in printable text: what cannot be printed, or would reorder the line, as git's own escapes."""
    text = path.decode(errors="surrogateescape") if isinstance(path, bytes) else str(path)
    return "".join(_printable(char) for char in text)[:4096]


def remote_id(url: str) -> str:
    """Return host/path of a remote's address: no user, password, scheme, usual port or `.git`; "" for a path on this machine."""
    url = "".join(char for char in url if _printable(char) == char and not char.isspace())[:2048]
    scp = re.fullmatch(r"(?:[^/@]*@)?(\[[0-9A-Fa-f:.]+\]|[^/:@\[\]]{2,}):(?!//)/*(.+)", url)
    if scp:
        host, path = scp[1], scp[2]
    else:
        try:
            split = urlsplit(url)
            port = split.port
        except ValueError:
            return ""
        if not split.hostname or split.scheme in ("", "file"):
            return ""
        host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
        if port is not None and port != _USUAL_PORTS.get(split.scheme):
            host = f"{host}:{port}"
        path = split.path
    names = [name for name in path.split("/") if name not in ("", ".", "..")]
    if names and names[-1] != ".git":
        names[-1] = names[-1].removesuffix(".git")
    return f"{host.lower()}/{'/'.join(names)}"[:255] if names else ""


def _printable(char: str) -> str:
    if char.isascii():
        return char if char.isprintable() else {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char, f"\\{ord(char):03o}")
    if "\udc80" <= char <= "\udcff":
        return f"\\{ord(char) - 0xDC00:03o}"  # a byte that is not UTF-8
    return f"\\u{ord(char):04x}" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") else char

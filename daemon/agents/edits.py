"""What an edit would change, as a unified diff for the card; only files inside the checkout are ever read."""

import difflib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIFF_LIMIT = 64 << 10
FILE_LIMIT = 1 << 20
COMPARE_LINES = 2_000  # difflib is quadratic; more changed lines than that are shown as taken out and put in


def diff(tool: str, call: Mapping[str, Any], cwd: Path) -> str:
    """The change that *call* asks for, "" for a tool that edits no file. Never raises."""
    try:
        match tool:
            case "Write":
                return _compare(str(call["file_path"]), cwd, lambda _: str(call["content"]))
            case "Edit":
                return _compare(str(call["file_path"]), cwd, lambda before: _edited(before, [call]))
            case "MultiEdit":
                return _compare(str(call["file_path"]), cwd, lambda before: _edited(before, call["edits"]))
            case "NotebookEdit":
                return _cell(call)
    except _Unreadable as why:
        return _cap(f"{why}\n{_asked(tool, call)}")
    except (KeyError, TypeError, ValueError, OSError) as error:  # an input of another shape is shown as it is
        return f"the change cannot be shown as a diff ({type(error).__name__}); see the input\n"
    return ""


class _Unreadable(Exception):
    """One sentence: why the file's present content is not part of the diff."""


def _compare(path: str, cwd: Path, change: Any) -> str:
    before = _content(path, cwd)
    after = change(before)
    return _cap(_unified(_shown(path, cwd), before, after))


def _content(path: str, cwd: Path) -> str | None:
    """The file as it is; None when there is none."""
    root = os.path.realpath(cwd)
    real = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([root, real]) != root:
        raise _Unreadable("the file lies outside the checkout and was not read")
    try:
        # Between realpath and open an agent could still swap the file for a link or a fifo.
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _Unreadable(f"the file could not be read: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _Unreadable("the path is no regular file")
        if status.st_size > FILE_LIMIT:
            raise _Unreadable(f"the file is {status.st_size} bytes long and was not read")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(FILE_LIMIT + 1)
    finally:
        os.close(fd)
    if len(data) > FILE_LIMIT:
        raise _Unreadable("the file grew while it was read")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _Unreadable("the file is binary") from None
    if "\0" in text:
        raise _Unreadable("the file is binary")
    return text


def _edited(before: str | None, edits: list[Mapping[str, Any]]) -> str:
    text = before
    for edit in edits:
        old, new = str(edit["old_string"]), str(edit["new_string"])
        if text is None or not old:
            if text:
                raise _Unreadable("the edit names no text to replace in a file that has some")
            text = new
        elif old not in text:
            raise _Unreadable("the text to replace is not in the file")
        else:
            text = text.replace(old, new, -1 if edit.get("replace_all") else 1)
    return text or ""


def _asked(tool: str, call: Mapping[str, Any]) -> str:
    """The change in the agent's words alone, for a file that cannot be read."""
    path = _clean(str(call.get("file_path", "")))
    if tool == "Write":
        return _unified(path, None, str(call.get("content", "")))
    edits = call["edits"] if tool == "MultiEdit" else [call]
    return "".join(_unified(path, str(edit["old_string"]), str(edit["new_string"])) for edit in edits)


def _cell(call: Mapping[str, Any]) -> str:
    mode = call.get("edit_mode") or "replace"
    where = f"{_clean(str(call['notebook_path']))} cell {_clean(str(call.get('cell_id') or 'at the start'))}"
    source = "" if mode == "delete" else str(call["new_source"])
    lines = "".join(f"+{line}\n" for line in source.splitlines())
    return _cap(f"{mode} in {where}\n{lines}")


def _unified(name: str, before: str | None, after: str) -> str:
    old, new = (before or "").splitlines(keepends=True), after.splitlines(keepends=True)
    if old == new:
        return "the file already has this content\n"
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if len(old) + len(new) - 2 * (head + tail) > COMPARE_LINES:
        taken, put = old[head : len(old) - tail], new[head : len(new) - tail]
        lines = [f"--- a/{name}\n", f"+++ b/{name}\n", f"@@ -{head + 1},{len(taken)} +{head + 1},{len(put)} @@\n"]
        lines += [*("-" + line for line in taken), *("+" + line for line in put)]
    else:
        # Only the part that differs is compared, with its context; the line numbers are put right afterwards.
        start, keep = max(0, head - 3), max(0, tail - 3)
        made = difflib.unified_diff(
            old[start : len(old) - keep],
            new[start : len(new) - keep],
            "/dev/null" if before is None else f"a/{name}",
            f"b/{name}",
        )
        lines = [_moved(line, start) if line.startswith("@@") else line for line in made]
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _moved(hunk: str, by: int) -> str:
    _, old, new, _ = hunk.split(" ")
    return f"@@ {_later(old, by)} {_later(new, by)} @@\n"


def _later(span: str, by: int) -> str:
    start, comma, count = span[1:].partition(",")
    return f"{span[0]}{int(start) + by}{comma}{count}"


def _shown(path: str, cwd: Path) -> str:
    return _clean(os.path.relpath(os.path.join(cwd, path), cwd))


def _clean(name: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def _cap(text: str) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= DIFF_LIMIT:
        return text
    return data[:DIFF_LIMIT].decode("utf-8", "ignore") + f"\n… cut here: the whole diff has {len(data)} bytes\n"

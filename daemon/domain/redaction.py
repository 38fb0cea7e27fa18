"""Secrets are masked before anything leaves the run: values of this machine's secret-looking variables, and known formats.

Everything here takes time in proportion to the text: each pattern starts at a literal, and what it scans without a match is
bounded.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

_LOOKS_SECRET = re.compile(
    r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH|DSN|CONNECTION_?STRING|WEBHOOK|COOKIE|PRIVATE|_PASS$|_PAT$|_PW$",
    re.IGNORECASE,
)
_HARMLESS = {"SSH_AUTH_SOCK", "XAUTHORITY", "KEYBOARD_LAYOUT", "GNOME_KEYRING_CONTROL"}  # paths and words, not secrets
_SHORTEST = 8

# Each kind of secret: a word that stands in all of its kind, so that text without one is not searched, and what it looks
# like. {n,} at an end stops at the first other character, so it is scanned once.
_B = r"(?<![A-Za-z0-9])"  # not in the middle of a word
_KEY_LINE = r"""(?:\\[nrt]|[A-Za-z0-9+/=\s|>→"',:]|-(?!----)|(?:Proc-Type|DEK-Info|Comment|Version):[^\n]{0,80})"""
_PRIVATE = r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_END = r"-----END (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
_SCHEME = r"(?:(?i:basic|bearer|token|digest)[ \t]{1,4})?"
_OTHERS = (
    "gsk_",
    "xai-",
    "sbp_",
    "sbj_",
    "sbt_",
    "lin_api_",
    "glsa_",
    "nvapi-",
    "pplx-",
    "r8_",
    "fo1_",
    "sntrys_",
    "tskey-",
    "figd_",
    "PMAK-",
    "NRAK-",
)
_FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "private_key": (("PRIVATE KEY",), rf"{_PRIVATE}{_KEY_LINE}{{0,20000}}(?:{_PRIVATE_END})?"),
    "aws": (("AKIA", "ASIA", "ABIA", "ACCA"), _B + r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    "aws_secret": (
        ("aws",),
        r"(?i:aws_?(?:secret)?_?(?:access)?_?key)[\"']?[ \t]{0,4}[=:][ \t]{0,4}[\"']?[A-Za-z0-9/+=]{40}(?![A-Za-z0-9/+=])",
    ),
    "github": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        _B + r"(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})",
    ),
    "gitlab": (("gl",), _B + r"gl(?:pat|ptt|dt|rt|rtr|cbt|ft|soat|imt|agent|oas|ffct)-[A-Za-z0-9_.-]{20,}"),
    "slack": (("xox", "xapp-"), _B + r"(?:xox[abeoprs](?:\.xox[bp])?-|xapp-)[A-Za-z0-9-]{10,}"),
    "slack_webhook": (
        ("hooks.slack.com",),
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_+-]{20,}",
    ),
    "stripe": (
        ("k_live_", "k_test_", "whsec_"),
        _B + r"(?:[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,})",
    ),
    "anthropic": (("sk-ant-",), _B + r"sk-ant-[A-Za-z0-9_-]{20,}"),
    "openai": (("sk-",), _B + r"sk-(?=[A-Za-z_-]{0,48}[0-9])[A-Za-z0-9_-]{20,}"),
    "google": (
        ("AIza", "ya29.", "GOCSPX-", "1//0"),
        _B + r"(?:AIza[A-Za-z0-9_-]{35}|(?:ya29\.|GOCSPX-|1//0)[A-Za-z0-9_-]{20,})",
    ),
    "jwt": (
        ("eyJ",),
        r"(?<![A-Za-z0-9_.-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){0,2}",
    ),
    "npm": (("npm_",), _B + r"npm_[A-Za-z0-9]{36,}"),
    "pypi": (("pypi-",), _B + r"pypi-[A-Za-z0-9_-]{50,}"),
    "huggingface": (("hf_",), _B + r"hf_[A-Za-z0-9]{30,}"),
    "docker": (("dckr_",), _B + r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}"),
    "digitalocean": (("_v1_",), _B + r"do[opr]_v1_[a-f0-9]{64}"),
    "sendgrid": (("SG.",), _B + r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}"),
    "shopify": (("shp",), _B + r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    "databricks": (("dapi",), _B + r"dapi[a-f0-9]{32}"),
    "vault": (("hvs.", "hvb.", "hvr."), _B + r"hv[sbr]\.[A-Za-z0-9_-]{24,}"),
    "age": (("AGE-SECRET-KEY-1",), _B + r"AGE-SECRET-KEY-1[A-Z0-9]{50,}"),
    "azure": (("AccountKey=", "SharedAccessKey="), r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,}={0,2}"),
    "telegram": ((":AA",), _B + r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])"),
    "other": (
        _OTHERS,
        rf"{_B}(?:{'|'.join(_OTHERS)})(?=[A-Za-z_-]{{0,48}}[0-9])[A-Za-z0-9_-]{{28,}}",
    ),
    "url_password": (("://",), r"://[^\s/:@\"'<>]{0,128}:[^\s/@\"'<>]{1,256}@"),
    "header": (
        ("authorization",),
        rf"(?i:authorization)[\"']?[ \t]{{0,4}}[:=][ \t]{{0,4}}[\"']?{_SCHEME}[A-Za-z0-9._~+/=:-]{{8,}}",
    ),
    "bearer": (
        ("bearer",),
        _B + r"(?i:bearer)[ \t]{1,4}(?=[A-Za-z._~+/=-]{0,48}[0-9])[A-Za-z0-9._~+/=-]{16,}",
    ),
}
_ANY_CASE = {"aws_secret", "header", "bearer"}
# What stays readable in front of the mask.
_KEPT = {
    "url_password": re.compile("://"),
    "aws_secret": re.compile(r".*?[=:][ \t]*[\"']?", re.DOTALL),
    "azure": re.compile(r"[A-Za-z]+="),
    "header": re.compile(r"(?i)authorization[\"']?[ \t]*[:=][ \t]*[\"']?(?:(?:basic|bearer|token|digest)[ \t]+)?"),
    "bearer": re.compile(r"(?i)bearer[ \t]+"),
}
_ANSI = re.compile(
    r"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}[@-~]|[\]PX^_][^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)|[ -/]{0,4}[0-~])"
    r"|\x9b[0-?]{0,64}[ -/]{0,8}[@-~]"
)
_BEGINS, _ENDS = re.compile(_PRIVATE), re.compile(_PRIVATE_END)
_LONGEST_LINE = 64 * 1024
_OVERLAP = 8 * 1024  # of a line that is longer than that, so much is held back
_LONGEST_HELD = 256 * 1024


def secrets_in(env: Mapping[str, str]) -> frozenset[str]:
    """Return the values of the secret-looking variables of *env*: by their names, and at least 8 characters long."""
    return frozenset(
        value
        for name, value in env.items()
        if _LOOKS_SECRET.search(name) and name not in _HARMLESS and len(value.strip()) >= _SHORTEST
    )


class Redactor:
    """Masks secrets as «redacted:kind», also where colour codes stand inside of them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first, so that a secret inside of another does not leave the rest of it.
        self._values = tuple(sorted(set(_spellings(secrets)), key=lambda value: (-len(value), value)))
        self.longest = max(map(len, self._values), default=0)

    def text(self, text: str) -> str:
        """Return *text* with its secrets masked. For text in pieces use `Stream`."""
        out, done = [], 0
        for start, end, mask in self.found(text):
            out += [text[done:start], mask]
            done = end
        return "".join([*out, text[done:]]) if out else text

    def found(self, text: str) -> list[tuple[int, int, str]]:
        """Return each secret in *text*: from where to where, and what to write instead."""
        places = None
        if "\x1b" in text or "\x9b" in text:
            text, places = _without_ansi(text)
        values = tuple(value for value in self._values if value in text)
        lower = text.lower()
        kinds = tuple(
            kind
            for kind, (words, _) in _FORMATS.items()
            if any(word in (lower if kind in _ANY_CASE else text) for word in words)
        )
        if not values and not kinds:
            return []
        return [
            (*(found.span() if places is None else (places[found.start()], places[found.end() - 1] + 1)), _mask(found))
            for found in _pattern(values, kinds).finditer(text)
        ]

    def scrub(self, value: Any) -> Any:
        """Return a JSON value with the secrets in all of its texts masked, keys and numbers included."""
        try:
            return self._scrub(value)
        except RecursionError:
            return "«redacted:nested too deep»"

    def _scrub(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            out: dict[Any, Any] = {}
            for key, part in value.items():
                name = self.text(key) if isinstance(key, str) else key
                while name in out:
                    name = f"{name}'"  # two keys with one mask stay two
                out[name] = self._scrub(part)
            return out
        if isinstance(value, list | tuple):
            return [self._scrub(part) for part in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self._values:
            return "«redacted:value»"
        return value

    def stream(self) -> "Stream":
        return Stream(self)


class Stream:
    """Masks text that comes in pieces, cut anywhere: it is held back to the line end, a private key to its own end."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor, self._held = redactor, ""
        self._long = _LONGEST_LINE  # a line of that length is not waited for any longer

    def feed(self, text: str) -> str:
        """Take a piece; return what can be shown by now."""
        self._held += text
        if "\n" not in text and len(self._held) <= self._long:
            return ""
        cut = self._held.rfind("\n") + 1
        key = _open_key(self._held, cut)
        cut = cut if key is None else key
        if len(self._held) - cut > (_LONGEST_LINE if key is None else _LONGEST_HELD):
            cut = max(cut, len(self._held) - max(_OVERLAP, self._redactor.longest))
            # Not in the middle of a secret, unless it is longer than any.
            for start, end, _ in self._redactor.found(self._held):
                if start < cut < end:
                    cut = start if len(self._held) - start < _LONGEST_HELD else end
        shown, self._held = self._held[:cut], self._held[cut:]
        # Not looked at again for every character that a line too long for us still grows by.
        self._long = max(_LONGEST_LINE, len(self._held) + _OVERLAP)
        return self._redactor.text(shown)

    def flush(self) -> str:
        """Return the rest: nothing follows."""
        shown, self._held = self._held, ""
        return self._redactor.text(shown)


@lru_cache(maxsize=256)
def _pattern(values: tuple[str, ...], kinds: tuple[str, ...]) -> re.Pattern[str]:
    known = [f"(?P<value>{'|'.join(map(re.escape, values))})"] if values else []
    return re.compile("|".join([*known, *(f"(?P<{kind}>{_FORMATS[kind][1]})" for kind in kinds)]))


def _mask(found: re.Match[str]) -> str:
    kind = found.lastgroup or "value"
    kept = _KEPT[kind].match(found[0]) if kind in _KEPT else None
    mask = f"{kept[0] if kept else ''}«redacted:{kind.replace('_', ' ')}»"
    return f"{mask}@" if kind == "url_password" else mask


def _open_key(text: str, below: int) -> int | None:
    """Return where a private key begins that has not ended before *below*."""
    if "PRIVATE KEY" not in text:
        return None
    plain, places = _without_ansi(text[:below])
    *_, begin = [None, *_BEGINS.finditer(plain)]
    if begin is None:
        return None
    whole = _pattern((), ("private_key",)).match(plain, begin.start())
    is_open = whole is not None and whole.end() == len(plain) and not _ENDS.search(whole[0])
    return places[begin.start()] if is_open else None


def _without_ansi(text: str) -> tuple[str, list[int]]:
    """Return *text* without its colour codes, and for each character that stays where it was."""
    plain: list[str] = []
    places: list[int] = []
    done = 0
    for code in _ANSI.finditer(text):
        plain.append(text[done : code.start()])
        places.extend(range(done, code.start()))
        done = code.end()
    plain.append(text[done:])
    places.extend(range(done, len(text)))
    return "".join(plain), places


def _spellings(secrets: Iterable[str]) -> Iterable[str]:
    """Yield each secret as it may be written: plain, line by line, inside JSON, inside a URL, in base64."""
    for secret in secrets:
        for line in {secret.strip(), *(line.strip() for line in secret.splitlines())}:
            if len(line) >= _SHORTEST:
                yield line
                yield json.dumps(line)[1:-1]
                yield json.dumps(line, ensure_ascii=False)[1:-1]
                yield quote(line, safe="", errors="surrogatepass")
                yield base64.b64encode(line.encode(errors="surrogateescape")).decode().rstrip("=")

"""Planted secrets do not come out, however the text is cut and coloured; what is no secret does."""

import base64
import json
import random
import string
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.domain.redaction import Redactor, secrets_in

ALNUM, WORD, HEX = string.ascii_letters + string.digits, string.ascii_letters + string.digits + "_-", "0123456789abcdef"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A1B\n\n"
    + "\n".join(["MIIEpAIBAAKCAQEA7x/+abc" * 2] * 12)
    + "\n-----END RSA PRIVATE KEY-----"
)


def of(rng: random.Random, alphabet: str, length: int) -> str:
    return rng.choice(string.digits) + "".join(rng.choice(alphabet) for _ in range(length - 1))


FORMATS = {
    "aws": lambda r: "AKIA" + of(r, string.ascii_uppercase + string.digits, 16),
    "aws secret": lambda r: 'aws_secret_access_key = "' + of(r, ALNUM + "/+", 40),
    "github": lambda r: r.choice(["ghp_", "gho_", "ghs_"]) + of(r, ALNUM, 36),
    "github fine": lambda r: "github_pat_" + of(r, ALNUM, 22) + "_" + of(r, ALNUM, 59),
    "gitlab": lambda r: "glpat-" + of(r, WORD, 20),
    "slack": lambda r: "xoxb-" + of(r, string.digits, 12) + "-" + of(r, ALNUM, 24),
    "slack webhook": lambda r: (
        "https://hooks.slack.com/services/T" + of(r, ALNUM, 8) + "/B" + of(r, ALNUM, 8) + "/" + of(r, ALNUM, 24)
    ),
    "stripe": lambda r: "sk_live_" + of(r, ALNUM, 24),
    "anthropic": lambda r: "sk-ant-api03-" + of(r, WORD, 93),
    "openai": lambda r: "sk-proj-" + of(r, WORD, 48),
    "google": lambda r: "AIza" + of(r, WORD, 35),
    "jwt": lambda r: "eyJ" + of(r, WORD, 20) + "." + "eyJ" + of(r, WORD, 40) + "." + of(r, WORD, 43),
    "npm": lambda r: "npm_" + of(r, ALNUM, 36),
    "pypi": lambda r: "pypi-" + of(r, WORD, 120),
    "hugging face": lambda r: "hf_" + of(r, ALNUM, 34),
    "sendgrid": lambda r: "SG." + of(r, WORD, 22) + "." + of(r, WORD, 43),
    "digitalocean": lambda r: "dop_v1_" + of(r, HEX, 64),
    "join token": lambda r: "sbj_" + of(r, WORD, 43) + "_" + of(r, HEX, 32),
    "url": lambda r: "postgres://app:" + of(r, ALNUM, 12) + "@db.internal:5432/app",
    "bearer": lambda r: "Authorization: Bearer " + of(r, ALNUM, 40),
    "basic": lambda r: "authorization: Basic " + of(r, ALNUM, 24),
    "azure": lambda r: "AccountKey=" + of(r, ALNUM + "+/", 86) + "==",
}
# What must not be left of a planted text: its last characters are always part of the secret.
TAILS = {"url": lambda text: text[len("postgres://app:") :].split("@")[0], "azure": lambda text: text[11:-2]}


def secret_part(kind: str, text: str) -> str:
    return TAILS.get(kind, lambda text: text[-12:])(text)


def cut(text: str, rng: random.Random) -> list[str]:
    places = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(0, 12))))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from(["", "  x = ", 'a "', "+", "export T=", "(", "\n\n> "]))
def test_a_planted_secret_is_masked_in_random_pieces_and_with_colours_inside(kind, seed, coloured, before):
    rng = random.Random(seed)
    planted = FORMATS[kind](rng)
    written = planted
    if coloured:
        place = rng.randrange(1, len(planted))
        written = planted[:place] + rng.choice(["\x1b[31m", "\x1b[0m\x1b[1;32m", "\x1b]8;;\x07"]) + planted[place:]
    text = f"first line\n{before}{written}\nlast line\n"
    redactor = Redactor()
    stream = redactor.stream()
    out = "".join([*(stream.feed(piece) for piece in cut(text, rng)), stream.flush()])

    assert secret_part(kind, planted) not in out
    assert out == redactor.text(text)
    assert out.startswith("first line\n")
    assert out.endswith("\nlast line\n")
    assert "«redacted:" in out


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=8, max_size=40),
    st.integers(0, 2**32),
    st.text(max_size=30),
)
def test_the_value_of_a_variable_is_masked_wherever_it_is_cut(value, seed, around):
    value = value.strip()
    if len(value) < 8 or value in around:
        return
    redactor = Redactor([value])
    text = f"{around}\n{around}{value}{around}\n"
    stream, rng = redactor.stream(), random.Random(seed)
    out = "".join([*(stream.feed(piece) for piece in cut(text, rng)), stream.flush()])

    assert value not in out.replace("«redacted:value»", "\0")
    for spelling in (json.dumps(value)[1:-1], quote(value, safe=""), base64.b64encode(value.encode()).decode()):
        assert spelling not in redactor.text(f"<{spelling}>").replace("«redacted:value»", "\0")


@pytest.mark.parametrize("prefix", ["", "+", "-", "    12→", "> ", "\x1b[32m"])
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_private_key_is_masked_across_its_lines(prefix, size):
    body = "\n".join(prefix + line for line in PEM.split("\n"))
    text = f"before\n{body}\nafter.\n"
    redactor = Redactor()
    stream = redactor.stream()
    out = "".join([*(stream.feed(text[at : at + size]) for at in range(0, len(text), size)), stream.flush()])

    assert "MIIE" not in out
    assert "«redacted:private key»" in out
    assert out.startswith("before\n")
    assert out.endswith("after.\n")
    assert out == redactor.text(text)


def test_a_private_key_in_json_is_masked():
    assert "MIIE" not in Redactor().text(json.dumps({"private_key": PEM, "n": 1}))


def test_a_key_that_never_ends_does_not_hold_the_rest_of_the_output():
    stream = Redactor().stream()
    out = stream.feed("-----BEGIN PRIVATE KEY-----\nMIIE\n") + stream.feed("That is (all) of it.\n")

    assert "all) of it.\n" in out
    assert "MIIE" not in out


def test_a_secret_variable_of_several_lines_is_masked_line_by_line():
    redactor = Redactor(["first-line-of-it\nsecond-line-of-it"])
    stream = redactor.stream()
    out = stream.feed("a first-line-of-it\n") + stream.feed("second-line-of-it b\n")

    assert out == "a «redacted:value»\n«redacted:value» b\n"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a?b=c and git@github.com:acme/shop.git",
        "class TaskRunner: risk-assessment-of-a-long-name sk-learn",
        "the bearer of this letter, bearer authentication-scheme-description",
        "commit 3ebf2488ca8723aa8c5789eacdf5352731c3d005",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "import eyJson; x = a.b.c",
        "\x1b[31mred\x1b[0m text\r\n",
        "naïve café 日本語 🎉",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text):
    assert Redactor(["another-value"]).text(text) == text


def test_the_first_line_comes_at_once_and_the_rest_of_a_line_at_the_flush():
    stream = Redactor().stream()

    assert stream.feed("one\ntw") == "one\n"
    assert stream.feed("o") == ""
    assert stream.flush() == "two"
    assert stream.flush() == ""


def test_a_line_without_an_end_is_not_held_for_ever_and_no_secret_is_cut_in_it():
    token = "ghp_" + "A1b2C3d4" * 5
    redactor = Redactor()
    line = ("x" * 1000 + " ") * 30 + token + " " + ("y" * 1000 + " ") * 300
    for size in (977, 8192, len(line)):
        stream = redactor.stream()
        pieces = [stream.feed(line[at : at + size]) for at in range(0, len(line), size)]

        assert sum(map(len, pieces)) > len(line) // 2
        assert "".join([*pieces, stream.flush()]) == redactor.text(line)


HOSTILE = [
    "eyJ",
    "eyJaaaaaaaa.",
    "sk-",
    "sk-a",
    "ghp_",
    "AKIA",
    "://",
    "://a:",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ",
    "A ",
    "bearer ",
    "bearer a",
    "authorization: ",
    "aws_secret_access_key=",
    "aws_",
    "xoxb-",
    "glpat-",
    "SG.",
    "SG.aaaaaaaaaaaaaaaaaaaa.",
    "\x1b[",
    "\x1b]",
    "\x1b[1m",
    "1//0",
    "sbj_a",
    "pypi-",
    "\\n",
    "gsk_",
    "-----BEGIN RSA PRIVATE KEY-----\n",
    "hunter2-hunter",
    "shp",
    "AccountKey=",
    "12345678:AA",
]


# 300,000 characters each: with anything but linear time this would not come back within the test's time limit.
@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_repetition_takes_linear_time(part):
    redactor = Redactor(["hunter2-hunter2-hunter3"])
    text = (part * 300_000)[:300_000]
    redactor.text(text)
    stream = redactor.stream()
    for at in range(0, len(text), 100):
        stream.feed(text[at : at + 100])
    stream.flush()


def test_values_inside_of_json_are_masked_with_their_keys():
    redactor = Redactor(["hunter2-hunter2", "8675309867"])
    value = {"hunter2-hunter2": ["x hunter2-hunter2 y", {"a": None, "n": 8675309867, "b": True}], "hunter2-hunter2 ": 1}
    shown = redactor.scrub(value)

    assert "hunter2" not in json.dumps(shown)
    assert "8675309867" not in json.dumps(shown)
    assert len(shown) == 2
    assert value["hunter2-hunter2"][0] == "x hunter2-hunter2 y"


def test_a_nest_without_end_is_masked_whole():
    value: object = "hunter2-hunter2"
    for _ in range(100_000):
        value = [value]

    assert Redactor(["hunter2-hunter2"]).scrub(value) == "«redacted:nested too deep»"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
)


@settings(deadline=None)
@given(JSON)
@example({"a": [1.5, "\ud800"]})
def test_scrubbing_keeps_what_is_no_secret(value):
    assert Redactor(["hunter2-hunter2"]).scrub(value) == value


def test_secret_variables_are_known_by_their_names():
    env = {
        "ANTHROPIC_API_KEY": "value-one-1",
        "db_password": "value-two-2",
        "SENTRY_DSN": "value-three-3",
        "MY_AUTH": "value-four-4",
        "API_TOKEN": "short",
        "SSH_AUTH_SOCK": "/tmp/agent.1234",
        "PATH": "/usr/bin:/bin",
        "HOME": "/home/ana/ana",
    }

    assert secrets_in(env) == {"value-one-1", "value-two-2", "value-three-3", "value-four-4"}

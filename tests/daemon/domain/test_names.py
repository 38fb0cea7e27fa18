"""Names that strangers chose are shown in one printable line, and remotes lose what nobody should see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.names import remote_id, shown
from daemon.domain.secret_files import looks_secret


@pytest.mark.parametrize(
    ("url", "id"),
    [
        ("https://github.com/acme/shop.git", "github.com/acme/shop"),
        ("https://ana:hunter2@GitHub.com/Acme/Shop.git", "github.com/Acme/Shop"),
        ("git@github.com:acme/shop.git", "github.com/acme/shop"),
        ("github.com:acme/shop", "github.com/acme/shop"),
        ("ssh://git@git.example.org:22/acme/shop", "git.example.org/acme/shop"),
        ("ssh://git@git.example.org:2222/acme/shop.git/", "git.example.org:2222/acme/shop"),
        ("https://git.example.org:443/a/b", "git.example.org/a/b"),
        ("git@[2001:db8::1]:a/b.git", "[2001:db8::1]/a/b"),
        ("https://[2001:db8::1]/a/b.git", "[2001:db8::1]/a/b"),
        ("https://host/../../etc/./x.git", "host/etc/x"),
        ("https://ho\nst/a\x1b[31m/b\u202e.git", "host/a[31m/b"),
        ("/srv/git/shop.git", ""),
        ("../shop", ""),
        ("file:///srv/git/shop.git", ""),
        ("C:/git/shop", ""),
        ("https://", ""),
        ("https://host:99999999/a", ""),
        ("", ""),
    ],
)
def test_a_remote_is_host_and_path(url, id):
    assert remote_id(url) == id


@given(st.text(st.characters(), max_size=60))
def test_no_remote_breaks_it_or_smuggles_anything(url):
    id = remote_id(url)

    assert id == shown(id)
    assert len(id) <= 255


def test_a_long_remote_is_cut():
    assert len(remote_id("https://host/" + "x" * 100_000)) <= 255


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"a/b.txt", "a/b.txt"),
        ("é.txt".encode(), "é.txt"),
        (b"bad\xff.txt", "bad\\377.txt"),
        (b"new\nline", "new\\nline"),
        (b"esc\x1b[2J", "esc\\033[2J"),
        ("txt\u202egpj.exe".encode(), "txt\\u202egpj.exe"),
        ("zero\u200bwidth".encode(), "zero\\u200bwidth"),
    ],
)
def test_a_path_is_printable(name, text):
    assert shown(name) == text


@pytest.mark.parametrize(
    "path", [".env", "app/.env.local", "certs/Server.PEM", "id_rsa", "x/.ssh/config", "secrets.yml"]
)
def test_credentials_are_known_by_their_names(path):
    assert looks_secret(path)


@pytest.mark.parametrize("path", [".env.example", "environment.py", "monkey.py", "id_rsa.pub", "tokenizer.py", "a.txt"])
def test_other_files_are_not(path):
    assert not looks_secret(path)

"""Where the store may be, and what is said when the text names no such place."""

import pytest

from switchboard.domain.errors import Invalid
from switchboard.store.address import Address
from switchboard.store.lines import Lines


@pytest.mark.parametrize(
    ("url", "shown", "here"),
    [
        ("/run/v.sock", "unix:///run/v.sock", True),
        ("unix:///run/v.sock?db=1", "unix:///run/v.sock", True),
        ("redis://:s3cret@127.0.0.1:7000/0", "redis://127.0.0.1:7000/0", True),
        ("redis://ana:p%40ss@[::1]:7000", "redis://[::1]:7000", True),
        ("rediss://u:p@store.example:7000?ssl_ca_certs=/ca.pem", "rediss://store.example:7000", False),
        (
            "redis+sentinel://u:p@h1:26379,h2:26380/team?sentinel_password=q",
            "redis+sentinel://h1:26379,h2:26380/team",
            False,
        ),
        ("rediss+sentinel://localhost/team", "rediss+sentinel://localhost/team", True),
    ],
)
async def test_an_address_is_shown_without_its_password(url: str, shown: str, here: bool) -> None:
    address = Address(url)
    assert str(address) == shown
    assert address.on_this_machine is here
    await Lines(address.pool(), 1).aclose()


def test_sentinels_are_read_with_their_ports() -> None:
    address = Address("redis+sentinel://u:p@h1,h2:26380,[::1]:5/team")
    assert address.sentinels() == [("h1", 26379), ("h2", 26380), ("::1", 5)]
    assert address.service() == "team"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "http://x",
        "redis://",
        "redis://h:port",
        "unix://",
        "redis+sentinel://h1:1",
        "redis+sentinel://h1:x/team",
    ],
)
def test_what_is_no_address_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(Invalid, match="is no address of a store: use redis://HOST:PORT"):
        Address(url)


def test_a_password_in_a_wrong_address_is_not_repeated() -> None:
    with pytest.raises(Invalid) as refusal:
        Address("http://ana:s3cret@h")
    assert "s3cret" not in str(refusal.value)

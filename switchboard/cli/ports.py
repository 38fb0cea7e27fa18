"""Where `up` listens: the ports that were said, else the ones that this data folder had before, else free ones."""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from switchboard.cli import notes
from switchboard.cli.errors import Failed
from switchboard.settings import ENROLL_PORT, GRPC_PORT, HTTP_PORT, Address

DEFAULTS = {"http": HTTP_PORT, "grpc": GRPC_PORT, "enroll": ENROLL_PORT}
LAST = 32767  # above, an outgoing connection of this machine may be sitting on one
STEP = 10  # keeps the three of one server together: 7800 7801 7802, then 7810 7811 7812


class AddressType(click.ParamType[Address]):
    """HOST:PORT, with [HOST]:PORT for IPv6."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        host, colon, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT, like 127.0.0.1:7800", param, ctx)
        return host, int(port)


def shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(address: Address) -> Address:
    """Return the address under which a part on this machine finds what listens on *address*."""
    host, port = address
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - compared, not bound


def free(host: str, port: int) -> bool:
    """Say whether nobody listens there. Raises Failed for a host that is not this machine's."""
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise Failed(f"{host} is no address of this machine: say an address to listen on, like 127.0.0.1") from None
    with socket.socket(kind[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(kind[4])
            probe.listen(1)
        except PermissionError:
            raise Failed(f"port {port} is only for root: take one from 1024 on") from None
        except OSError as error:
            if error.errno == 99:  # EADDRNOTAVAIL
                raise Failed(f"{host} is no address of this machine: say one to listen on, like 127.0.0.1") from None
            return False
    return True


def choose(data: Path, said: Mapping[str, Address | None], tell: Callable[[str], None]) -> dict[str, Address]:
    """Return the three addresses, and keep the chosen ports for the next time. Raises Failed when one that was said is taken."""
    kept = _kept(data)
    grpc = said.get("grpc")
    chosen: dict[str, Address] = {}
    for name, default in DEFAULTS.items():
        wanted = said.get(name)
        host = wanted[0] if wanted else (grpc[0] if name == "enroll" and grpc else "127.0.0.1")
        if wanted and wanted[1]:
            if not free(*wanted):
                raise Failed(f"{shown(wanted)} is taken by another program: end it, or say another --{name}")
            chosen[name] = wanted
            continue
        others = {port for _, port in chosen.values()} | {a[1] for a in said.values() if a}
        candidates = [kept.get(name, default), *range(default, LAST, STEP)]
        port = next((p for p in candidates if p not in others and free(host, p)), None)
        if port is None:
            raise Failed(f"no free port is left on {host}: say one with --{name}")
        chosen[name] = (host, port)
    notes.keep(data / "ports.json", {name: port for name, (_, port) in chosen.items()}, tell)
    return chosen


def _kept(data: Path) -> dict[str, int]:
    try:
        kept = json.loads((data / "ports.json").read_text())
        return {str(k): v for k, v in kept.items() if isinstance(v, int) and 0 < v < 65536}
    except (OSError, ValueError, AttributeError):
        return {}  # none yet, or not ours: only a convenience

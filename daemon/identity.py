"""Who this machine is: its id, its key, its certificate, and how much of the certificate's life is left.

A key is on disk before its certificate is asked for, so that a lost reply is asked for again with the same request.
"""

import hashlib
import json
import os
import re
import ssl
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from daemon import faults

TOKEN = re.compile(r"sbj_[A-Za-z0-9_-]+_([0-9a-f]{32})")


class NotEnrolled(Exception):
    """One sentence: what is missing of this machine's identity, and what to do."""


class CannotJoin(Exception):
    """One sentence: why this machine does not become part of a fleet, and what to do."""


class BadAddress(Exception):
    """One sentence: what is no HOST:PORT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    id: str
    name: str
    fleet: str  # host:port
    enroll: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """As the switchboard issued it. Its life is counted down on this machine's boot clock from the moment of receipt."""

    certificate_pem: str
    ca_pem: str
    life_s: int
    generation: int
    received_boot_ms: int
    boot: str

    def left_s(self, boot: str, boot_ms: int) -> float | None:
        """Return the seconds of life left; None when the machine was restarted since, so that nobody can say."""
        if boot != self.boot:
            return None
        return self.life_s - (boot_ms - self.received_boot_ms) / 1000

    def due(self, boot: str, boot_ms: int) -> bool:
        """Tell whether two thirds of its life are over, or may be."""
        left = self.left_s(boot, boot_ms)
        return left is None or left <= self.life_s / 3


class Identity:
    """The files in *home*; everything that a crash can cut is finished by the next load."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._machine = home / "machine.json"
        self._key = home / "key.pem"
        self._next_key = home / "key.next.pem"
        self._next_request = home / "request.next.pem"
        self._certificate = home / "certificate.json"
        self._next_certificate = home / "certificate.next.json"
        self._root = home / "enroll.pem"

    @property
    def enrolled(self) -> bool:
        return self._machine.exists() and (self._certificate.exists() or self._next_certificate.exists())

    def machine(self) -> Machine:
        try:
            raw = json.loads(self._machine.read_text(encoding="utf-8"))
            return Machine(id=raw["id"], name=raw["name"], fleet=raw["fleet"], enroll=raw["enroll"])
        except FileNotFoundError as error:
            raise NotEnrolled(
                f"this machine has not joined a switchboard yet ({self._machine} is missing): "
                "run `switchboard-daemon join HOST:PORT TOKEN` with a line from `switchboard machines invite`"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise NotEnrolled(f"{self._machine} is damaged: remove {self.home} and join again") from error

    def put_machine(self, machine: Machine) -> None:
        _write(self._machine, json.dumps(asdict(machine), indent=1).encode())

    def move(self, fleet: str, enroll: str) -> None:
        """Remember other addresses of the same switchboard."""
        self.put_machine(replace(self.machine(), fleet=fleet, enroll=enroll))

    def put_root(self, pem: bytes) -> None:
        _write(self._root, pem)

    def root_pem(self) -> bytes:
        """Return the enrolment port's certificate, as the join token named it."""
        try:
            return self._root.read_bytes()
        except FileNotFoundError as error:
            raise NotEnrolled(f"{self._root} is missing: remove {self.home} and join again") from error

    def certificate(self) -> Certificate:
        self._finish_swap()
        try:
            return Certificate(**json.loads(self._certificate.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise NotEnrolled(f"{self._certificate} is missing: remove {self.home} and join again") from error
        except (ValueError, TypeError) as error:
            raise NotEnrolled(f"{self._certificate} is damaged: remove {self.home} and join again") from error

    def key_pem(self) -> bytes:
        self._finish_swap()
        return self._key.read_bytes()

    def request(self, name: str) -> bytes:
        """Return a certificate request (PEM) for a fresh key; the same one until its certificate has come."""
        if self._next_request.exists() and self._next_key.exists():
            return self._next_request.read_bytes()
        key = ec.generate_private_key(ec.SECP256R1())
        label = "".join(c for c in name if c.isprintable())[:64] or "machine"
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label)]))
            .sign(key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(self._next_key, pem)
        _write(self._next_request, csr.public_bytes(serialization.Encoding.PEM))
        faults.point("identity.key.written")
        return self._next_request.read_bytes()

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA-SHA256 signature of *data* by the present key."""
        key = serialization.load_pem_private_key(self.key_pem(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.sign(data, ec.ECDSA(hashes.SHA256()))

    def put_certificate(self, certificate: Certificate) -> None:
        """Take up the certificate that answers `request`, and its key with it."""
        _write(self._next_certificate, json.dumps(asdict(certificate)).encode())
        faults.point("identity.certificate.written")
        self._finish_swap()

    def _finish_swap(self) -> None:
        """The next certificate's file exists only when it is whole: from then on both moves are repeated until done."""
        if not self._next_certificate.exists():
            return
        if self._next_key.exists():
            os.replace(self._next_key, self._key)
        self._next_request.unlink(missing_ok=True)
        os.replace(self._next_certificate, self._certificate)
        _sync_folder(self.home)


def read_invitation(address: str, token: str) -> tuple[str, int, str]:
    """Return (host, port, fingerprint) of a join line. Raises CannotJoin and BadAddress when it is not one."""
    host, port = read_address(address)
    match = TOKEN.fullmatch(token)
    if match is None:
        raise CannotJoin(
            "the join token is not whole: it looks like sbj_…_ and 32 hexadecimal digits; copy the line again"
        )
    return host, port, match[1]


def read_address(address: str) -> tuple[str, int]:
    """Return (host, port) of HOST:PORT. Raises BadAddress."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadAddress(f"{address!r} is not an address: say HOST:PORT, such as switchboard.example:7802")
    return host, int(port)


def fetch_root(host: str, port: int, fingerprint: str) -> bytes:
    """Return the enrolment server's own certificate (PEM) when it is the one that the token names. Blocking. Raises CannotJoin."""
    try:
        pem = ssl.get_server_certificate((host, port), timeout=10)
    except (OSError, ValueError) as error:
        raise CannotJoin(
            f"no switchboard answers at {host}:{port}: {error}; look at the address and try again"
        ) from error
    found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    if not found.startswith(fingerprint):
        raise CannotJoin(
            f"{host}:{port} is not the switchboard that made this token (its certificate is {found[:32]}, "
            f"the token names {fingerprint}): make a fresh token, and see who answers there if it happens again"
        )
    return pem.encode()


def boot_id() -> str:
    """Return a text that changes with every start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return f"{sys.platform}-{psutil.boot_time():.0f}"


def make_home(home: Path) -> None:
    """Make *home*, for this user only."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)


def _write(file: Path, data: bytes) -> None:
    """Write *data* (0600) so that a crash leaves the old file or the whole of the other."""
    temporary = file.with_name(f".{file.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

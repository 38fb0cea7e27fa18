"""The switchboard's own certificate authority: who a machine is, is what this signed, and nothing else.

Everything is backdated, so that a machine or a server whose clock is off by a day still finds it valid.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from switchboard.clock import Clock
from switchboard.domain.errors import Forbidden, Invalid
from switchboard.domain.machine import CERTIFICATE_LIFE, RENEWABLE_AFTER_EXPIRY
from switchboard.services.identity import Issued, Presented

NAME = "switchboard"  # what daemons expect of the server's certificate, wherever they reach it
LIFE = timedelta(days=3650)
BACKDATED = timedelta(days=30)
LEAF_BACKDATED = timedelta(hours=49)  # a server clock that was two days fast when it signed does no harm
LONGEST_REQUEST = 16_384  # bytes of PEM
CERTIFICATES_REMEMBERED = 20_000


class Pair(NamedTuple):
    """A key and its certificate, as PEM."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class _Signer:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class Authority:
    """Lives in *home* (0700): `ca.pem` and `enroll.pem`, each a key with its certificate (0600)."""

    def __init__(self, home: Path, clock: Clock) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clock = clock
        self._ca = _kept(home / "ca.pem", lambda: _own(f"{NAME} machines", clock.now(), authority=True))
        self._enroll = _kept(home / "enroll.pem", lambda: _own(NAME, clock.now(), authority=False))
        self._read: dict[bytes, Presented] = {}  # certificates of ours whose signature was checked before
        self._sealing = HKDF(hashes.SHA256(), 32, salt=None, info=b"switchboard order seal").derive(
            self._ca.key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    @property
    def ca_pem(self) -> bytes:
        return _pem(self._ca.certificate)

    @property
    def enroll(self) -> Pair:
        """What the enrolment port shows; daemons compare it with the fingerprint in their join token."""
        return Pair(_key_pem(self._enroll.key), _pem(self._enroll.certificate))

    @property
    def enroll_fingerprint(self) -> str:
        return self._enroll.certificate.fingerprint(hashes.SHA256()).hex()[:32]

    def server(self) -> Pair:
        """Return what the fleet port shows: a fresh key, good for as long as any process lives."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock.now()
        builder = _builder(NAME, key.public_key(), now - BACKDATED, now + LIFE, self._ca.certificate.subject)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return Pair(_key_pem(key), _pem(builder.sign(self._ca.key, hashes.SHA256())))

    def fingerprint(self, csr_pem: bytes) -> str:
        """Return the fingerprint of the key that a request proves to hold. Raises Invalid."""
        return _fingerprint(_request(csr_pem).public_key())

    def issue(self, csr_pem: bytes, machine: str, generation: int) -> Issued:
        """Sign a machine's certificate: the id and generation are ours, only the key is the caller's. Raises Invalid."""
        key = _request(csr_pem).public_key()
        now = self._clock.now()
        until = now + CERTIFICATE_LIFE
        builder = _builder(machine, key, now - LEAF_BACKDATED, until, self._ca.certificate.subject)
        uri = f"{NAME}://machine/{machine}?generation={generation}"
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        pem = _pem(builder.sign(self._ca.key, hashes.SHA256())).decode()
        return Issued(certificate_pem=pem, until=until, fingerprint=_fingerprint(key))

    def presented(self, certificate_pem: bytes) -> Presented:
        """Return whom a certificate of ours names, valid or expired. Raises Forbidden when it is not one."""
        if (known := self._read.get(certificate_pem)) is not None:
            return known
        certificate = self._ours(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uri = urlsplit(next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), ""))
        generation = parse_qs(uri.query).get("generation", [""])[0]
        if uri.scheme != NAME or uri.netloc != "machine" or not generation.isdecimal():
            raise Forbidden("this certificate names no machine: join again with `switchboard-daemon join`")
        found = Presented(
            machine=uri.path.lstrip("/"),
            generation=int(generation),
            fingerprint=_fingerprint(certificate.public_key()),
            until=certificate.not_valid_after_utc,
        )
        if len(self._read) >= CERTIFICATES_REMEMBERED:
            self._read.clear()
        self._read[certificate_pem] = found
        return found

    def presented_expired(self, certificate_pem: bytes, signed: bytes, signature: bytes) -> Presented:
        """Return whom a certificate names that expired at most 30 days ago and whose key signed *signed*. Raises Forbidden."""
        certificate = self._ours(certificate_pem)
        if self._clock.now() >= certificate.not_valid_after_utc + RENEWABLE_AFTER_EXPIRY:
            raise Forbidden(
                f"this machine's certificate expired on {certificate.not_valid_after_utc:%d %b %Y}, over 30 days ago: invite it anew"
            )
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Forbidden("this certificate holds no key that could have signed the request")
        try:
            key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise Forbidden("the request was not signed with the key of the expired certificate") from error
        return self.presented(certificate_pem)

    def seal(self, text: str) -> str:
        """Return 12 hex digits that only this switchboard can make for *text*."""
        return hmac.new(self._sealing, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]

    def _ours(self, certificate_pem: bytes) -> x509.Certificate:
        try:
            if len(certificate_pem) > LONGEST_REQUEST:
                raise ValueError("too long")
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            certificate.verify_directly_issued_by(self._ca.certificate)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise Forbidden("this certificate was not issued by this switchboard: join again") from error
        return certificate


def _request(csr_pem: bytes) -> x509.CertificateSigningRequest:
    try:
        if len(csr_pem) > LONGEST_REQUEST:
            raise ValueError("too long")
        request = x509.load_pem_x509_csr(csr_pem)
        sound = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Invalid("csr_pem", "the certificate request cannot be read: send a PEM CSR of a P-256 key") from error
    key = request.public_key()
    if not sound or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("csr_pem", "the certificate request must be of a P-256 key and signed with it")
    return request


def _own(name: str, now: datetime, *, authority: bool) -> _Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(name, key.public_key(), now - BACKDATED, now + LIFE, subject, authority=authority)
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return _Signer(key, builder.sign(key, hashes.SHA256()))


def _builder(
    name: str,
    key: object,
    since: datetime,
    until: datetime,
    issuer: x509.Name,
    *,
    authority: bool = False,
) -> x509.CertificateBuilder:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since.astimezone(UTC))
        .not_valid_after(until.astimezone(UTC))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(usage, critical=True)
    )


def _fingerprint(key: object) -> str:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _kept(path: Path, make: Callable[[], _Signer]) -> _Signer:
    """Load *path*, or make it so that of two processes that start at once one wins and both use what it made."""
    if not path.exists():
        made = make()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(_key_pem(made.key) + _pem(made.certificate))
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # fails when another process was faster; a rename would replace its key
        temporary.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    text = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(text, password=None)
        certificate = x509.load_pem_x509_certificate(text)
    except ValueError as error:
        raise Invalid(
            "data", f"{path} is damaged: put it back from a backup, or remove it and join every machine anew"
        ) from error
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return _Signer(key, certificate)

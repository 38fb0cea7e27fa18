"""Passwords as argon2 hashes, made and checked in threads, so that the loop never waits for one."""

import asyncio
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from switchboard.domain.errors import Invalid

SHORTEST, LONGEST = 10, 512
AT_ONCE = 2  # each takes 64 MiB; a flood of sign-ins queues here instead of filling the memory


class Passwords:
    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._nobody = ""

    async def hash(self, password: str, person: str) -> str:
        """Return the hash of a password that is fit for *person*. Raises Invalid."""
        if len(password) < SHORTEST:
            raise Invalid("password", f"the password is too short: take at least {SHORTEST} characters")
        if len(password) > LONGEST:
            raise Invalid("password", f"the password is too long: take at most {LONGEST} characters")
        if password.casefold().strip(".!0123456789") == person.casefold() or len(set(password)) < 4:
            raise Invalid("password", "the password is too easy to guess: take several words, or have one made")
        async with self._turns:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def fits(self, password: str, stored: str) -> bool:
        """Say whether *password* is the one behind *stored*; takes as long when nothing is stored, so that names do not leak."""
        if len(password) > LONGEST:
            return False
        async with self._turns:
            return await asyncio.to_thread(self._fits, password, stored)

    def _fits(self, password: str, stored: str) -> bool:
        if not stored:
            self._nobody = self._nobody or self._hasher.hash(secrets.token_hex())
        try:
            return self._hasher.verify(stored or self._nobody, password) and bool(stored)
        except (Argon2Error, InvalidHashError):
            return False

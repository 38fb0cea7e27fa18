"""The authority's own book of the machines that it signed for, on this server's disk, so that an emptied store un-revokes nobody."""

import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from switchboard.domain.machine import Machine, Standing

LINES_PER_MACHINE = 20  # past this on average, the file is written anew


class DiskRegister:
    """JSON lines, the last one of a machine counts; each is on disk before its certificate leaves."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._machines: dict[str, Machine] = {}
        self._lines = 0
        self._read()
        if self._lines > 100 + LINES_PER_MACHINE * len(self._machines):
            self._compact()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def remember(self, machine: Machine) -> None:
        known = self._machines.get(machine.id)
        if known is not None and _facts(known) == _facts(machine):
            return
        # A torn line of a crash must not swallow this one.
        os.write(self._file, b"\n" + _line(machine))
        os.fsync(self._file)
        self._machines[machine.id] = machine

    def recall(self, id: str) -> Machine | None:
        return self._machines.get(id)

    def _read(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in filter(None, lines):
            self._lines += 1
            try:
                machine = _machine(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # the torn last line of a crash, whose certificate never left
            known = self._machines.get(machine.id)
            if known is not None and known.standing is not Standing.ACTIVE:
                machine = replace(machine, standing=known.standing)
            self._machines[machine.id] = machine

    def _compact(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.writelines(_line(machine) for machine in self._machines.values())
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(self._path)


def _facts(machine: Machine) -> dict[str, Any]:
    return {
        "id": machine.id,
        "name": machine.name,
        "owner": machine.owner,
        "enrolled_at": machine.enrolled_at.isoformat(),
        "standing": machine.standing.value,
        "generation": machine.generation,
        "key_fingerprint": machine.key_fingerprint,
        "certificate_pem": machine.certificate_pem,
        "certificate_until": machine.certificate_until.isoformat(),
    }


def _line(machine: Machine) -> bytes:
    return json.dumps(_facts(machine)).encode() + b"\n"


def _machine(facts: dict[str, Any]) -> Machine:
    return Machine(
        id=facts["id"],
        name=facts["name"],
        owner=facts["owner"],
        enrolled_at=datetime.fromisoformat(facts["enrolled_at"]),
        standing=Standing(facts["standing"]),
        generation=facts["generation"],
        key_fingerprint=facts["key_fingerprint"],
        certificate_pem=facts["certificate_pem"],
        certificate_until=datetime.fromisoformat(facts["certificate_until"]),
    )

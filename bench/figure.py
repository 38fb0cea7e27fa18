"""One measured figure and the floor it stands on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    value: float
    unit: str
    floor: float  # the same thing done bare, with TLS and fsync alike, in the same run
    target: float  # the ratio that we promise

    @property
    def ratio(self) -> float:
        return self.value / self.floor

    @property
    def met(self) -> bool:
        return self.ratio <= self.target

    def plain(self) -> dict[str, str | float]:
        """Return the row of results.json."""
        return {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "floor": round(self.floor, 3),
            "ratio": round(self.ratio, 2),
            "target": self.target,
        }

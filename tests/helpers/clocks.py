"""A clock that stands still until a test moves it."""

from dataclasses import dataclass


@dataclass
class StillClock:
    boot: int = 1_000_000
    wall: int = 1_790_000_000_000

    def boot_ms(self) -> int:
        return self.boot

    def wall_ms(self) -> int:
        return self.wall

    def pass_ms(self, ms: int) -> None:
        self.boot += ms
        self.wall += ms

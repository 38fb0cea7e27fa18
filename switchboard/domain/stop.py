"""A stop is a standing order: a state that every machine holds until it is lifted, with a receipt per run."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from switchboard.domain.errors import IllegalTransition, Invalid
from switchboard.domain.machine import CERTIFICATE_LIFE, RENEWABLE_AFTER_EXPIRY
from switchboard.domain.run import Run

# Whoever is away for longer can no longer renew its certificate: no machine brings the order back standing.
LIFTS_KEPT = CERTIFICATE_LIFE + RENEWABLE_AFTER_EXPIRY + timedelta(days=4)
REVIEW_AFTER = timedelta(hours=8)  # when the author of a hold is asked to extend or lift it


@dataclass(frozen=True, slots=True)
class Selector:
    """Which runs. Empty lists do not narrow; an empty selector without `all` matches nothing."""

    all: bool = False
    repos: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    except_repos: tuple[str, ...] = ()
    except_runs: tuple[str, ...] = ()

    def checked(self) -> "Selector":
        """Return this selector. Raises Invalid when it names nothing."""
        if not (
            self.all or self.repos or self.machines or self.owners or self.runs or self.agents or self.except_repos
        ):
            raise Invalid(
                "selector", "the order names nothing to stop: say --all, --repo, --machine, --owner or --except-repo"
            )
        return self

    def matches(self, run: Run) -> bool:
        if run.id in self.except_runs or run.repo in self.except_repos:
            return False
        narrowing = (
            (self.repos, run.repo),
            (self.machines, run.machine),
            (self.owners, run.owner),
            (self.runs, run.id),
            (self.agents, run.agent),
        )
        if not any(wanted for wanted, _ in narrowing):
            return self.all or bool(self.except_repos)
        return all(not wanted or value in wanted for wanted, value in narrowing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    id: str
    generation: int
    selector: Selector
    reason: str
    by: str
    issued_at: datetime
    review_at: datetime
    hold: bool = True  # new matching runs are refused while it stands
    lifted: bool = False
    lifted_by: str = ""
    lifted_at: datetime | None = None
    lift_reason: str = ""
    lift_seal: str = ""  # proves to a server that lost it that the lift is its own
    # Runs that this server saw match when it was issued, with their machines: what the N of M is counted against.
    expected: dict[str, str] = field(default_factory=dict)

    def lift(self, by: str, at: datetime, reason: str, generation: int) -> "Order":
        """Return the tombstone. Raises IllegalTransition when it was lifted before."""
        if self.lifted:
            raise IllegalTransition("order", self.id, "lifted", "lift")
        return replace(self, lifted=True, lifted_by=by, lifted_at=at, lift_reason=reason, generation=generation)

    def outlived(self, now: datetime) -> bool:
        """Say whether it was lifted so long ago that nobody needs the tombstone."""
        return self.lifted and self.lifted_at is not None and now - self.lifted_at >= LIFTS_KEPT

    def union(self, other: "Order") -> "Order":
        """Return what two copies of this order add up to: a lift is never undone."""
        if self.lifted != other.lifted:
            return self if self.lifted else other
        return self if self.generation >= other.generation else other


class Outcome(StrEnum):
    ENDED = "ended"  # seen empty by the daemon itself
    FAILED = "failed"  # something is left alive
    REFUSED = "refused"  # a start that matched was refused


@dataclass(frozen=True, slots=True)
class Safety:
    id: str = ""
    head: str = ""
    files: int = 0
    bytes: int = 0
    not_saved: tuple[str, ...] = ()
    error: str = ""
    left_out: int = 0  # how many paths were not saved, named or not

    def unnamed(self) -> "Safety":
        """Return it without what names a file: content, which not everybody may read, and nobody once it is purged."""
        return replace(self, not_saved=(), error="it could not be saved" if self.error else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A daemon's proof for one run under one order."""

    order: str
    run: str
    machine: str
    attempt: int
    outcome: Outcome
    proof: str = ""  # contained, traced, best-effort
    rung: str = ""
    took_ms: int = 0
    processes: int = 0
    reason: str = ""
    safety: Safety | None = None
    at: datetime  # this server's clock, at receipt

    @property
    def id(self) -> str:
        return f"{self.order}/{self.run}/{self.attempt}"

    def unnamed(self) -> "Receipt":
        return replace(self, safety=self.safety.unnamed()) if self.safety else self


class Standing(StrEnum):
    """Where one run stands under one order, as it is shown. Nothing is ever shown as stopped without a receipt."""

    ENDED = "ended"
    REFUSED = "refused"
    FAILED = "failed"
    UNPROVEN = "unproven"  # its machine says that it is over, and has given no receipt
    ENDING = "ending"  # its machine has the order
    UNCONFIRMED = "unconfirmed"  # its machine is attached but has not said so
    UNREACHABLE = "unreachable"  # its machine is away; it obeys at its return


def standing(receipt: Receipt | None, *, over: bool, attached: bool, holds_generation: bool) -> Standing:
    """*over* is its machine's own word, which is not proof."""
    if receipt is not None:
        return Standing(receipt.outcome.value)
    if over:
        return Standing.UNPROVEN
    if not attached:
        return Standing.UNREACHABLE
    return Standing.ENDING if holds_generation else Standing.UNCONFIRMED

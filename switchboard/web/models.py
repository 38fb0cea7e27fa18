"""What people may send: every body with its limits. Unknown fields are refused, or a misspelt one would widen an order."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from switchboard.domain.people import Permission, Role
from switchboard.domain.stop import Selector
from switchboard.services.words import LONGEST_NOTE, LONGEST_PATH, LONGEST_PROMPT, LONGEST_REASON


def _prompt(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: say what the agent shall do")
    return _not_too_long(text)


def _not_too_long(text: str) -> str:
    if (size := len(text.encode())) > LONGEST_PROMPT:
        raise ValueError(
            f"is {size} bytes long, and the limit is {LONGEST_PROMPT} (1 MiB): put it into a file of the repository"
        )
    return text


def _fits(longest: int) -> AfterValidator:
    """Take texts of up to *longest* bytes."""

    def fits(text: str) -> str:
        if (size := len(text.encode())) > longest:
            raise ValueError(f"is {size:,} bytes long; at most {longest:,} are taken")
        return text

    return AfterValidator(fits)


def _reason(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: one sentence on why")
    return text.strip()


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError("holds a number that JSON does not have, or is nested too deeply") from None
    return value


Prompt = Annotated[str, AfterValidator(_prompt)]
Reason = Annotated[str, _fits(LONGEST_REASON), AfterValidator(_reason)]
Maybe = Annotated[str, _fits(LONGEST_REASON)]
Path = Annotated[str, Field(min_length=1), _fits(LONGEST_PATH)]
Name = Annotated[str, Field(max_length=200)]
Names = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=10_000)]
Password = Annotated[str, Field(max_length=1000)]
RequestId = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9._:-]*$")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StartRun(Body):
    machine: Name = ""
    path: Path
    agent: Name = "claude"
    mode: Name = ""
    scope: Names = []
    prompt: Prompt
    resume_after_crash: bool = False
    request_id: RequestId = ""


class Message(Body):
    text: Prompt


class Why(Body):
    reason: Reason


class MaybeWhy(Body):
    reason: Maybe = ""


class Resume(Body):
    text: Annotated[str, AfterValidator(_not_too_long)] = ""


class CastVote(Body):
    verdict: Literal["approve", "deny"]
    digest: Annotated[str, Field(min_length=1, max_length=100)]
    note: Annotated[str, _fits(LONGEST_NOTE)] = ""
    input: Annotated[dict[str, Any], AfterValidator(_plain_json)] | None = None
    vote_id: RequestId = ""


class Which(Body):
    all: bool = False
    repos: Names = []
    machines: Names = []
    owners: Names = []
    runs: Names = []
    agents: Names = []
    except_repos: Names = []
    except_runs: Names = []

    def selector(self) -> Selector:
        lists = {name: tuple(value) for name, value in self.model_dump(exclude={"all"}).items()}
        return Selector(all=self.all, **lists)


class Preview(Body):
    selector: Which


class IssueOrder(Body):
    selector: Which
    reason: Reason
    hold: bool = True
    request_id: RequestId = ""


class Extend(Body):
    hours: Annotated[float, Field(gt=0, le=24 * 30)] = 8


class InviteMachine(Body):
    name: Annotated[str, Field(max_length=80)] = ""


class Restore(Body):
    into: Path


class InvitePerson(Body):
    id: Annotated[str, Field(max_length=40)]
    display: Annotated[str, Field(max_length=80)] = ""
    role: Role = Role.DEVELOPER


class ChangePerson(Body):
    role: Role | None = None
    disabled: bool | None = None


class SignIn(Body):
    person: Name
    password: Password


class UseLink(Body):
    secret: Annotated[str, Field(min_length=1, max_length=200)]
    password: Password | None = None


class NewPassword(Body):
    password: Password


class MintToken(Body):
    name: Name
    permits: list[Permission]
    days: Annotated[float, Field(gt=0, le=366)] = 90
    machine: Name = ""

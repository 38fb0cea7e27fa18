"""Runs: start them, talk to them, end them, list them. What a run is doing is its machine's word, never this server's guess."""

import hashlib
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from switchboard import faults
from switchboard.clock import Clock
from switchboard.domain.errors import Conflict, Forbidden, Invalid, NotFound
from switchboard.domain.instruction import Instruction, Kind
from switchboard.domain.machine import Machine
from switchboard.domain.people import Caller, Permission
from switchboard.domain.run import RESUMABLE, Run, RunState
from switchboard.services.approvals import Approvals
from switchboard.services.book import Book
from switchboard.services.instructions import Instructions
from switchboard.services.output import Output
from switchboard.services.ports import AuditLog
from switchboard.services.presence import Presence
from switchboard.services.projection import Projection
from switchboard.services.run_list import RunFilter, RunList, RunRow
from switchboard.services.run_records import RunRecords, start_id
from switchboard.services.stops import Stops
from switchboard.services.words import LONGEST_PATH, LONGEST_PROMPT, words

__all__ = ["RunFilter", "RunRow", "Runs"]

MODES = ("", "diagnose", "patch", "plan")
MOST_SCOPES = 100
PURGE_LAPSES_IN = timedelta(days=90)  # a machine that is away purges at its return


class Runs:
    def __init__(
        self,
        *,
        runs: Book[Run],
        instructions: Instructions,
        approvals: Approvals,
        stops: Stops,
        output: Output,
        presence: Presence,
        projection: Projection,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._runs = runs
        self._instructions = instructions
        self._stops = stops
        self._presence = presence
        self._projection = projection
        self._audit = audit
        self._clock = clock
        self._records = RunRecords(
            runs=runs,
            instructions=instructions,
            approvals=approvals,
            output=output,
            projection=projection,
            audit=audit,
            clock=clock,
        )
        listed = RunList(projection=projection, presence=presence, clock=clock)
        # What people see.
        self.row = listed.row
        self.rows = listed.rows
        # What machines say, and what time does.
        self.announced = self._records.announced
        self.gone = self._records.gone
        self.forget_ended = self._records.forget_ended
        self.close_unstarted = self._records.close_unstarted

    # What people do

    async def start(
        self,
        caller: Caller,
        *,
        machine: str | None,
        path: str,
        agent: str,
        mode: str = "",
        scope: tuple[str, ...] = (),
        prompt: str,
        resume_after_crash: bool = False,
        request_id: str | None = None,
    ) -> tuple[Run, Instruction]:
        """Order a run on a machine that is there. The same *request_id* starts it once. Its daemon has the last word."""
        caller.need(Permission.START, "start runs")
        there = self._chosen(caller, machine)
        words("path", path, LONGEST_PATH, need="say which repository: the path of a checkout on that machine")
        words("agent", agent, 100, need="say which agent: claude")
        words("prompt", prompt, LONGEST_PROMPT, need="say what the agent shall do: the prompt is empty")
        if mode not in MODES:
            raise Invalid("mode", f"mode {mode[:40]!r} is not known: diagnose, patch, plan, or leave it out")
        if len(scope) > MOST_SCOPES:
            raise Invalid("scope", f"{len(scope)} scopes are too many: at most {MOST_SCOPES}")
        for glob in scope:
            words("scope", glob, LONGEST_PATH, need="a scope is empty")
        id = _run_id(caller, request_id)
        now = self._clock.now()
        asked = Run(
            id=id,
            machine=there.id,
            repo=self._repo_of(there.id, path),
            path=path,
            agent=agent,
            mode=mode,
            scope=scope,
            prompt=prompt,
            owner=caller.person,
            resume_after_crash=resume_after_crash,
            started_at=now,
            changed_at=now,
        )
        self._need_no_hold(asked)
        run = await self._runs.change(id, lambda found: asked if found is None else None)
        assert run is not None
        faults.point("service.run.saved")
        instruction = await self._instructions.order(
            Kind.START,
            run.machine,
            id,
            {
                "run_id": id,
                "path": run.path,
                "agent": run.agent,
                "mode": run.mode,
                "scope": list(run.scope),
                "prompt": run.prompt,
                "owner": run.owner,
                "resume_after_crash": run.resume_after_crash,
            },
            by=caller.person,
            id=start_id(id),
        )
        details = {"machine": run.machine, "path": path, "agent": agent, "mode": mode}
        await self._note(caller, "run.started", id, details=details, once=id)
        return run, instruction

    async def message(self, caller: Caller, id: str, text: str, request_id: str | None = None) -> Instruction:
        """Send a run a message: the next turn of an idle one, or a word into a turn that runs."""
        words("text", text, LONGEST_PROMPT, need="the message is empty")
        run = self._reached(caller, id, "message a run")
        self._need_active(run, "takes no message; `switchboard run resume` takes it up again")
        return await self._order(
            caller, Kind.MESSAGE, run, {"run_id": id, "text": text}, "run.messaged", "", request_id
        )

    async def interrupt(self, caller: Caller, id: str, reason: str = "", request_id: str | None = None) -> Instruction:
        """End the turn that runs; the session stays."""
        words("reason", reason)
        run = self._reached(caller, id, "interrupt a run")
        self._need_active(run, "has no turn to interrupt")
        return await self._order(caller, Kind.INTERRUPT, run, {"run_id": id}, "run.interrupted", reason, request_id)

    async def resume(self, caller: Caller, id: str, text: str = "", request_id: str | None = None) -> Instruction:
        """Take up an ended session again, as the run's next attempt."""
        words("text", text, LONGEST_PROMPT)
        run = self._reached(caller, id, "resume a run")
        if run.state not in RESUMABLE:
            raise Conflict(f"run {id} is {run.state}, so there is nothing to resume", state=run.state)
        if run.purged:
            raise Conflict(f"run {id} was purged, so there is nothing to resume: start another")
        self._need_no_hold(run)
        return await self._order(caller, Kind.RESUME, run, {"run_id": id, "text": text}, "run.resumed", "", request_id)

    async def end(self, caller: Caller, id: str, request_id: str | None = None) -> Instruction:
        """End an idle session in good order."""
        run = self._reached(caller, id, "end a run")
        self._need_active(run, "needs no end")
        return await self._order(caller, Kind.END, run, {"run_id": id}, "run.ended", "", request_id)

    async def purge(self, caller: Caller, id: str, reason: str) -> Run:
        """Forget what a run said and did, here and on its machine; that it was, and who ran it, stays until its retention."""
        caller.need(Permission.PURGE, "purge runs")
        words("reason", reason, need="say why the run is purged: only the audit will tell")
        run = await self._runs.get(id)
        if run is None:
            raise _no_run(id)
        if run.active and run.state is not RunState.ORDERED:
            raise Conflict(f"run {id} is {run.state}: stop it first", state=run.state)

        stands = await self._runs.change(id, lambda found: found.forgotten() if found else None)
        await self._records.forget(id)
        await self._stops.forget_names(id)
        await self._instructions.order(
            Kind.PURGE,
            run.machine,
            id,
            {"run_id": id},
            by=caller.person,
            reason=reason,
            id=f"purge-{id}",
            lapses_in=PURGE_LAPSES_IN,
            again=True,
        )
        await self._note(caller, "run.purged", id, reason)
        return stands or run

    def get(self, caller: Caller, id: str) -> Run:
        """Return a run; whether its content may be shown is `may_read`'s to say."""
        caller.need(Permission.LOOK, "look at runs")
        run = self._projection.run(id)
        if run is None:
            raise _no_run(id)
        return run

    def may_read(self, caller: Caller, run: Run) -> bool:
        """Say whether a caller may read what a run was told, printed and changed."""
        if caller.machine and caller.machine != run.machine:
            return False
        asked = {Permission.VOTE, Permission.AUDIT} & caller.permits
        return caller.solo or bool(asked) or (bool(run.owner) and caller.person == run.owner)

    # Small parts

    def _chosen(self, caller: Caller, machine: str | None) -> Machine:
        if not machine:
            machine = caller.machine or self._only_machine()
        named = [m for m in self._presence.machines() if machine in (m.id, m.name) and m.standing.value == "active"]
        exact = [m for m in named if m.id == machine] or named
        if not exact:
            raise NotFound(f"there is no machine {machine[:100]!r}: see `switchboard machines`")
        if len(exact) > 1:
            raise Invalid("machine", f"{len(exact)} machines are called {machine[:100]!r}: name one by its id")
        if caller.machine and exact[0].id != caller.machine:
            raise Forbidden("this token may only start runs on its own machine")
        return self._presence.need(exact[0].id)

    def _only_machine(self) -> str:
        active = [m for m in self._presence.machines() if m.standing.value == "active"]
        if len(active) == 1:
            return active[0].id
        if not active:
            raise NotFound("no machine has joined yet: `switchboard machines invite` makes the line to paste on one")
        raise Invalid("machine", f"the fleet has {len(active)} machines: say which one with --machine")

    def _reached(self, caller: Caller, id: str, to: str) -> Run:
        caller.need(Permission.START, to)
        run = self._projection.run(id)
        if run is None:
            raise _no_run(id)
        if caller.machine and run.machine != caller.machine:
            raise Forbidden(f"this token may only touch runs of its own machine, and {id} is on another")
        self._presence.need(run.machine)
        return run

    def _need_active(self, run: Run, so: str) -> None:
        if not run.active:
            raise Conflict(f"run {run.id} is {run.state}, so it {so}", state=run.state)

    def _need_no_hold(self, run: Run) -> None:
        if (order := self._stops.held(run)) is not None:
            raise Conflict(
                f"held by order {order.id} of {order.by}: {order.reason}; {order.by} or an incident lead can lift it",
                order=order.id,
            )

    def _repo_of(self, machine: str, path: str) -> str:
        """Return the repo that a machine last announced for a path, or nothing."""
        known = [r for r in self._projection.runs() if r.machine == machine and r.path == path and r.revision]
        return max(known, key=lambda run: run.changed_at).repo if known else ""

    async def _order(
        self,
        caller: Caller,
        kind: Kind,
        run: Run,
        body: Mapping[str, Any],
        action: str,
        reason: str,
        request_id: str | None,
    ) -> Instruction:
        id = None
        if request_id:
            id = "i-" + hashlib.sha256(f"{caller.person}/{kind}/{run.id}/{request_id}".encode()).hexdigest()[:16]
        instruction = await self._instructions.order(
            kind, run.machine, run.id, body, by=caller.person, reason=reason, id=id
        )
        await self._note(caller, action, run.id, reason, once=instruction.id)
        return instruction

    async def _note(
        self,
        caller: Caller,
        action: str,
        subject: str,
        reason: str = "",
        details: dict[str, Any] | None = None,
        once: str = "",
    ) -> None:
        """Put it into the audit; with *once*, an id, only if it is not there: whoever asks again may have seen a server die."""
        await self._audit.append(
            by=caller.person, via=caller.via, action=action, subject=subject, reason=reason, details=details, once=once
        )


def _run_id(caller: Caller, request_id: str | None) -> str:
    if not request_id:
        return f"r-{secrets.token_hex(6)}"
    text = f"{caller.person}/{request_id}".encode("utf-8", "backslashreplace")
    return "r-" + hashlib.sha256(text).hexdigest()[:12]


def _no_run(id: str) -> NotFound:
    return NotFound(f"no run {id[:100]!r}: see `switchboard runs --all`")

"""Who somebody is, on the real store: sign-in, links, sessions, roles and tokens."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from argon2 import PasswordHasher
from helpers.valkey import ManualClock

from switchboard.domain.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from switchboard.domain.people import NEVER_BY_TOKEN, Caller, Permission, Person, Role
from switchboard.services.book import Book
from switchboard.services.passwords import Passwords
from switchboard.services.people import PasswordNeeded, People, TooManyTries
from switchboard.services.projection import Projection
from switchboard.store.redis import RedisStore

GOOD = "correct horse battery"
HERE, THERE = "127.0.0.1", "203.0.113.9"


@dataclass
class Team:
    people: People
    store: RedisStore
    clock: ManualClock
    ana: Caller  # the admin

    async def admit(self, id: str, role: Role, password: str = GOOD) -> Caller:
        """Invite somebody and let them choose their password."""
        _, link = await self.people.invite(self.ana, id, id.title(), role)
        await self.people.use_link(secret_of(link), password)
        return await self.people.caller_named(id, via="session")


def secret_of(link: str) -> str:
    return link.partition("#")[2]


@pytest.fixture
async def team(store: RedisStore) -> AsyncIterator[Team]:
    clock = ManualClock()
    projection = Projection(store.projected, store.changes, store.epochs)
    await projection.start()
    people = People(
        people=Book(store.people, projection),
        sessions=store.sessions,
        links=store.links,
        tokens=store.tokens,
        projection=projection,
        audit=store.audit,
        clock=clock,
        base_url="http://127.0.0.1:7800",
        passwords=Passwords(PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)),
    )
    await people.ensure_first("ana")
    await people.use_link(secret_of(await people.first_link("ana")), GOOD)
    try:
        yield Team(people, store, clock, await people.caller_named("ana", via="session"))
    finally:
        await projection.close()


async def actions(team: Team) -> list[str]:
    return [entry.action for entry in await team.store.audit.read(None, 100)]


class TestFirst:
    async def test_the_first_person_of_an_empty_team_is_an_admin_and_asking_again_makes_no_second(self, team: Team):
        again = await team.people.ensure_first("ben")

        assert (again.id, again.role) == ("ana", Role.ADMIN)
        assert [person.id for person in team.people.everybody()] == ["ana"]

    async def test_one_enabled_person_is_solo_and_two_are_not(self, team: Team):
        assert team.people.solo()
        await team.admit("ben", Role.VIEWER)
        assert not team.people.solo()
        await team.people.disable(team.ana, "ben")
        assert team.people.solo()


class TestLinks:
    async def test_a_link_without_a_password_asks_for_one_and_is_not_used_up_by_that(self, team: Team):
        _, link = await team.people.invite(team.ana, "ben", "Ben", Role.REVIEWER)
        with pytest.raises(PasswordNeeded) as asked:
            await team.people.use_link(secret_of(link))
        assert asked.value.details["needs"] == "password"
        with pytest.raises(Invalid, match="too short"):
            await team.people.use_link(secret_of(link), "short")

        signed = await team.people.use_link(secret_of(link), GOOD)

        assert signed.person.id == "ben"
        assert (await team.people.sign_in("ben", GOOD, address=HERE)).person.id == "ben"

    async def test_a_link_works_once_even_for_fifty_at_the_same_time(self, team: Team):
        secret = secret_of(await team.people.link(team.ana, "ana"))

        outcomes = await asyncio.gather(*(team.people.use_link(secret) for _ in range(50)), return_exceptions=True)

        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert all(isinstance(o, Unauthenticated) for o in outcomes if isinstance(o, BaseException))

    async def test_a_link_is_over_after_fifteen_minutes(self, team: Team):
        secret = secret_of(await team.people.link(team.ana, "ana"))
        team.clock.forward(timedelta(minutes=15, seconds=1))

        with pytest.raises(Unauthenticated, match="15 minutes"):
            await team.people.use_link(secret)

    async def test_the_secret_rides_in_the_fragment_and_only_its_hash_is_stored(self, team: Team):
        link = await team.people.link(team.ana, "ana")

        assert link.startswith("http://127.0.0.1:7800/sign-in#")
        assert all(secret_of(link) not in repr(stored) for stored in await team.store.links.all())

    async def test_a_link_for_somebody_else_needs_the_permission_for_people(self, team: Team):
        ben = await team.admit("ben", Role.REVIEWER)
        await team.people.link(ben, "ben")
        with pytest.raises(Forbidden):
            await team.people.link(ben, "ana")

    async def test_a_link_of_a_person_who_was_shut_out_since_is_worth_nothing(self, team: Team):
        await team.admit("ben", Role.VIEWER)
        secret = secret_of(await team.people.link(team.ana, "ben"))
        await team.people.disable(team.ana, "ben")

        with pytest.raises(Unauthenticated):
            await team.people.use_link(secret)


class TestPasswords:
    async def test_a_wrong_name_and_a_wrong_password_are_refused_with_the_same_words(self, team: Team):
        said = []
        for name, password in [("ana", "wrong wrong wrong"), ("nobody", GOOD), ("../../etc", GOOD), ("", "")]:
            with pytest.raises(Unauthenticated) as refused:
                await team.people.sign_in(name, password, address=HERE)
            said.append(str(refused.value))
        assert len(set(said)) == 1

    @pytest.mark.parametrize("password", ["short", "a" * 600, "aaaaaaaaaaaaaaaa", "ana1234567890"])
    async def test_a_poor_password_is_refused_with_a_sentence(self, team: Team, password: str):
        with pytest.raises(Invalid, match="password"):
            await team.people.set_password(team.ana, password)

    async def test_guessing_is_slowed_down_but_not_for_the_owner_at_an_address_that_got_it_right(self, team: Team):
        await team.people.sign_in("ana", GOOD, address=HERE)
        refused = []
        for _ in range(40):
            with pytest.raises((Unauthenticated, TooManyTries)) as error:
                await team.people.sign_in("ana", "guess guess guess", address=THERE)
            refused.append(type(error.value))

        assert refused[:5] == [Unauthenticated] * 5
        assert refused[-1] is TooManyTries
        assert (await team.people.sign_in("ana", GOOD, address=HERE)).person.id == "ana"
        team.clock.forward(timedelta(minutes=2))
        assert (await team.people.sign_in("ana", GOOD, address=THERE)).person.id == "ana"

    async def test_a_hundred_guesses_at_once_are_not_all_free(self, team: Team):
        guesses = (team.people.sign_in("ana", f"guess number {n}", address=THERE) for n in range(100))

        outcomes = await asyncio.gather(*guesses, return_exceptions=True)

        assert sum(isinstance(o, Unauthenticated) for o in outcomes) == 5
        assert sum(isinstance(o, TooManyTries) for o in outcomes) == 95

    async def test_a_new_password_ends_every_other_session(self, team: Team):
        mine = await team.people.sign_in("ana", GOOD, address=HERE)
        other = await team.people.sign_in("ana", GOOD, address=THERE)

        await team.people.set_password(team.ana, "a much better one", keep=mine.session)

        assert (await team.people.by_cookie(mine.cookie))[0].person == "ana"
        with pytest.raises(Unauthenticated):
            await team.people.by_cookie(other.cookie)
        with pytest.raises(Unauthenticated):
            await team.people.sign_in("ana", GOOD, address=HERE)

    async def test_no_secret_is_stored_in_the_clear(self, team: Team):
        signed = await team.people.sign_in("ana", GOOD, address=HERE)
        token, _ = await team.people.tokens.mint(team.ana, name="ci", permits={Permission.LOOK}, days=1)

        keys = await team.store.client.call("KEYS", "*", again=True)
        lying_about = b"".join([await team.store.client.call("DUMP", key, again=True) or b"" for key in keys])

        for secret in (GOOD, signed.cookie, signed.page_secret, token):
            assert secret.encode() not in lying_about


class TestSessions:
    async def test_a_session_is_over_after_its_life(self, team: Team):
        signed = await team.people.sign_in("ana", GOOD, address=HERE)
        team.clock.forward(timedelta(hours=12, seconds=1))

        with pytest.raises(Unauthenticated, match="sign in again"):
            await team.people.by_cookie(signed.cookie)

    async def test_sign_out_ends_it(self, team: Team):
        signed = await team.people.sign_in("ana", GOOD, address=HERE)
        await team.people.sign_out(signed.session)

        with pytest.raises(Unauthenticated):
            await team.people.by_cookie(signed.cookie)

    async def test_a_change_of_role_counts_from_the_next_request_on(self, team: Team):
        await team.admit("ben", Role.REVIEWER)
        signed = await team.people.sign_in("ben", GOOD, address=HERE)
        assert Permission.VOTE in (await team.people.by_cookie(signed.cookie))[0].permits

        await team.people.set_role(team.ana, "ben", Role.VIEWER)

        assert (await team.people.by_cookie(signed.cookie))[0].permits == frozenset({Permission.LOOK})

    async def test_whoever_is_disabled_is_out_at_once_with_session_token_and_password(self, team: Team):
        ben = await team.admit("ben", Role.DEVELOPER)
        signed = await team.people.sign_in("ben", GOOD, address=HERE)
        token, _ = await team.people.tokens.mint(ben, name="ci", permits={Permission.LOOK}, days=1)

        await team.people.disable(team.ana, "ben")

        for attempt in (
            team.people.by_cookie(signed.cookie),
            team.people.tokens.caller(token),
            team.people.by_password("ben", GOOD, address=HERE),
        ):
            with pytest.raises(Unauthenticated):
                await attempt

    async def test_the_page_secret_is_another_one_than_the_cookie(self, team: Team):
        signed = await team.people.sign_in("ana", GOOD, address=HERE)

        assert team.people.holds_page(signed.session, signed.page_secret)
        assert not team.people.holds_page(signed.session, signed.cookie)
        assert not team.people.holds_page(signed.session, "")


class TestPeople:
    @pytest.mark.parametrize("id", ["", "Ana", "a b", "../ana", "ana\n", "-ana", "a" * 41, "änne", "<b>"])
    async def test_a_name_that_is_none_is_refused(self, team: Team, id: str):
        with pytest.raises(Invalid, match="cannot be a name"):
            await team.people.invite(team.ana, id, "", Role.VIEWER)

    async def test_a_name_is_given_once(self, team: Team):
        await team.people.invite(team.ana, "ben", "Ben", Role.VIEWER)
        with pytest.raises(Conflict, match="already"):
            await team.people.invite(team.ana, "ben", "Another", Role.ADMIN)
        assert next(p for p in team.people.everybody() if p.id == "ben").role is Role.VIEWER

    async def test_the_last_admin_stays_one(self, team: Team):
        for change in (team.people.set_role(team.ana, "ana", Role.VIEWER), team.people.disable(team.ana, "ana")):
            with pytest.raises(Conflict, match="only admin"):
                await change

    async def test_changes_need_the_permission_and_somebody_who_is_there(self, team: Team):
        ben = await team.admit("ben", Role.INCIDENT_LEAD)
        with pytest.raises(Forbidden):
            await team.people.set_role(ben, "ben", Role.ADMIN)
        with pytest.raises(Forbidden):
            await team.people.invite(ben, "kim", "Kim", Role.VIEWER)
        with pytest.raises(NotFound):
            await team.people.set_role(team.ana, "kim", Role.ADMIN)

    async def test_the_audit_tells_it(self, team: Team):
        await team.admit("ben", Role.VIEWER)
        await team.people.set_role(team.ana, "ben", Role.DEVELOPER)
        await team.people.disable(team.ana, "ben")

        said = await actions(team)

        assert {"person.invited", "person.link", "person.password", "person.signed-in", "person.role"} <= set(said)
        assert said[0] == "person.disabled"


class TestTokens:
    async def test_a_token_never_holds_what_no_token_may(self, team: Team):
        for permission in NEVER_BY_TOKEN:
            with pytest.raises(Forbidden, match="no token"):
                await team.people.tokens.mint(team.ana, name="x", permits={permission}, days=1)

    async def test_a_token_hands_on_no_more_than_its_person_has_at_that_moment(self, team: Team):
        ben = await team.admit("ben", Role.DEVELOPER)
        permits = {Permission.LOOK, Permission.START, Permission.STOP}
        token, _ = await team.people.tokens.mint(ben, name="ci", permits=permits, days=1, machine="m-1")
        assert (await team.people.tokens.caller(token)).permits == permits

        await team.people.set_role(team.ana, "ben", Role.VIEWER)

        assert (await team.people.tokens.caller(token)).permits == {Permission.LOOK}
        viewer = await team.people.caller_named("ben", via="session")
        with pytest.raises(Forbidden):
            await team.people.tokens.mint(viewer, name="ci", permits={Permission.START}, days=1, machine="m-1")

    @pytest.mark.parametrize("permission", [Permission.START, Permission.STOP])
    async def test_a_token_starts_and_stops_on_the_machine_that_it_names_or_not_at_all(
        self, team: Team, permission: Permission
    ):
        with pytest.raises(Invalid, match=f"may {permission} on one machine only: say which"):
            await team.people.tokens.mint(team.ana, name="ci", permits={Permission.LOOK, permission}, days=1)

        text, token = await team.people.tokens.mint(team.ana, name="ci", permits={permission}, days=1, machine="m-1")
        assert (await team.people.tokens.caller(text)).machine == "m-1"
        # One that lost its machine, as whoever writes to the store could make it, is worth no more.
        await team.store.tokens.change(token.id, lambda _: replace(token, machine=""))
        assert (await team.people.tokens.caller(text)).permits == frozenset()

    async def test_a_token_makes_no_token_and_no_password(self, team: Team):
        text, _ = await team.people.tokens.mint(team.ana, name="ci", permits={Permission.LOOK}, days=1)
        caller = await team.people.tokens.caller(text)

        for attempt in (
            team.people.tokens.mint(caller, name="more", permits={Permission.LOOK}, days=1),
            team.people.set_password(caller, "a much better one"),
            team.people.link(caller, "ana"),
            team.people.invite(caller, "ben", "Ben", Role.ADMIN),
            team.people.tokens.revoke(caller, "0" * 16),
        ):
            with pytest.raises(Forbidden):
                await attempt

    async def test_a_token_expires_and_can_be_revoked(self, team: Team):
        text, token = await team.people.tokens.mint(team.ana, name="ci", permits={Permission.LOOK}, days=1)
        other, kept = await team.people.tokens.mint(team.ana, name="ci2", permits={Permission.LOOK}, days=1)
        await team.people.tokens.revoke(team.ana, token.id[:16])
        with pytest.raises(Unauthenticated, match="not known"):
            await team.people.tokens.caller(text)

        assert (await team.people.tokens.caller(other)).person == "ana"
        team.clock.forward(timedelta(days=1, seconds=1))
        with pytest.raises(Unauthenticated):
            await team.people.tokens.caller(other)
        assert kept.name == "ci2"

    async def test_somebody_elses_token_is_not_there(self, team: Team):
        ben = await team.admit("ben", Role.DEVELOPER)
        _, token = await team.people.tokens.mint(team.ana, name="ci", permits={Permission.LOOK}, days=1)

        assert await team.people.tokens.of(ben) == []
        with pytest.raises(NotFound):
            await team.people.tokens.revoke(ben, token.id)

    async def test_the_token_of_a_data_directory_is_bound_and_replaces_the_one_before(self, team: Team):
        first = await team.people.tokens.for_machine("ana", "m-1")
        second = await team.people.tokens.for_machine("ana", "m-1")

        caller = await team.people.tokens.caller(second)

        assert caller.machine == "m-1"
        assert caller.permits == {Permission.LOOK, Permission.START, Permission.STOP}
        with pytest.raises(Unauthenticated):
            await team.people.tokens.caller(first)


async def test_a_person_from_an_older_store_still_loads(team: Team):
    person = await team.store.people.get("ana")
    assert isinstance(person, Person)
    assert person.password_hash.startswith("$argon2id$")

"""One attempt's life as comic strips, and what must hold whatever the order of events."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from daemon.domain import steps
from daemon.domain.run import ENDED, RunState
from daemon.domain.supervisor import Supervised

IDLE_MS = 900_000
SENTENCE = "stopped by order o1 of ana: incident"


class Strip:
    """Feeds events and keeps what was said to be done."""

    def __init__(self, *, prompted: bool = True) -> None:
        self.run = Supervised("r1", IDLE_MS, prompted=prompted)
        self.at = 1_000
        self.done: list[steps.Instruction] = []

    def take(self, *events: steps.Event) -> list[steps.Instruction]:
        """Return the instructions of the last event."""
        last: list[steps.Instruction] = []
        for event in events:
            self.at += 10
            last = self.run.take(event, self.at)
            self.done += last
        return last

    def up(self) -> "Strip":
        self.take(steps.StartOrdered(), steps.KeeperUp(), steps.SessionReady(), steps.TurnBegan())
        return self


def states(done: list[steps.Instruction]) -> list[RunState]:
    return [each.state for each in done if isinstance(each, steps.Announce)]


def test_a_start_is_announced_before_anything_is_started() -> None:
    assert Strip().take(steps.StartOrdered()) == [steps.Announce(RunState.STARTING, ""), steps.Spawn()]


def test_a_prompt_is_worked_on_before_there_is_an_idle_moment() -> None:
    strip = Strip()
    strip.take(steps.StartOrdered(), steps.KeeperUp())

    assert strip.take(steps.SessionReady()) == []
    assert strip.run.state is RunState.STARTING
    assert strip.take(steps.TurnBegan()) == [steps.Announce(RunState.RUNNING, "")]
    assert RunState.IDLE not in states(strip.done)


def test_a_session_that_is_taken_up_without_a_word_is_idle_at_once() -> None:
    strip = Strip(prompted=False)
    strip.take(steps.StartOrdered(), steps.KeeperUp())

    assert strip.take(steps.SessionReady()) == [
        steps.Announce(RunState.IDLE, ""),
        steps.WakeAt(strip.at + IDLE_MS),
    ]


def test_a_turn_that_asks_and_ends_well() -> None:
    strip = Strip().up()

    asked = strip.take(steps.Asked("a1"))
    assert asked == [steps.Announce(RunState.WAITING, "", "a1")]
    assert strip.take(steps.Settled("a1")) == [steps.Announce(RunState.RUNNING, "")]
    over = strip.take(steps.TurnOver())
    assert over == [steps.Announce(RunState.IDLE, ""), steps.WakeAt(strip.at + IDLE_MS)]


def test_it_waits_for_the_oldest_open_question() -> None:
    strip = Strip().up()

    strip.take(steps.Asked("a1"), steps.Asked("a2"))
    assert strip.take(steps.Settled("a1")) == [steps.Announce(RunState.WAITING, "", "a2")]


def test_an_idle_session_ends_in_good_order_when_its_time_is_up() -> None:
    strip = Strip().up()
    strip.take(steps.TurnOver())
    assert strip.take(steps.IdleTimer()) == [steps.WakeAt(strip.run._idle_since + IDLE_MS)]

    strip.at += IDLE_MS
    assert strip.take(steps.IdleTimer()) == [steps.CloseSession()]
    assert strip.take(steps.SessionClosed()) == [steps.WalkLadder("terminate")]
    assert states(strip.take(steps.TreeEmptied())) == [RunState.SUCCEEDED]


def test_a_session_that_is_spoken_to_does_not_end_by_its_old_timer() -> None:
    strip = Strip().up()
    strip.take(steps.TurnOver())
    strip.at += IDLE_MS
    strip.take(steps.MessageOrdered("i1", "go on"), steps.TurnBegan())

    assert strip.take(steps.IdleTimer()) == []


def test_a_session_whose_last_turn_failed_ends_as_failed_with_its_reason() -> None:
    strip = Strip().up()
    strip.take(
        steps.TurnOver(ok=False, reason="the model is overloaded"), steps.EndOrdered("i1"), steps.SessionClosed()
    )

    (over,) = strip.take(steps.TreeEmptied())
    assert over == steps.Announce(RunState.FAILED, "the model is overloaded")


def test_a_stop_withdraws_what_is_open_and_walks_the_ladder_and_only_the_empty_tree_ends_it() -> None:
    strip = Strip().up()
    strip.take(steps.Asked("a1"))

    stopped = strip.take(steps.StopMatched("o1", SENTENCE))
    assert stopped == [
        steps.Announce(RunState.STOPPING, SENTENCE, "a1"),
        steps.Withdraw(("a1",), SENTENCE),
        steps.WalkLadder("interrupt"),
    ]
    assert strip.take(steps.AgentEnded("claude was killed by signal 9")) == [steps.WalkLadder("terminate")]
    assert strip.take(steps.TreeEmptied()) == [
        steps.GiveReceipts(("o1",), ended=True),
        steps.Announce(RunState.STOPPED, SENTENCE),
        steps.SaveWork(("o1",)),
    ]


def test_a_second_order_gets_its_receipt_too() -> None:
    strip = Strip().up()
    strip.take(steps.StopMatched("o1", SENTENCE), steps.StopMatched("o2", "another"))

    assert steps.GiveReceipts(("o1", "o2"), ended=True) in strip.take(steps.TreeEmptied())


def test_what_survives_the_last_rung_is_named_and_the_run_is_not_over() -> None:
    strip = Strip().up()
    strip.take(steps.StopMatched("o1", SENTENCE))

    left = strip.take(steps.TreeLeft("pid 7 sleep"))
    assert left == [
        steps.Announce(RunState.STOPPING, "still alive after the last rung: pid 7 sleep"),
        steps.GiveReceipts(("o1",), ended=False, reason="still alive after the last rung: pid 7 sleep"),
    ]
    assert steps.Announce(RunState.STOPPED, SENTENCE) in strip.take(steps.TreeEmptied())


def test_a_run_without_its_keeper_is_ended_at_once_with_the_true_cause() -> None:
    strip = Strip().up()
    strip.take(steps.Asked("a1"))

    assert strip.take(steps.KeeperLost("its keeper was killed")) == [
        steps.Withdraw(("a1",), "its keeper was killed"),
        steps.WalkLadder("kill"),
    ]
    assert strip.take(steps.TreeEmptied()) == [steps.Announce(RunState.FAILED, "its keeper was killed")]


def test_the_first_cause_of_an_end_names_it() -> None:
    strip = Strip().up()
    strip.take(steps.KeeperLost("its keeper was killed"), steps.AgentEnded("claude was killed by signal 9"))

    assert strip.take(steps.TreeEmptied()) == [steps.Announce(RunState.FAILED, "its keeper was killed")]


def test_a_start_that_fails_says_why() -> None:
    strip = Strip()
    strip.take(steps.StartOrdered(), steps.StartFailed("claude is not signed in"))

    assert strip.take(steps.TreeEmptied()) == [steps.Announce(RunState.FAILED, "claude is not signed in")]


def test_a_message_waits_for_the_session_to_be_up() -> None:
    strip = Strip()
    strip.take(steps.StartOrdered())

    assert strip.take(steps.MessageOrdered("i1", "hello")) == []
    assert steps.Say("i1", "hello") in strip.take(steps.SessionReady())


def test_a_message_that_waited_for_nothing_is_told_so() -> None:
    strip = Strip()
    strip.take(steps.StartOrdered(), steps.MessageOrdered("i1", "hello"))

    (failed, *_) = strip.take(steps.StopMatched("o1", SENTENCE))[1:]
    assert failed == steps.Failed("i1", "run r1 ended before it could take a message")


def test_words_to_a_run_that_is_over_or_ending_are_refused_with_its_state() -> None:
    strip = Strip().up()
    strip.take(steps.StopMatched("o1", SENTENCE))
    assert strip.take(steps.MessageOrdered("i1", "hello")) == [steps.Failed("i1", "run r1 is ending")]

    strip.take(steps.TreeEmptied())
    assert strip.take(steps.InterruptOrdered("i2")) == [steps.Failed("i2", "run r1 is stopped")]


def test_only_an_idle_session_can_be_ended_in_good_order() -> None:
    (refused,) = Strip().up().take(steps.EndOrdered("i1"))

    assert isinstance(refused, steps.Failed)
    assert "running, not idle" in refused.reason


def test_a_drain_waits_for_the_idle_moment_and_interrupts() -> None:
    strip = Strip().up()
    assert strip.take(steps.DrainOrdered("the daemon restarts")) == []
    assert strip.take(steps.MessageOrdered("i1", "x"))[0] == steps.Failed(
        "i1", "run r1 takes no message now: the daemon restarts"
    )

    assert strip.take(steps.TurnOver())[-1] == steps.CloseSession()
    strip.take(steps.AgentEnded())
    assert strip.take(steps.TreeEmptied()) == [steps.Announce(RunState.INTERRUPTED, "the daemon restarts")]


def test_a_drain_lets_a_prompt_have_its_turn_first() -> None:
    strip = Strip()
    strip.take(steps.StartOrdered(), steps.KeeperUp(), steps.DrainOrdered("the daemon restarts"))

    assert strip.take(steps.SessionReady()) == []
    assert strip.take(steps.TurnBegan(), steps.TurnOver())[-1] == steps.CloseSession()


def test_a_question_after_the_end_has_begun_is_a_no() -> None:
    strip = Strip().up()
    strip.take(steps.StopMatched("o1", SENTENCE))

    assert strip.take(steps.Asked("a9")) == [steps.Withdraw(("a9",), SENTENCE)]


EVENTS: st.SearchStrategy[steps.Event] = st.one_of(
    st.sampled_from(
        [
            steps.StartOrdered(),
            steps.StartFailed("it failed to start"),
            steps.KeeperUp(),
            steps.KeeperLost("its keeper was killed"),
            steps.SessionReady(),
            steps.TurnBegan(),
            steps.TurnOver(),
            steps.TurnOver(ok=False, reason="overloaded"),
            steps.TurnOver(ok=False, interrupted=True),
            steps.IdleTimer(),
            steps.DrainOrdered("draining"),
            steps.HaltOrdered("the disk is full"),
            steps.SessionClosed(),
            steps.AgentEnded(),
            steps.AgentEnded("killed by signal 9"),
            steps.TreeLeft("pid 7 sleep"),
        ]
    ),
    st.builds(steps.Asked, st.sampled_from(["a1", "a2", "a3"])),
    st.builds(steps.Settled, st.sampled_from(["a1", "a2", "a3"])),
    st.builds(steps.StopMatched, st.sampled_from(["o1", "o2"]), st.just(SENTENCE)),
    st.builds(steps.MessageOrdered, st.sampled_from(["i1", "i2"]), st.just("hello")),
    st.builds(steps.InterruptOrdered, st.just("i3")),
    st.builds(steps.EndOrdered, st.just("i4")),
)


def play(prompted: bool, events: list[steps.Event], ending: list[steps.Event]) -> tuple[Strip, list[Any]]:
    """Feed *events*; an id asks once, as ids do. Return the strip and (event, instructions) of each."""
    strip, pages, used = Strip(prompted=prompted), [], set()
    for event in [*events, *ending]:
        if isinstance(event, steps.Asked):
            if event.ask in used:
                continue
            used.add(event.ask)
        pages.append((event, strip.take(event)))
    return strip, pages


@given(st.booleans(), st.lists(EVENTS, max_size=40))
def test_a_run_is_never_over_before_its_tree_was_seen_empty(prompted: bool, events: list[steps.Event]) -> None:
    strip, _ = play(prompted, events, [])

    assert not strip.run.over
    assert not set(states(strip.done)) & ENDED


@given(st.booleans(), st.lists(EVENTS, max_size=40), st.lists(EVENTS, max_size=10))
def test_a_run_whose_tree_is_empty_is_over_for_good(
    prompted: bool, events: list[steps.Event], late: list[steps.Event]
) -> None:
    strip, _ = play(prompted, events, [steps.TreeEmptied()])
    assert strip.run.over
    last = strip.run.state

    for event in late:
        strip.take(event)
    assert strip.run.state is last
    assert [state for state in states(strip.done) if state in ENDED] == [last]


@given(st.booleans(), st.lists(EVENTS, max_size=40))
def test_every_question_is_settled_exactly_once(prompted: bool, events: list[steps.Event]) -> None:
    strip, pages = play(prompted, events, [steps.TreeEmptied()])

    asked = [event.ask for event, _ in pages if isinstance(event, steps.Asked)]
    settled: list[str] = []
    open_now: set[str] = set()
    for event, done in pages:
        if isinstance(event, steps.Asked):
            open_now.add(event.ask)
        if isinstance(event, steps.Settled) and event.ask in open_now:
            open_now.discard(event.ask)
            settled.append(event.ask)
        for each in done:
            if isinstance(each, steps.Withdraw):
                assert set(each.asks) <= open_now
                open_now -= set(each.asks)
                settled += each.asks
                assert each.cause
    assert sorted(asked) == sorted(settled)
    assert not strip.run.asks


@given(st.booleans(), st.lists(EVENTS, max_size=40), st.lists(EVENTS, max_size=20))
def test_a_stop_always_walks_the_ladder_and_ends_as_stopped_with_its_receipt(
    prompted: bool, before: list[steps.Event], then: list[steps.Event]
) -> None:
    stop = steps.StopMatched("o9", SENTENCE)
    strip, pages = play(prompted, before, [stop, *then, steps.TreeEmptied()])

    (done,) = [done for event, done in pages if event == stop]
    assert any(isinstance(each, steps.WalkLadder) for each in done)
    assert strip.run.state is RunState.STOPPED
    assert strip.run.reason == SENTENCE
    receipts = [each for each in strip.done if isinstance(each, steps.GiveReceipts) and each.ended]
    assert len(receipts) == 1
    assert "o9" in receipts[0].orders


@given(st.booleans(), st.lists(EVENTS, max_size=40))
def test_every_instruction_of_a_person_is_answered_or_carried_out(prompted: bool, events: list[steps.Event]) -> None:
    words = steps.MessageOrdered | steps.InterruptOrdered | steps.EndOrdered
    numbered: list[steps.Event] = []
    for index, event in enumerate(events):
        match event:
            case steps.MessageOrdered():
                numbered.append(steps.MessageOrdered(f"m{index}", event.text))
            case steps.InterruptOrdered():
                numbered.append(steps.InterruptOrdered(f"m{index}"))
            case steps.EndOrdered():
                numbered.append(steps.EndOrdered(f"m{index}"))
            case _:
                numbered.append(event)
    strip, _ = play(prompted, numbered, [steps.TreeEmptied()])

    answers = steps.Say | steps.InterruptTurn | steps.Applied | steps.Failed
    answered = [each.instruction for each in strip.done if isinstance(each, answers)]
    assert sorted(answered) == sorted(event.instruction for event in numbered if isinstance(event, words))


@given(st.booleans(), st.lists(EVENTS, max_size=40))
def test_the_reason_of_an_end_is_never_lost(prompted: bool, events: list[steps.Event]) -> None:
    strip, _ = play(prompted, events, [steps.TreeEmptied()])

    if strip.run.state is not RunState.SUCCEEDED:
        assert strip.run.reason

"""What leaves of a question: masked as a whole first, and only then cut to what a card can hold."""

import asyncio
from pathlib import Path

from helpers.eventually import eventually

from daemon.clock import SystemClock
from daemon.domain.agent import Question, QuestionKind
from daemon.domain.redaction import Redactor
from daemon.journal import Journal
from daemon.questions import DIFF_CHARACTERS, WHY_CHARACTERS, Asking, Questions
from daemon.reports import Reports

SECRET = "tr0ub4dor-and-3-and-more"


async def test_a_secret_across_the_cut_of_a_diff_or_of_the_last_words_is_not_shown_by_half(tmp_path: Path) -> None:
    journal, redactor = Journal(tmp_path, SystemClock()), Redactor([SECRET])
    questions = Questions(journal, redactor, SystemClock(), 3600, Reports(journal, redactor))
    half = len(SECRET) // 2
    diff = "+" * (DIFF_CHARACTERS - half) + SECRET + "\n"
    why = SECRET + "." * (WHY_CHARACTERS - half)
    asking = Asking("r1", 1, "/src", "full", edits_input=False, why=why)
    question = Question(QuestionKind.TOOL, "Edit", {"file_path": "/src/a.py"}, diff=diff)

    waiting = asyncio.ensure_future(questions.ask(asking, question, opened=lambda id: None, settled=lambda id: None))
    (asked,) = await eventually(journal.open_approvals)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert SECRET[:half] not in asked.diff
    assert SECRET[half:] not in asked.why
    assert len(asked.diff) <= DIFF_CHARACTERS
    assert len(asked.why) <= WHY_CHARACTERS

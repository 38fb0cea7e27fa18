"""What claude asks, as questions, and what was answered, as claude expects it. Whatever is not a clear yes is a no."""

from pathlib import Path

from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny

from daemon.agents.driver import Json
from daemon.agents.edits import diff
from daemon.domain.agent import Answer, Question, QuestionKind
from daemon.domain.gate import answers

WITHOUT_A_WORD = "refused without a reason"


def of_tool(request: Json, cwd: Path) -> Question:
    """A `can_use_tool` request. Reads the file that an edit is about."""
    tool, call = str(request["tool_name"]), request["input"]
    kind = QuestionKind.TOOL
    if tool == "AskUserQuestion":
        kind = QuestionKind.CHOICE
    elif tool == "ExitPlanMode":
        kind = QuestionKind.PLAN
    elif request.get("requires_user_interaction"):  # one more tool that is itself a question
        kind = QuestionKind.UNKNOWN
    words = request.get("title") or request.get("description") or ""
    name = request.get("display_name") or tool
    return Question(
        kind,
        tool,
        call,
        call=str(request.get("tool_use_id") or ""),
        title=f"{name}: {words}" if words else str(name),
        diff=diff(tool, call, cwd) if kind is QuestionKind.TOOL else "",
    )


def of_control(request: Json) -> Question:
    """Any other request that claude makes of its host."""
    subtype = str(request.get("subtype"))
    if subtype == "elicitation":
        server = str(request.get("mcp_server_name") or "an MCP server")
        payload = {key: value for key, value in request.items() if key != "subtype"}
        return Question(QuestionKind.ELICITATION, server, payload, title=f"{server}: {request.get('message') or ''}")
    return Question(QuestionKind.UNKNOWN, subtype, request, title=f"claude asks for {subtype}, which is not known here")


def tool_result(question: Question, answer: Answer) -> PermissionResultAllow | PermissionResultDeny:
    if not answer.allow:
        return PermissionResultDeny(message=answer.message or WITHOUT_A_WORD, interrupt=answer.interrupt)
    call = dict(question.input)
    if question.kind is QuestionKind.CHOICE:
        chosen = answers(answer.input)
        if not chosen:
            return PermissionResultDeny(message="the question was allowed but not answered")
        return PermissionResultAllow(updated_input={**call, "answers": dict(chosen)})
    # Never updated_permissions: a suggestion handed back would let later actions run that nobody was asked about.
    return PermissionResultAllow(updated_input=call if answer.input is None else dict(answer.input))


def control_result(question: Question, answer: Answer) -> tuple[Json | None, str]:
    """The response, or None and the error that refuses the request."""
    if question.kind is QuestionKind.ELICITATION:
        if not answer.allow:
            return {"action": "decline"}, ""  # the protocol has no field for a reason here
        return {"action": "accept", **({} if answer.input is None else {"content": dict(answer.input)})}, ""
    if not answer.allow:
        return None, answer.message or WITHOUT_A_WORD
    return dict(answer.input or {}), ""

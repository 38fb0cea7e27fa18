"""What Claude Code does without asking, and how one of our modes is enforced on it."""

import json

from daemon.domain.agent import Output, OutputKind

# Claude's own plan mode leaves commands to a classifier of its vendor: only with these rules is a person asked, whatever
# the user's settings allow. Tools that could act unasked are taken away.
PLAN_ASKS = ["Bash", "Edit", "Write", "NotebookEdit", "WebFetch", "mcp__*"]
PLAN_TOOLS = "Bash,Read,Edit,Write,NotebookEdit,Glob,Grep,AskUserQuestion,ExitPlanMode,Agent,WebFetch,WebSearch,ToolSearch,TaskStop"

NOT_GATED = (
    "reads and searches files",
    "runs commands that Claude Code takes for read-only, such as ls",
    "starts subagents, whose actions are asked like its own",
    "whatever your own Claude settings, hooks and MCP servers allow",
)
LOOSER = {
    "acceptEdits": "edits files in the checkout without asking",
    "auto": "does without asking whatever Claude's own classifier lets pass",
    "bypassPermissions": "does everything without asking",
}


def not_gated(permission_mode: str) -> tuple[str, ...]:
    """What a session in this permission mode does without asking, in words."""
    looser = LOOSER.get(permission_mode)
    return (looser, *NOT_GATED) if looser else NOT_GATED


def notice(permission_mode: str) -> Output | None:
    """Told on the run when claude reports a mode in which it asks less."""
    looser = LOOSER.get(permission_mode)
    return Output(OutputKind.NOTICE, f"permission mode {permission_mode}: claude {looser}") if looser else None


def flags(mode: str) -> list[str]:
    if mode != "plan":
        return ["--permission-mode", "default"]
    settings = json.dumps({"permissions": {"ask": PLAN_ASKS}})
    return ["--permission-mode", "plan", "--tools", PLAN_TOOLS, "--settings", settings]

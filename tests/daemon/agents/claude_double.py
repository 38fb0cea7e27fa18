"""A program that speaks claude's protocol, for what the real one cannot be brought to do: run as the launcher.

argv[1] is what it does after the handshake; the answers that it gets go to the file `heard` in its folder.
"""

import json
import sys
import time


def say(**frame):
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()


def reply(request, **response):
    say(
        type="control_response",
        response={"subtype": "success", "request_id": request["request_id"], "response": response},
    )


def ask(name, **request):
    say(type="control_request", request_id=name, request=request)


def hear(heard):
    for line in sys.stdin:
        frame = json.loads(line)
        if frame["type"] == "control_request":
            reply(frame)
        elif frame["type"] == "control_response":
            heard.write(json.dumps(frame["response"]) + "\n")
            heard.flush()
            say(type="result", subtype="success", is_error=False)


def main(what):
    frame = json.loads(sys.stdin.readline())
    if what == "silent":
        time.sleep(600)
    reply(frame, account={"tokenSource": "login", "apiProvider": "firstParty"}, claude_code_version="2.0.0")
    sys.stdin.readline()  # the prompt
    say(type="system", subtype="init", session_id="s1", permissionMode=what if what == "acceptEdits" else "default")
    if what == "unknown request":
        ask("q1", subtype="open_pod_bay_doors", why="because")
    elif what == "unknown tool":
        call = {"door": 1}
        ask(
            "q1",
            subtype="can_use_tool",
            tool_name="AskHal",
            input=call,
            tool_use_id="t1",
            requires_user_interaction=True,
        )
    elif what == "strange suggestions":
        odd = [{"type": "setMode"}, {"type": "x", "destination": 5}]
        call = {"command": "ls"}
        ask("q1", subtype="can_use_tool", tool_name="Bash", input=call, tool_use_id="t1", permission_suggestions=odd)
    elif what == "withdrawn":
        ask("q1", subtype="open_pod_bay_doors")
        sys.stdin.readline()  # the next message
        say(type="control_cancel_request", request_id="q1")
    elif what == "broken request":
        say(type="control_request", request_id="q1", request="open")
        ask("q2", subtype="can_use_tool", tool_name="Bash", input="ls")
    elif what == "flood":
        for n in range(20_000):
            say(type="assistant", message={"id": str(n), "content": [{"type": "text", "text": f"{n}\n"}]})
    elif what == "long line":
        sys.stdout.write('{"type": "assistant", "x": "' + "x" * (65 << 20) + '"}\n')
        say(type="result", subtype="success", is_error=False)
    with open("heard", "a") as heard:
        hear(heard)


if __name__ == "__main__":
    main(sys.argv[1])

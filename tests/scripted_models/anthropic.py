"""A scripted model behind Anthropic's Messages API (SSE) on loopback, for the real `claude` without an account.

The *prompt* carries the script:  any text  @@[ step, step, ... ]@@
where each step is a list of blocks, one model turn each:
   {"text": "..."} | {"thinking": "..."} | {"tool": "Bash", "input": {...}} | {"sleep": 30}
Step index = number of assistant messages after the last user message that carries a script.
Past the last step the model says "done". A script between %% and %% may stand inside another one, for a subagent.
usage: anthropic.py PORT [LOGFILE]     port 0 takes a free one; the port is the first line of output
"""

import asyncio
import json
import re
import socket
import sys
import time
import uuid

from aiohttp import web

LOG = None


def log(o):
    if LOG:
        LOG.write(json.dumps(o) + "\n")
        LOG.flush()


def texts(content):
    if isinstance(content, str):
        return [content]
    return [b.get("text", "") for b in content if b.get("type") == "text"]


def plan(msgs):
    idx, script = -1, None
    for i, m in enumerate(msgs):
        if m["role"] != "user":
            continue
        for t in texts(m["content"]):
            mm = re.search(r"(@@|%%)(\[.*?\])\1", t, re.S)
            if mm:
                try:
                    script, idx = json.loads(mm.group(2)), i
                except Exception as e:
                    script, idx = [[{"text": f"bad script {e}"}]], i
    if script is None:
        return [{"text": "hello from fake model (no script)"}]
    n = sum(1 for m in msgs[idx + 1 :] if m["role"] == "assistant")
    return script[n] if n < len(script) else [{"text": "done"}]


async def messages(req):
    body = await req.json()
    msgs = body.get("messages", [])
    tools = [t.get("name") for t in body.get("tools", [])]
    blocks = plan(msgs)
    if not tools and not any("@@" in t or "%%" in t for m in msgs for t in texts(m["content"])):
        blocks = [{"text": "Title"}]
    log(
        {
            "t": time.time(),
            "path": str(req.rel_url),
            "hdr": {k: v for k, v in req.headers.items() if k.lower() not in ("x-api-key", "authorization")},
            "model": body.get("model"),
            "stream": body.get("stream"),
            "ntools": len(tools),
            "tools": tools,
            "nmsg": len(msgs),
            "last": msgs[-1] if msgs else None,
            "reply": blocks,
        }
    )
    model = body.get("model", "x")
    mid = "msg_" + uuid.uuid4().hex[:20]
    usage = {"input_tokens": 1000, "output_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    has_tool = any("tool" in b for b in blocks)
    stop = "tool_use" if has_tool else "end_turn"
    if not body.get("stream"):
        content = []
        for b in blocks:
            if "tool" in b:
                content.append(
                    {"type": "tool_use", "id": "toolu_" + uuid.uuid4().hex[:20], "name": b["tool"], "input": b["input"]}
                )
            elif "text" in b:
                content.append({"type": "text", "text": b["text"]})
        return web.json_response(
            {
                "id": mid,
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": content,
                "stop_reason": stop,
                "stop_sequence": None,
                "usage": usage,
            }
        )
    r = web.StreamResponse(
        headers={"content-type": "text/event-stream", "cache-control": "no-cache", "request-id": "req_" + mid}
    )
    await r.prepare(req)

    async def ev(t, **d):
        d["type"] = t
        await r.write(f"event: {t}\ndata: {json.dumps(d)}\n\n".encode())

    try:
        await ev(
            "message_start",
            message={
                "id": mid,
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": usage,
            },
        )
        i = 0
        for b in blocks:
            if "sleep" in b:
                end = time.time() + b["sleep"]
                while time.time() < end:
                    await asyncio.sleep(0.5)
                    await ev("ping")
                continue
            if "thinking" in b:
                await ev(
                    "content_block_start", index=i, content_block={"type": "thinking", "thinking": "", "signature": ""}
                )
                await ev("content_block_delta", index=i, delta={"type": "thinking_delta", "thinking": b["thinking"]})
                await ev("content_block_delta", index=i, delta={"type": "signature_delta", "signature": "c2ln"})
            elif "text" in b:
                await ev("content_block_start", index=i, content_block={"type": "text", "text": ""})
                t = b["text"]
                for k in range(0, len(t), 12):
                    await ev("content_block_delta", index=i, delta={"type": "text_delta", "text": t[k : k + 12]})
                    await asyncio.sleep(b.get("delay", 0.02))
            else:
                await ev(
                    "content_block_start",
                    index=i,
                    content_block={
                        "type": "tool_use",
                        "id": "toolu_" + uuid.uuid4().hex[:20],
                        "name": b["tool"],
                        "input": {},
                    },
                )
                t = json.dumps(b["input"])
                for k in range(0, len(t), 40):
                    await ev(
                        "content_block_delta",
                        index=i,
                        delta={"type": "input_json_delta", "partial_json": t[k : k + 40]},
                    )
            await ev("content_block_stop", index=i)
            i += 1
        await ev("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": 10})
        await ev("message_stop")
        await r.write_eof()
    except (ConnectionResetError, asyncio.CancelledError) as e:
        log({"t": time.time(), "client_gone": repr(e)})
        raise
    return r


async def count(req):
    return web.json_response({"input_tokens": 1000})


async def other(req):
    log({"t": time.time(), "other": req.method + " " + str(req.rel_url)})
    if req.path.endswith("/models"):
        return web.json_response(
            {
                "data": [
                    {
                        "type": "model",
                        "id": "claude-sonnet-4-5",
                        "display_name": "fake",
                        "created_at": "2026-01-01T00:00:00Z",
                    }
                ],
                "has_more": False,
            }
        )
    return web.json_response({"type": "error", "error": {"type": "not_found_error", "message": "fake"}}, status=404)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        LOG = open(sys.argv[2], "a")  # noqa: SIM115 - open as long as the process lives
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/messages", messages)
    app.router.add_post("/v1/messages/count_tokens", count)
    app.router.add_route("*", "/{p:.*}", other)
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print(listening.getsockname()[1], flush=True)
    web.run_app(app, sock=listening, print=None)

"""A scripted model behind OpenAI's Responses API (SSE) on loopback, for the real `codex` without an account.

The same @@[[...]]@@ script in the prompt as anthropic.py. Blocks:
  {"text":..} | {"reason":..} | {"sleep":s}
  {"sh":"cmd"}               the tool is picked from what the client offers: exec_command | shell | shell_command
  {"patch":"*** Begin Patch..."}   custom tool apply_patch, else a function, else a shell heredoc
  {"fn":name,"args":{}} | {"custom":name,"input":str}
usage: openai.py PORT [LOG]     port 0 takes a free one; the port is the first line of output
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


def plan(items):
    idx, script = -1, None
    for i, m in enumerate(items):
        if m.get("type", "message") == "message" and m.get("role") == "user":
            c = m["content"]
            for t in [c] if isinstance(c, str) else [b.get("text", "") for b in c]:
                mm = re.search(r"@@(\[.*?\])@@", t, re.S)
                if mm:
                    try:
                        script, idx = json.loads(mm.group(1)), i
                    except Exception as e:
                        script, idx = [[{"text": f"bad script {e}"}]], i
    if script is None:
        return [{"text": "hello from fake openai"}]
    # a model turn = a run of assistant items (message / function_call / custom_tool_call); count runs ended by a tool output
    n, inrun = 0, False
    for m in items[idx + 1 :]:
        t = m.get("type")
        if t in ("function_call", "custom_tool_call", "local_shell_call") or (
            t == "message" and m.get("role") == "assistant"
        ):
            if not inrun:
                n += 1
            inrun = True
        elif t in ("function_call_output", "custom_tool_call_output"):
            inrun = False
    return script[n] if n < len(script) else [{"text": "done"}]


def tools_of(body):
    out = []
    for t in body.get("tools", []):
        out.append((t.get("type"), t.get("name")))
    return out


async def responses(req):
    raw = await req.read()
    if req.headers.get("content-encoding") == "zstd":
        import zstandard

        raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    body = json.loads(raw)
    items = body.get("input", [])
    tl = tools_of(body)
    names = [n for _, n in tl]
    if isinstance(items, str):
        items = [{"type": "message", "role": "user", "content": items}]
    blocks = plan(items)
    log(
        {
            "t": time.time(),
            "path": str(req.rel_url),
            "ua": req.headers.get("user-agent"),
            "model": body.get("model"),
            "tools": tl,
            "nitems": len(items),
            "last": items[-1] if items else None,
            "reply": blocks,
            "tooldefs": body.get("tools") if len(tl) < 40 else None,
        }
    )
    rid = "resp_" + uuid.uuid4().hex[:16]
    r = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await r.prepare(req)
    seq = 0

    async def ev(t, **d):
        nonlocal seq
        d.update(type=t, sequence_number=seq)
        seq += 1
        await r.write(f"event: {t}\ndata: {json.dumps(d)}\n\n".encode())

    base = {
        "id": rid,
        "object": "response",
        "created_at": int(time.time()),
        "model": body.get("model"),
        "status": "in_progress",
        "output": [],
    }
    try:
        await ev("response.created", response=base)
        out, oi = [], 0
        for b in blocks:
            if "sleep" in b:
                end = time.time() + b["sleep"]
                while time.time() < end:
                    await asyncio.sleep(0.5)
                    await r.write(b": ping\n\n")
                continue
            if "text" in b:
                iid = "msg_" + uuid.uuid4().hex[:12]
                await ev(
                    "response.output_item.added",
                    output_index=oi,
                    item={"type": "message", "id": iid, "role": "assistant", "status": "in_progress", "content": []},
                )
                await ev(
                    "response.content_part.added",
                    item_id=iid,
                    output_index=oi,
                    content_index=0,
                    part={"type": "output_text", "text": "", "annotations": []},
                )
                for k in range(0, len(b["text"]), 12):
                    await ev(
                        "response.output_text.delta",
                        item_id=iid,
                        output_index=oi,
                        content_index=0,
                        delta=b["text"][k : k + 12],
                    )
                    await asyncio.sleep(b.get("delay", 0.02))
                item = {
                    "type": "message",
                    "id": iid,
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": b["text"], "annotations": []}],
                }
            elif "reason" in b:
                item = {
                    "type": "reasoning",
                    "id": "rs_" + uuid.uuid4().hex[:12],
                    "summary": [{"type": "summary_text", "text": b["reason"]}],
                    "encrypted_content": None,
                }
                await ev("response.output_item.added", output_index=oi, item={**item, "summary": []})
            else:
                if "sh" in b:
                    if "exec_command" in names:
                        b = {"fn": "exec_command", "args": {"cmd": b["sh"], **b.get("x", {})}}
                    elif "shell_command" in names:
                        b = {"fn": "shell_command", "args": {"command": b["sh"], **b.get("x", {})}}
                    else:
                        b = {"fn": "shell", "args": {"command": ["bash", "-lc", b["sh"]], **b.get("x", {})}}
                if "patch" in b:
                    if ("custom", "apply_patch") in tl:
                        b = {"custom": "apply_patch", "input": b["patch"]}
                    elif "apply_patch" in names:
                        b = {"fn": "apply_patch", "args": {"input": b["patch"]}}
                    else:
                        cmd = "apply_patch <<'EOF'\n" + b["patch"] + "\nEOF"
                        b = (
                            {"fn": "exec_command", "args": {"cmd": cmd}}
                            if "exec_command" in names
                            else {"fn": "shell_command", "args": {"command": cmd}}
                        )
                cid = "call_" + uuid.uuid4().hex[:16]
                if "custom" in b:
                    item = {
                        "type": "custom_tool_call",
                        "id": "ctc_" + cid,
                        "call_id": cid,
                        "name": b["custom"],
                        "input": b["input"],
                        "status": "completed",
                    }
                else:
                    item = {
                        "type": "function_call",
                        "id": "fc_" + cid,
                        "call_id": cid,
                        "name": b["fn"],
                        "arguments": json.dumps(b["args"]),
                        "status": "completed",
                    }
                await ev("response.output_item.added", output_index=oi, item={**item, "status": "in_progress"})
            await ev("response.output_item.done", output_index=oi, item=item)
            out.append(item)
            oi += 1
        await ev(
            "response.completed",
            response={
                **base,
                "status": "completed",
                "output": out,
                "usage": {
                    "input_tokens": 1000,
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens": 20,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": 1020,
                },
            },
        )
        await r.write_eof()
    except (ConnectionResetError, asyncio.CancelledError) as e:
        log({"t": time.time(), "client_gone": repr(e)})
        raise
    return r


async def other(req):
    log({"t": time.time(), "other": req.method + " " + str(req.rel_url)})
    return web.json_response({"error": {"message": "fake", "type": "not_found"}}, status=404)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        LOG = open(sys.argv[2], "a")  # noqa: SIM115 - open as long as the process lives
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/responses", responses)
    app.router.add_route("*", "/{p:.*}", other)
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print(listening.getsockname()[1], flush=True)
    web.run_app(app, sock=listening, print=None, handler_cancellation=True)

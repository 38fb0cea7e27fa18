// What an agent prints, as text: words as prose, tools as cards, long results folded.
import { html, useState } from "../lib.js";
import { exact, prose, line, count } from "../text.js";

const FOLD = 20;

const KIND = (kind) => String(kind || "").toLowerCase().replace(/^event_kind_/, "");

/** Put the lines of one block together, and a result with its call. Returns new blocks; the old ones are never changed. */
export function gather(blocks, events) {
  const out = blocks.slice();
  const calls = new Map();
  for (let i = out.length - 1; i >= 0 && i > out.length - 200; i--) if (out[i].kind === "tool" && out[i].block && !calls.has(out[i].block)) calls.set(out[i].block, i);
  for (const event of events) {
    const kind = KIND(event.kind);
    const last = out[out.length - 1];
    if ((kind === "message" || kind === "thinking") && last?.kind === kind && last.block === event.block) {
      out[out.length - 1] = { ...last, text: last.text + event.text };
    } else if (kind === "tool_call") {
      out.push({ kind: "tool", seq: event.seq, block: event.block, tool: event.tool, call: event, results: [] });
      if (event.block) calls.set(event.block, out.length - 1);
    } else if (kind === "tool_result") {
      const at = calls.get(event.block);
      if (at !== undefined) out[at] = { ...out[at], results: [...out[at].results, event] };
      else out.push({ kind: "tool", seq: event.seq, block: event.block, tool: event.tool, call: null, results: [event] });
    } else {
      out.push({ ...event, kind });
    }
  }
  return out;
}

/** The one line that says what a tool call does. */
export function gist(input) {
  if (!input || typeof input !== "object") return "";
  const value = input.command ?? input.file_path ?? input.path ?? input.pattern ?? input.url ?? input.query ?? input.description ?? input.prompt;
  return typeof value === "string" ? value : "";
}

function Folded({ text }) {
  const lines = text.split("\n");
  const [open, setOpen] = useState(false);
  const rest = lines.length - FOLD;
  const folded = rest > 5 && !open;
  return html`<pre tabindex="0">${prose(folded ? lines.slice(0, FOLD).join("\n") : text)}</pre>
    ${rest > 5 && html`<button class="fold" onClick=${() => setOpen(!open)}>${open ? "Fold" : `${count(rest, "more line")}`}</button>`}`;
}

function Tool({ block }) {
  const input = block.call?.detail?.input ?? block.call?.detail;
  const bad = block.results.some((r) => r.detail?.is_error);
  const said = gist(input) || block.call?.text || "";
  const result = block.results.map((r) => r.text).filter(Boolean).join("");
  return html`
    <div class="event"><div class="tool ${bad ? "bad" : ""}">
      <header><strong>${exact(block.tool || "Tool")}</strong><code class="grow">${exact(said)}</code>${bad && html`<span class="small minus">failed</span>`}</header>
      ${result && html`<${Folded} text=${result} />`}
    </div></div>`;
}

function Turn({ detail }) {
  const parts = [];
  if (detail?.duration_ms) parts.push(`${(detail.duration_ms / 1000).toFixed(1)} s`);
  if (detail?.num_turns) parts.push(count(detail.num_turns, "step"));
  if (typeof (detail?.cost_usd ?? detail?.total_cost_usd) === "number") parts.push(`$${(detail.cost_usd ?? detail.total_cost_usd).toFixed(2)}`);
  return html`<div class="event turn">${parts.length ? `Turn ended · ${parts.join(" · ")}` : "Turn ended"}</div>`;
}

export function Block({ block }) {
  switch (block.kind) {
    case "message": return html`<div class="event message">${prose(block.text)}</div>`;
    case "thinking": return html`<div class="event thinking">${prose(block.text)}</div>`;
    case "prompt": return html`<div class="event prompt">${prose(block.text)}</div>`;
    case "tool": return html`<${Tool} block=${block} />`;
    case "turn_end": return html`<${Turn} detail=${block.detail} />`;
    case "gap": return html`<div class="event gap">⋯ ${line(block.text) || "Some events are missing here"}</div>`;
    case "notice": return html`<div class="event notice">${prose(block.text)}</div>`;
    default: return html`
      <div class="event"><details class="tool"><summary class="fold">Something this page does not know: ${line(block.tool || block.kind)}</summary>
        <pre>${exact(block.text)}${block.text ? "\n" : ""}${exact(JSON.stringify(block.detail ?? {}, null, 2))}</pre></details></div>`;
  }
}

// One run: what it says as it says it, what it changed, and the ways to talk to it and to stop it.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../lib.js";
import { runs, approvals, instructions, aged, mind, need, ENDED } from "../store.js";
import { follow, get, post } from "../wire.js";
import { may } from "../session.js";
import { at, go } from "../route.js";
import { Ask, Empty, Fence, Note, Problem, Skeleton, State, useAction } from "../ui/parts.js";
import { Block, gather } from "../ui/output.js";
import { File } from "../ui/diff.js";
import { Question } from "../ui/question.js";
import { Proof } from "./runs.js";
import { ago, count, day, exact, line, prose } from "../text.js";

const KEPT = 4000; // blocks in memory; older ones are loaded by page
const PAGE = 500;
const NARROW = matchMedia("(max-width: 1100px)");

function Output({ row, asks }) {
  const [state, set] = useState({ blocks: [], first: 0, over: false, began: false });
  const [live, setLive] = useState(true);
  const [error, setError] = useState(null);
  const following = useRef(!asks); // with a question open, the question is what to look at
  const last = useRef(0);
  const moved = useRef(false);
  const box = useRef(null);

  useEffect(() => {
    let events = [], due = 0, close = null, gone = false;
    const flush = () => {
      due = 0;
      const some = events;
      events = [];
      set((s) => {
        const blocks = gather(s.blocks, some);
        return { ...s, began: true, first: s.first || some[0]?.seq || 0, blocks: blocks.length > KEPT ? blocks.slice(-KEPT) : blocks };
      });
    };
    const take = (event) => { events.push(event); due ||= requestAnimationFrame(flush); };
    (async () => {
      const head = await get(`/runs/${encodeURIComponent(row.id)}/output?first=1&limit=1`);
      const after = Math.max(0, (head.end ?? head.next) - 1 - PAGE);
      if (gone) return;
      set((s) => ({ ...s, began: true, first: after + 1 }));
      close = follow(`/runs/${encodeURIComponent(row.id)}/output/stream`, {
        after: String(after),
        event: (name, data) => { if (name === "output") take(data); else if (name === "end") set((s) => ({ ...s, over: true })); },
        refused: setError,
      });
    })().catch(setError);
    return () => { gone = true; close?.(); cancelAnimationFrame(due); };
  }, [row.id, row.attempt]);

  // Follow while at the end; a wheel or a finger that goes up leaves it, and the button comes back to it.
  useEffect(() => {
    const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
    const look = () => {
      const up = scrollY < last.current;
      last.current = scrollY;
      if (atEnd()) { following.current = true; setLive(true); } else if (up) { following.current = false; setLive(false); }
    };
    addEventListener("scroll", look, { passive: true });
    // Rows off screen have a guessed height until they are drawn: stay at the end when the guess turns out wrong.
    const grown = new ResizeObserver(() => { if (following.current && moved.current) bottom(); });
    grown.observe(box.current);
    return () => { removeEventListener("scroll", look); grown.disconnect(); };
  }, []);
  function bottom() { scrollTo(0, document.documentElement.scrollHeight); last.current = scrollY; }
  useLayoutEffect(() => { if (following.current && state.blocks.length && row.active) { moved.current = true; bottom(); } }, [state.blocks]);

  const [older, busy, failed] = useAction(async () => {
    const first = Math.max(1, state.first - PAGE);
    const page = await get(`/runs/${encodeURIComponent(row.id)}/output?first=${first}&limit=${state.first - first}`);
    const before = document.documentElement.scrollHeight;
    following.current = false;
    setLive(false);
    set((s) => ({ ...s, first, blocks: [...gather([], page.events), ...s.blocks] }));
    requestAnimationFrame(() => scrollBy(0, document.documentElement.scrollHeight - before));
  });

  return html`
    <${Problem} error=${error || failed} />
    <div class="output" ref=${box} role="log" aria-label="Output" aria-live="off">
      ${state.first > 1 && html`<button class="button quiet" disabled=${busy} onClick=${older}>${busy ? "Loading…" : `Load what came before event ${state.first.toLocaleString()}`}</button>`}
      ${!state.began && !error && html`<${Skeleton} />`}
      ${state.blocks.map((block) => html`<${Fence} key=${block.seq} what="This event" raw=${block}><${Block} block=${block} /><//>`)}
      ${state.began && !state.blocks.length && !error && html`<p class="dim">${row.active ? "Nothing printed yet." : "It printed nothing."}</p>`}
      ${!live && row.active && html`<button class="button main tolive" onClick=${() => { following.current = true; setLive(true); bottom(); }}>↓ Live</button>`}
    </div>`;
}

function Changes({ row }) {
  const [diff, setDiff] = useState(null);
  const [load, busy, error] = useAction(async () => setDiff(await get(`/runs/${encodeURIComponent(row.id)}/diff`)));
  useEffect(() => { load(); }, [row.id]);
  const files = diff?.files || [];
  return html`
    <div class="stack">
      <div class="row wrap">
        <span class="grow dim">${diff ? html`${count(files.length, "file")} · <span class="plus">+${files.reduce((n, f) => n + f.additions, 0)}</span> <span class="minus">−${files.reduce((n, f) => n + f.deletions, 0)}</span> since ${html`<code>${exact((row.base_commit || "").slice(0, 10))}</code>`}` : "Asking its machine…"}</span>
        <button class="button" disabled=${busy} onClick=${load}>${busy ? "Loading…" : "Look again"}</button>
      </div>
      <${Problem} error=${error} />
      ${diff?.count > files.length && html`<${Note} tone="wait">${count(diff.count - files.length, "more file")} changed than what a machine sends; the sums are of those shown.<//>`}
      ${diff && !files.length && html`<${Empty} title="No changes"><p>The checkout is as it was when the run began.</p><//>`}
      <div>${files.map((file) => html`<${File} key=${file.path} file=${file} />`)}</div>
    </div>`;
}

function About({ row }) {
  return html`
    <details class="card about" open=${!NARROW.matches}>
      <summary><h2>About this run</h2></summary>
      <div class="stack">
      <dl class="facts">
        <dt>Machine</dt><dd>${line(row.machine_name)}</dd>
        <dt>Agent</dt><dd>${line(row.agent)} ${line(row.agent_version)}</dd>
        <dt>Owner</dt><dd>${line(row.owner || "–")}</dd>
        <dt>Age</dt><dd>${ago(aged(row))}<span class="dim"> · since ${day(row.started_at)}</span></dd>
        <dt>Proof of life</dt><dd><${Proof} row=${row} /></dd>
        ${row.mode && html`<dt>Mode</dt><dd>${line(row.mode)}</dd>`}
        ${row.permission_mode && html`<dt>Permissions</dt><dd>${line(row.permission_mode)}</dd>`}
        ${row.abilities?.length > 0 && html`<dt>It can</dt><dd>${line(row.abilities.join(", "))}</dd>`}
        ${row.containment && html`<dt>Held</dt><dd>${line(row.containment)}</dd>`}
        ${row.content && row.content !== "full" && html`<dt>Content</dt><dd>${line(row.content)}</dd>`}
        ${row.attempt > 1 && html`<dt>Attempt</dt><dd>${row.attempt}</dd>`}
        ${row.path && html`<dt>Folder</dt><dd><code>${exact(row.path)}</code></dd>`}
        <dt>Run</dt><dd><code>${exact(row.id)}</code></dd>
      </dl>
      ${row.not_gated?.length > 0 && html`<div class="stack tight"><h3>Not gated: it does this without asking</h3>
        <div class="row wrap">${row.not_gated.map((word, i) => html`<span key=${i} class="pill">${line(word)}</span>`)}</div></div>`}
      ${row.prompt && html`<details><summary class="small dim">What it was asked</summary><p class="any" style=${{ whiteSpace: "pre-wrap", marginTop: "8px" }}>${prose(row.prompt)}</p></details>`}
      </div>
    </details>`;
}

/** What a machine made of the last thing that it was told; nothing while all is well. */
function Outcome({ id }) {
  const told = id && instructions.get(id);
  if (!told || !["failed", "lapsed"].includes(told.state)) return null;
  return html`<${Note} tone="bad">The machine did not do it (${told.kind}): ${line(told.outcome || "it was away for too long")}<//>`;
}

function Composer({ row, onTold }) {
  const key = `switchboard.draft.run.${row.id}`;
  const [text, setText] = useState(() => sessionStorage.getItem(key) || "");
  const ended = ENDED.has(row.state);
  const resumable = ended && row.state !== "refused";
  useEffect(() => { if (text) sessionStorage.setItem(key, text); else sessionStorage.removeItem(key); }, [text]);
  const [send, busy, error] = useAction(async () => {
    onTold(mind(await post(`/runs/${encodeURIComponent(row.id)}/${ended ? "resume" : "messages"}`, { text })));
    setText("");
  });
  if (!may("start") || (ended && !resumable)) return null;
  return html`
    <form class="composer" onSubmit=${(e) => { e.preventDefault(); if (text.trim() || ended) send(); }}>
      <textarea class="input" rows="1" aria-label=${ended ? "Resume with a message" : "Message to the agent"} placeholder=${ended ? "Take it up again, with a message if you like" : "Message to the agent"} value=${text}
        onInput=${(e) => setText(e.target.value)} onKeyDown=${(e) => { if (e.key === "Enter" && (e.metaKey || e.ctrlKey)) e.currentTarget.form.requestSubmit(); }} />
      <button class="button main" disabled=${busy || (!ended && !text.trim())}>${busy ? "Sending…" : ended ? "Resume" : "Send"}</button>
      ${error && html`<div style=${{ flexBasis: "100%" }}><${Problem} error=${error} /></div>`}
    </form>`;
}

export function Run({ id }) {
  const row = runs.get(id);
  const [tab, setTab] = useState("output");
  const [missing, setMissing] = useState(null);
  const [ask, setAsk] = useState("");
  const [told, setTold] = useState("");
  useEffect(() => { if (!runs.rows.has(id)) need(runs, `/runs/${encodeURIComponent(id)}`, (found) => found).catch(setMissing); }, [id]);
  const open = approvals.list().filter((a) => a.run === id && a.state === "open");
  const base = `/runs/${encodeURIComponent(id)}`;
  const [interrupt, interrupting, refused] = useAction(async () => setTold(mind(await post(`${base}/interrupt`, { reason: "" }))));
  const [end, ending, notEnded] = useAction(async () => setTold(mind(await post(`${base}/end`))));
  if (!row) return html`<div class="page"><a class="back" href="/">All runs</a>${missing ? html`<${Problem} error=${missing} />` : html`<${Skeleton} />`}</div>`;
  const stoppable = row.active && row.state !== "stopping";
  return html`
    <div class="page">
      <a class="back" href="/">All runs</a>
      <div class="stack tight topbar">
        <div class="title"><h1 class="grow">${line(row.repo || row.path || row.id)}</h1>
          <div class="row wrap">
            ${["running", "waiting", "starting"].includes(row.state) && may("start") && html`<button class="button" disabled=${interrupting} onClick=${interrupt}>Interrupt</button>`}
            ${row.state === "idle" && may("start") && html`<button class="button" disabled=${ending} onClick=${end}>End session</button>`}
            ${stoppable && may("stop") && html`<button class="button stop" onClick=${() => setAsk("stop")}>Stop</button>`}
          </div></div>
        <div class="row wrap"><${State} is=${row.state} />${row.branch && html`<span class="pill mono">${line(row.branch)}</span>`}<span class="dim">${line(row.agent)} on ${line(row.machine_name)}${row.owner ? html` · ${line(row.owner)}` : ""}</span></div>
      </div>
      <${Outcome} id=${told} />
      ${(row.reason || refused || notEnded) && html`<div class="stack tight">
        ${row.reason && html`<${Note} tone=${row.state === "failed" || row.state === "refused" ? "bad" : ""}>${line(row.reason)}<//>`}
        <${Problem} error=${refused || notEnded} />
      </div>`}
      <div class="run">
        <div class="stack">
          ${open.map((a) => html`<${Question} key=${a.id} a=${a} />`)}
          ${row.readable === false ? html`<${Note}>You may see this run, not what it prints: its content is for ${line(row.owner)} and for those who review.<//>` : html`
            <div>
              <div class="tabs" role="tablist" aria-label="Of this run">
                ${[["output", "Output"], ["changes", "Changes"]].map(([name, title]) => html`
                  <button key=${name} id=${`tab-${name}`} role="tab" aria-selected=${tab === name} aria-controls="of-run" onClick=${() => setTab(name)}>${title}</button>`)}
              </div>
              <div id="of-run" role="tabpanel" aria-labelledby=${`tab-${tab}`} style=${{ paddingTop: tab === "changes" ? "16px" : 0 }}>
                ${tab === "output" ? html`<${Output} key=${row.id} row=${row} asks=${open.length > 0} />` : html`<${Changes} key=${row.id} row=${row} />`}
              </div>
            </div>
            ${tab === "output" && html`<${Composer} key=${`c${row.id}`} row=${row} onTold=${setTold} />`}`}
        </div>
        <div class="side"><${About} row=${row} /></div>
      </div>
      ${ask === "stop" && html`
        <${Ask} title="Stop this run" button="Stop the run" onClose=${() => setAsk("")}
          onSend=${async (reason) => { const { order } = await post(`${base}/stop`, { reason }); go(at("s", order.id)); }}>
          <p class="dim">Every process of it is ended, and its machine sends proof. What it changed stays in the checkout; a safety copy is kept.</p>
        <//>`}
    </div>`;
}

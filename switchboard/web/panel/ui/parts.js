// Small parts that every screen uses.
import { Component, html, useEffect, useRef, useState } from "../lib.js";
import { exact, line } from "../text.js";

const TONES = {
  ordered: "", starting: "run", running: "run", waiting: "wait", idle: "", stopping: "wait", succeeded: "good", failed: "bad", stopped: "", interrupted: "wait", refused: "bad",
  open: "wait", approved: "good", denied: "bad", expired: "", withdrawn: "",
  ended: "good", unproven: "wait", ending: "run", unconfirmed: "wait", unreachable: "wait",
  active: "good", revoked: "bad", locked: "bad", attached: "good", away: "wait", standing: "wait", lifted: "", over: "",
};

const ring = html`<circle cx="6" cy="6" r="4.6" />`;
const dot = html`<circle class="solid beat" cx="6" cy="6" r="5" />`;
const diamond = html`<path class="solid" d="M6 .2 11.8 6 6 11.8 .2 6z" />`;
const check = html`<path d="m1.5 6.5 3 3 6-7" />`;
const cross = html`<path d="m2 2 8 8m0-8-8 8" />`;
const square = html`<rect class="solid" x="1.5" y="1.5" width="9" height="9" rx="1.5" />`;
const halves = html`<path d="M3.5 1.5v9m5-9v9" />`;
const slash = html`<circle cx="6" cy="6" r="4.6" /><path d="m3 9 6-6" />`;
const dashes = html`<circle cx="6" cy="6" r="4.6" stroke-dasharray="2.2 1.8" />`;
const SHAPES = {
  ordered: dashes, starting: dashes, running: dot, waiting: diamond, idle: ring, stopping: halves, succeeded: check, failed: cross, stopped: square, interrupted: halves, refused: slash,
  open: diamond, approved: check, denied: cross, expired: dashes, withdrawn: ring,
  ended: check, unproven: dashes, ending: halves, unconfirmed: dashes, unreachable: ring,
  active: check, revoked: slash, locked: slash, attached: dot, away: ring, standing: diamond, lifted: check, over: ring,
};

/** A state as a word, a colour and a shape. */
export const State = ({ is, word = is === "open" ? "waiting" : is }) => html`
  <span class="state" data-tone=${TONES[is] || ""}><svg viewBox="0 0 12 12" aria-hidden="true">${SHAPES[is] || ring}</svg>${exact(word)}</span>`;

export const Note = ({ tone = "", children }) => html`<div class="note any" data-tone=${tone} role=${tone === "bad" ? "alert" : "status"}>${children}</div>`;

/** What a refused request said, with its id for whoever reads the log. */
export const Problem = ({ error }) => error ? html`
  <${Note} tone="bad">${line(error.message)}${error.status === 500 && error.details?.request ? html` <code>${error.details.request}</code>` : ""}<//>` : null;

export const Empty = ({ title, children }) => html`<div class="empty"><strong>${title}</strong>${children}</div>`;

export const Skeleton = ({ rows = 6 }) => html`
  <div class="stack" aria-hidden="true">${Array.from({ length: rows }, (_, i) => html`<div key=${i} class="skeleton" style=${{ width: `${92 - (i % 4) * 14}%` }} />`)}</div>`;

/** Run something that may be refused, once at a time. */
export function useAction(work) {
  const [state, set] = useState({ busy: false, error: null });
  const here = useRef(true);
  useEffect(() => () => { here.current = false; }, []);
  const run = async (...args) => {
    set({ busy: true, error: null });
    try {
      const answer = await work(...args);
      if (here.current) set({ busy: false, error: null });
      return answer;
    } catch (error) {
      if (here.current) set({ busy: false, error });
      return undefined;
    }
  };
  return [run, state.busy, state.error];
}

/** Keeps a part that cannot be drawn from taking the page with it: it is shown as it came. */
export class Fence extends Component {
  state = { error: null };

  componentDidCatch(error) {
    reportError(error);
    this.setState({ error });
  }

  render({ what, raw, children, otherwise }, { error }) {
    if (!error) return children;
    return html`<div class="card stack"><${Note} tone="bad">${what} cannot be drawn. This is what came:<//><pre class="code" tabindex="0">${exact(JSON.stringify(raw, null, 2))}</pre></div>${otherwise?.()}`;
  }
}

/** A dialog that asks for one reason before it does something. */
export function Ask({ title, children, label = "Reason", button, tone = "stop", needed = true, onClose, onSend }) {
  const ref = useRef(null);
  const [text, setText] = useState("");
  const [send, busy, error] = useAction(async () => { await onSend(text.trim()); onClose(); });
  useEffect(() => { ref.current.showModal(); }, []);
  const submit = (event) => { event.preventDefault(); if (!needed || text.trim()) send(); };
  return html`
    <dialog ref=${ref} onClose=${onClose} onClick=${(e) => { if (e.target === ref.current) ref.current.close(); }} aria-label=${title}>
      <form onSubmit=${submit}>
        <h2>${title}</h2>
        ${children}
        <label class="field"><span>${label}</span>
          <textarea class="input" rows="3" maxlength="2000" required=${needed} value=${text} onInput=${(e) => setText(e.target.value)} /></label>
        <${Problem} error=${error} />
        <div class="row end wrap">
          <button type="button" class="button quiet" onClick=${() => ref.current.close()}>Not now</button>
          <button class="button ${tone}" disabled=${busy || (needed && !text.trim())}>${busy ? "Sending…" : button}</button>
        </div>
      </form>
    </dialog>`;
}

/** A line to copy. */
export function Copy({ text, label }) {
  const [done, setDone] = useState(false);
  const copy = async () => { await navigator.clipboard.writeText(text); setDone(true); setTimeout(() => setDone(false), 1500); };
  return html`<div class="stack tight"><pre class="code">${exact(text)}</pre>${navigator.clipboard && html`<div><button class="button" onClick=${copy}>${done ? "Copied" : label}</button></div>`}</div>`;
}

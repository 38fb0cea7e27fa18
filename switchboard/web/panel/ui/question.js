// One question of an agent: exactly what would happen, and the three facts of its decision.
import { html, useEffect, useState } from "../lib.js";
import { api } from "../wire.js";
import { approvals, aged, machines } from "../store.js";
import { may, session } from "../session.js";
import { at } from "../route.js";
import { Fence, Note, Problem, State, useAction } from "./parts.js";
import { Lines } from "./diff.js";
import { ago, clock, exact, line, lookalikes, prose } from "../text.js";

const DEAF_MS = 400; // after the question on screen changed by itself, so that nobody answers another one by accident

const BLANK = { choice: '{\n  "answers": {"the question": ""}\n}', elicitation: "{}" };

const parsed = (text) => { try { return JSON.parse(text); } catch { return null; } };

/** What will run: the command first, then every other field, word for word. */
function Will({ a, input }) {
  if (!a.readable) return html`<${Note}>You may see that it waits, not what it asks: its content is for the run's owner and for reviewers.<//>`;
  if (input === null || typeof input !== "object" || Array.isArray(input)) return html`<pre class="code" tabindex="0">${exact(a.input_json)}</pre>`;
  if (a.kind === "plan" && typeof input.plan === "string") return html`<pre class="code" tabindex="0">${prose(input.plan)}</pre><${Fields} input=${input} but=${["plan"]} />`;
  const main = typeof input.command === "string" ? "command" : null;
  const odd = main ? lookalikes(input[main]) : [];
  return html`
    ${main && html`<pre class="code will" data-will="" tabindex="0">${exact(input[main])}</pre>`}
    ${odd.length > 0 && html`<${Note} tone="wait">Letters beyond ASCII: ${odd.join(", ")}. One of them may only look like another.<//>`}
    <${Fields} input=${input} but=${[main, ...answered(a, input)]} />
    <details><summary class="small dim">The whole request, as JSON</summary><pre class="code" tabindex="0">${exact(a.input_json)}</pre></details>`;
}

/** What is shown word for word by the answer's own fields below. */
const answered = (a, input) => a.state !== "open" || !decides(a) ? [] : a.kind === "choice" && choices(input).length ? ["questions"] : a.kind === "elicitation" && schema(input) ? ["requested_schema", "requestedSchema"] : [];


function Fields({ input, but }) {
  const names = Object.keys(input).filter((name) => !but.includes(name));
  if (!names.length) return null;
  return html`<dl class="facts">${names.map((name) => html`
    <dt key=${name}>${exact(name)}</dt>
    <dd>${typeof input[name] === "string" && input[name].length < 200 && !input[name].includes("\n")
      ? html`<code>${exact(input[name])}</code>`
      : html`<pre class="code" tabindex="0">${exact(typeof input[name] === "string" ? input[name] : JSON.stringify(input[name], null, 2))}</pre>`}</dd>`)}</dl>`;
}

/** Decision, delivery and application are three facts, and none stands for another. */
export function Steps({ a }) {
  const vote = a.votes?.find((v) => v.counted);
  const force = a.in_force;
  const machine = machines.get(a.machine)?.name || a.machine_name;
  const decided = a.state === "open" ? ["", "Nobody has decided yet"]
    : a.state === "approved" || a.state === "denied" ? [a.state === "approved" ? "yes" : "bad", html`${a.state === "approved" ? "Approved" : "Denied"} by ${line(vote?.by || a.decided_by)} at ${clock(a.decided_at)}`]
    : ["bad", html`${a.state === "expired" ? "Expired" : "Withdrawn"}${a.reason ? html`: ${line(a.reason)}` : ""}`];
  const received = { none: ["", "–"], sent: ["now", html`On its way to ${line(machine)}`], accepted: ["yes", html`In force on ${line(machine)}`], applied: ["yes", html`In force on ${line(machine)}`],
    refused: ["bad", html`Refused by ${line(machine)}`], undeliverable: ["yes", html`In force on ${line(machine)}`] }[a.delivery] || ["", "–"];
  const applied = { applied: ["yes", "The agent has taken it"], undeliverable: ["bad", "The agent was gone"], refused: ["bad", "Not this decision"], accepted: ["now", "Not yet with the agent"] }[a.delivery] || ["", "–"];
  const differs = force && !(force.verdict === { approved: "approve", denied: "deny" }[a.state] && (!vote || force.by === vote.by));
  return html`
    <ol class="steps" aria-label="What became of it">
      <li data-on=${decided[0]}><strong>Decision</strong><span class="dim any">${decided[1]}</span></li>
      <li data-on=${received[0]}><strong>Received</strong><span class="dim any">${received[1]}</span></li>
      <li data-on=${applied[0]}><strong>Applied</strong><span class="dim any">${applied[1]}</span></li>
    </ol>
    ${differs && html`<${Note} tone="bad">On the machine something else is in force: ${line(force.verdict || "nothing")}${force.by ? html`, by ${line(force.by)}` : ""}${force.reason ? html`: ${line(force.reason)}` : ""}<//>`}
    ${vote?.note && a.state === "denied" && html`<${Note}>${a.kind === "elicitation" ? "For the record" : "The agent was told"}: ${prose(vote.note)}<//>`}
    ${vote?.edited_digest && html`<${Note} tone="wait">Approved with an edited input, ${exact(vote.edited_digest.slice(0, 23))}…<//>`}`;
}

/** Whether whoever looks may decide: a reviewer, and not on an own run while there are others. */
const decides = (a) => may("vote") && (a.owner !== session.value?.person || Boolean(session.value?.solo));

/** A choice, or a form, of which this page has nothing to fill in: its answer is written as JSON. */
const unseen = (a, input) => (a.kind === "choice" && !choices(input).length) || (a.kind === "elicitation" && a.masked && !schema(input));

const choices = (input) => Array.isArray(input?.questions) ? input.questions.filter((q) => typeof q?.question === "string") : [];

function Choices({ input, answers, setAnswers }) {
  return choices(input).map((q, i) => {
    const picked = answers.get(q.question) || [];
    const set = (label, on) => setAnswers(new Map(answers).set(q.question, q.multiSelect ? (on ? [...picked, label] : picked.filter((p) => p !== label)) : [label]));
    const options = Array.isArray(q.options) ? q.options : [];
    return html`
      <fieldset key=${i}><legend>${exact(q.question)}</legend>
        ${options.map((o, j) => { const label = String(o?.label ?? o); return html`
          <div class="option" key=${j}><label class="check">
            <input type=${q.multiSelect ? "checkbox" : "radio"} name=${`q${i}`} checked=${picked.includes(label)} onChange=${(e) => set(label, e.target.checked)} />
            <span class="any">${exact(label)}${o?.description && html`<br /><span class="dim small">${exact(o.description)}</span>`}</span>
          </label></div>`; })}
        <label class="field" style=${{ marginTop: "8px" }}><span>In other words</span>
          <input class="input" value=${picked.find((p) => !options.some((o) => String(o?.label ?? o) === p)) || ""} onInput=${(e) => setAnswers(new Map(answers).set(q.question, e.target.value ? [e.target.value] : []))} /></label>
      </fieldset>`;
  });
}

const schema = (input) => [input?.requested_schema, input?.requestedSchema].find((s) => s?.properties && typeof s.properties === "object" && Object.keys(s.properties).length) || null;

function Form({ input, values, setValues }) {
  const wanted = schema(input);
  return Object.entries(wanted?.properties || {}).map(([name, field]) => {
    const set = (value) => setValues(new Map(values).set(name, value));
    const value = values.get(name);
    const title = exact(field?.title || name);
    if (Array.isArray(field?.enum)) return html`<label class="field" key=${name}><span>${title}</span>
      <select class="input" value=${value ?? ""} onChange=${(e) => set(e.target.value)}><option value=""></option>${field.enum.map((v) => html`<option key=${v} value=${v}>${exact(v)}</option>`)}</select></label>`;
    if (field?.type === "boolean") return html`<label class="check" key=${name}><input type="checkbox" checked=${Boolean(value)} onChange=${(e) => set(e.target.checked)} /><span>${title}</span></label>`;
    const number = field?.type === "number" || field?.type === "integer";
    return html`<label class="field" key=${name}><span>${title}</span>
      <input class="input" type=${number ? "number" : "text"} value=${value ?? ""} onInput=${(e) => set(number ? (e.target.value === "" ? undefined : Number(e.target.value)) : e.target.value)} />
      ${field?.description && html`<span class="small dim">${exact(field.description)}</span>`}</label>`;
  });
}

function Decide({ a, input }) {
  const draft = `switchboard.draft.${a.id}`;
  const [mode, setMode] = useState("ask");
  const [reason, setReason] = useState(() => sessionStorage.getItem(draft) || "");
  const blind = unseen(a, input);
  const [text, setText] = useState(blind ? BLANK[a.kind] : null);
  const [answers, setAnswers] = useState(() => new Map());
  const [values, setValues] = useState(() => new Map());
  const [deaf, setDeaf] = useState(true);
  const [voteId] = useState(() => crypto.randomUUID?.() || `${Date.now()}-${Math.random()}`.replace(".", ""));
  useEffect(() => { const timer = setTimeout(() => setDeaf(false), DEAF_MS); return () => clearTimeout(timer); }, []);
  useEffect(() => { if (reason) sessionStorage.setItem(draft, reason); else sessionStorage.removeItem(draft); }, [reason]);

  const choice = a.kind === "choice" && choices(input).length > 0;
  const form = a.kind === "elicitation" && schema(input);
  const edited = text === null ? undefined : parsed(text);
  const wrong = text !== null && (edited === null || typeof edited !== "object" || Array.isArray(edited));
  const unanswered = choice ? choices(input).some((q) => !(answers.get(q.question) || []).length)
    : a.kind === "choice" && !Object.values(edited?.answers ?? {}).some((said) => String(said).trim());
  const [send, busy, error] = useAction(async (verdict) => {
    const body = { verdict, digest: a.digest, note: verdict === "deny" ? reason.trim() : "", vote_id: `v-${voteId}-${verdict}` };
    if (verdict === "approve") {
      if (choice) body.input = { answers: Object.fromEntries([...answers].map(([q, picked]) => [q, picked.join(", ")])) };
      else if (form) body.input = Object.fromEntries(values);
      else if (blind) body.input = edited;
      else if (mode === "edit" && JSON.stringify(edited) !== JSON.stringify(input)) body.input = edited;
    }
    try {
      approvals.put(await api("POST", `/approvals/${encodeURIComponent(a.id)}/votes`, body));
      sessionStorage.removeItem(draft);
    } catch (refused) {
      if (refused.status === 409) approvals.put(await api("GET", `/approvals/${encodeURIComponent(a.id)}`));
      throw refused;
    }
  });
  if (!may("vote")) return html`<${Note}>A reviewer decides this. Your role is ${session.value?.role}.<//>`;
  if (a.owner === session.value?.person && !session.value?.solo) return html`<${Note} tone="wait">This is your own run, so somebody else decides.<//>`;
  const off = busy || deaf;
  const editable = input && a.edits_input && !a.masked && !choice && !form && !blind;
  const edit = () => { setMode(mode === "edit" ? "ask" : "edit"); setText(mode === "edit" ? null : JSON.stringify(input, null, 2)); };
  return html`
      ${choice && html`<${Choices} input=${input} answers=${answers} setAnswers=${setAnswers} />`}
      ${form && html`<${Form} input=${input} values=${values} setValues=${setValues} />`}
      ${(blind || mode === "edit") && html`
        <label class="field"><span>${blind ? "Your answer, as JSON: what it asks stays on its machine" : "Edited input, as JSON; the original stays above"}</span>
          <textarea class="input mono" rows="8" spellcheck=${false} value=${text} onInput=${(e) => setText(e.target.value)} /></label>
        ${wrong && html`<p class="small late" role="status">This is not a JSON object yet.</p>`}`}
      ${editable && mode !== "deny" && html`<div><button class="button" onClick=${edit}>${mode === "edit" ? "Leave it as it was" : "Edit the input"}</button></div>`}
    <div class="decide">
      ${mode === "deny" && html`
        <label class="field"><span>${a.kind === "elicitation" ? "Why not? For the record: who asks with a form hears only that it was declined." : "Why not? The agent reads this."}</span>
          <textarea class="input" rows="3" autofocus value=${reason} onInput=${(e) => setReason(e.target.value)} /></label>`}
      <${Problem} error=${error} />
      ${mode === "deny" ? html`
        <div class="both">
          <button class="button big" onClick=${() => setMode(text === null || blind ? "ask" : "edit")}>Back</button>
          <button class="button big stop" disabled=${off || !reason.trim()} onClick=${() => send("deny")}>${busy ? "Sending…" : "Deny"}</button>
        </div>` : html`
        <div class="both">
          <button class="button big danger" disabled=${off} onClick=${() => setMode("deny")}>Deny…</button>
          <button class="button big go" disabled=${off || wrong || unanswered} onClick=${() => send("approve")}>${busy ? "Sending…" : choice || form || blind ? "Answer" : mode === "edit" ? "Approve edited" : "Approve"}</button>
        </div>`}
    </div>`;
}

const KINDS = { tool: "wants to use", choice: "asks", plan: "wants to leave plan mode with this plan", elicitation: "asks for input", unknown: "asks something this switchboard does not know" };

/** Whatever an agent made of its question, the page stays, and deny works. */
export const Question = ({ a }) => html`<${Fence} what="This question" raw=${a} otherwise=${() => a.state === "open" && html`<article class="card ask" data-approval=${a.id}><${Decide} a=${a} input=${null} /></article>`}><${Card} a=${a} /><//>`;

function Card({ a }) {
  const input = parsed(a.input_json);
  const left = a.state === "open" ? a.expires_in_s - (aged({ ...a, age_s: 0 }) ?? 0) : null;
  const asks = answered(a, input).length > 0; // then its answer's fields follow what it asks
  const facts = html`
      <dl class="facts">
        <dt>Run</dt><dd><a href=${at("r", a.run)}>${line(a.repo || a.run)}${a.branch ? html` · ${line(a.branch)}` : ""}</a></dd>
        <dt>Owner</dt><dd>${line(a.owner || "–")}</dd>
        <dt>Machine</dt><dd>${line(a.machine_name)}</dd>
        ${a.cwd && html`<dt>Folder</dt><dd><code>${exact(a.cwd)}</code></dd>`}
        ${left !== null && html`<dt>Expires</dt><dd>in ${ago(left)} <span class="dim">· then the agent is told that nobody answered</span></dd>`}
        <dt>Digest</dt><dd><code class="small dim">${exact(a.digest)}</code></dd>
      </dl>`;
  return html`
    <article class="card ask" key=${a.id} data-approval=${a.id}>
      <div class="stack tight">
        <div class="row wrap"><${State} is=${a.state} /><span class="dim small">${ago(aged(a))} ago</span></div>
        <h2 class="any">${line(a.title || a.tool || a.kind)}</h2>
        <p class="dim">${line(a.agent || "The agent")} ${KINDS[a.kind] || KINDS.unknown}${a.kind === "tool" ? html` <strong>${exact(a.tool)}</strong>` : ""}</p>
      </div>
      ${a.why && html`<div><h3>Its last words before</h3><p class="any" style=${{ whiteSpace: "pre-wrap" }}>${prose(a.why)}</p></div>`}
      ${asks && facts}
      <div class="stack tight"><h3>${a.kind === "tool" ? "Exactly what will run" : "What it asks"}</h3><${Will} a=${a} input=${input} /></div>
      ${a.masked && html`<${Note} tone="wait">Part of this stays on its machine: secrets are masked, or the repository's content rule says so. What runs is the whole of it.<//>`}
      ${a.diff && html`<div class="stack tight"><h3>What would change</h3><div class="diff"><${Lines} patch=${a.diff} /></div></div>`}
      ${!asks && facts}
      ${a.state !== "open" && html`<${Steps} a=${a} />`}
      ${a.state === "open" && html`<${Decide} key=${a.id} a=${a} input=${input} />`}
    </article>`;
}

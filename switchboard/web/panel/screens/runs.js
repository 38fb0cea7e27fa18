// The live list: what needs somebody first, then by age. Rows never jump under a finger: the order is held while one is down.
import { html, useEffect, useRef, useState, h } from "../lib.js";
import { runs, machines, approvals, aged, now, problem, silent } from "../store.js";
import { get } from "../wire.js";
import { at } from "../route.js";
import { State, Empty, Skeleton, Note } from "../ui/parts.js";
import { Rows } from "../ui/rows.js";
import { ago, line, count } from "../text.js";

const FIRST = ["waiting", "stopping", "running", "starting", "ordered", "idle"];
const place = (row) => { const at = FIRST.indexOf(row.state); return at < 0 ? FIRST.length : at; };
const FIELDS = { repo: "repo", machine: "machine_name", owner: "owner", state: "state", is: "state", agent: "agent", branch: "branch" };
const HELD_MS = 250;
const STAYS_S = 900; // that a run which ended under one's eyes stays in the list

/** Make a test of a filter: words, or field:value. */
export function compile(text) {
  const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const [name, value] = word.includes(":") ? [word.slice(0, word.indexOf(":")), word.slice(word.indexOf(":") + 1)] : ["", word];
    const field = FIELDS[name];
    if (field) return (row) => String(row[field] ?? "").toLowerCase().includes(value);
    return (row) => `${row.repo} ${row.branch} ${row.machine_name} ${row.owner} ${row.state} ${row.agent} ${row.prompt} ${row.id}`.toLowerCase().includes(word);
  });
  return (row) => tests.every((test) => test(row));
}

/** How long ago a run's machine gave proof of life; null while it does so regularly. */
export function silence(row) {
  const late = silent.value.get(row.machine);
  if (late) return aged(late);
  const machine = machines.get(row.machine);
  const away = machine ? !machine.attached : !row.reachable;
  return away ? (machine ? aged(machine, "seen_age_s") : aged(row, "proof_age_s")) ?? Infinity : null;
}

export function Proof({ row }) {
  if (!row.active) return html`<span class="dim">–</span>`;
  now.value;
  const since = silence(row);
  if (since === null) return html`<span class="dim">live</span>`;
  return html`<span class="late">${Number.isFinite(since) ? `silent ${ago(since)}` : "never seen"}</span>`;
}

const Age = ({ row }) => html`${ago(aged(row))}`;

function waitsFor(row) {
  if (!row.waits_for) return "";
  const question = approvals.rows.get(row.waits_for);
  return question ? question.title || question.tool || question.kind : "an answer";
}

const began = (row) => row.got - row.age_s;
const order = (a, b) => place(a) - place(b) || began(b) - began(a) || (a.id < b.id ? -1 : 1);

/** Keeps the order for a moment, and as long as a finger or a button is down: nothing moves away under it. */
function useOrder() {
  const held = useRef({ at: 0, down: false, places: new Map(), later: 0 });
  const [, again] = useState(0);
  useEffect(() => {
    const press = (event) => {
      held.current.down = event.type === "pointerdown";
      if (!held.current.down) again((n) => n + 1);
    };
    const names = ["pointerdown", "pointerup", "pointercancel"];
    for (const name of names) addEventListener(name, press, { passive: true });
    return () => { for (const name of names) removeEventListener(name, press); clearTimeout(held.current.later); };
  }, []);
  return (rows) => {
    const { at, down, places } = held.current;
    const old = (row) => places.get(row.id) ?? Infinity;
    if (places.size && (down || performance.now() - at < HELD_MS)) {
      rows.sort((a, b) => (old(a) === old(b) ? order(a, b) : old(a) - old(b)));
      held.current.later ||= setTimeout(() => { held.current.later = 0; again((n) => n + 1); }, HELD_MS);
    } else {
      rows.sort(order);
      held.current.at = performance.now();
    }
    held.current.places = new Map(rows.map((row, i) => [row.id, i]));
    return rows;
  };
}

/** The end of a repository's name, as long as it is the only one that ends so. */
function shorten(rows) {
  const full = new Map();
  for (const { repo } of rows) {
    const short = repo?.split("/").slice(-2).join("/");
    if (short) full.set(short, full.has(short) && full.get(short) !== repo ? null : repo);
  }
  return (repo) => { const short = repo?.split("/").slice(-2).join("/"); return short && full.get(short) ? short : repo; };
}

const drawn = (named) => (row) => Row(row, named);

function Row(row, named) {
  return h("tr", { key: row.id, class: "one", role: "row", "data-over": row.active ? undefined : "" }, html`
    <td role="cell" class="c-state"><div><${State} is=${row.state} /></div></td>
    <td role="cell" class="c-name"><div><a class="name" href=${at("r", row.id)} title=${row.repo || undefined}>${line(named(row.repo) || row.path || row.id)}</a></div>
      <div class="second">${row.branch && html`<span>${line(row.branch)}</span>`}${row.branch && row.prompt && " · "}${line((row.prompt || "").slice(0, 160))}</div></td>
    <td role="cell" class="c-machine"><div>${line(row.machine_name)}</div></td>
    <td role="cell" class="c-agent"><div>${line(row.agent)}</div><div class="second">${line(row.agent_version)}</div></td>
    <td role="cell" class="c-owner"><div>${line(row.owner)}</div></td>
    <td role="cell" class="c-waits"><div>${line(waitsFor(row))}</div></td>
    <td role="cell" class="c-age num"><div><${Age} row=${row} /></div></td>
    <td role="cell" class="c-proof num"><div><${Proof} row=${row} /></div></td>`);
}

const HEADS = [["c-state", "State"], ["c-name", "Repository"], ["c-machine", "Machine"], ["c-agent", "Agent"], ["c-owner", "Owner"], ["c-waits", "Waits for"], ["c-age num", "Age"], ["c-proof num", "Proof of life"]];

const narrow = matchMedia("(max-width: 760px)");

export function Runs() {
  const [filter, setFilter] = useState(new URLSearchParams(location.search).get("q") || "");
  const [ended, setEnded] = useState(false);
  const [phone, setPhone] = useState(narrow.matches);
  useEffect(() => {
    const change = () => setPhone(narrow.matches);
    narrow.addEventListener("change", change);
    const keys = (event) => {
      if (event.key === "/" && !/^(input|textarea|select)$/i.test(event.target.tagName)) { event.preventDefault(); document.getElementById("filter")?.focus(); }
    };
    addEventListener("keydown", keys);
    return () => { narrow.removeEventListener("change", change); removeEventListener("keydown", keys); };
  }, []);
  useEffect(() => {
    const address = filter ? `?q=${encodeURIComponent(filter)}` : location.pathname;
    history.replaceState(null, "", address);
  }, [filter]);
  useEffect(() => {
    if (!ended) return;
    let over = false;
    (async () => {
      for (let after = ""; after !== null && !over;) {
        const page = await get(`/runs?all=true&limit=2000${after ? `&after=${encodeURIComponent(after)}` : ""}`);
        runs.take(page.runs);
        after = page.next;
      }
    })().catch((error) => { problem.value = error.message; });
    return () => { over = true; };
  }, [ended]);

  const arrange = useOrder();
  const all = runs.list();
  const live = all.filter((row) => row.active);
  const fits = compile(filter);
  const shown = arrange(all.filter((row) => (row.active || ended || (row.watched && aged(row, "changed_s") < STAYS_S)) && fits(row)));
  const waits = live.filter((row) => row.state === "waiting").length;
  const loaded = runs.loaded.value;
  return html`
    <div class="page">
      <div class="head">
        <h1>Runs</h1>
        <span class="dim" role="status">${loaded ? `${live.length.toLocaleString()} active${waits ? ` · ${waits} waiting` : ""}` : "Loading…"}</span>
        <div class="tools">
          <input id="filter" class="input" type="search" placeholder="Filter: words, repo: machine: state: owner:" aria-label="Filter runs" value=${filter} onInput=${(e) => setFilter(e.target.value)} />
          <button class="button" aria-pressed=${ended} onClick=${() => setEnded(!ended)}>${ended ? "Hide ended" : "Show ended"}</button>
        </div>
      </div>
      ${problem.value && html`<${Note} tone="bad">${line(problem.value)}<//>`}
      ${!loaded && !all.length ? html`<${Skeleton} />` : !shown.length ? html`<${Nothing} filter=${filter} any=${all.length} />` : html`
        <table class="runs" role="table" aria-label="Runs">
          <colgroup>${HEADS.map(([name]) => html`<col key=${name} class=${name.split(" ")[0]} />`)}</colgroup>
          <thead role="rowgroup"><tr role="row">${HEADS.map(([name, title]) => html`<th key=${name} role="columnheader" scope="col" class=${name}>${title}</th>`)}</tr></thead>
          ${h(Rows, { items: shown, height: phone ? 117 : 57, row: drawn(shorten(all)), columns: HEADS.length })}
        </table>`}
      ${filter && shown.length > 0 && html`<p class="dim small">${count(shown.length, "run")} of ${all.length.toLocaleString()} fit the filter.</p>`}
    </div>`;
}

const Nothing = ({ filter, any }) => filter && any
  ? html`<${Empty} title="No run fits this filter"><p>Take a word away, or show ended runs too.</p><//>`
  : html`<${Empty} title="Nothing is running">
      <p>A run appears here the moment its machine announces it. Start one in a terminal:</p>
      <pre class="code">switchboard run start --repo . --agent claude "Fix the failing test"</pre><//>`;

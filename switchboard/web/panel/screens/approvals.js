// What waits for a person, oldest first, and beside it the one that is looked at.
import { html, useEffect, useState } from "../lib.js";
import { approvals, aged, need } from "../store.js";
import { at } from "../route.js";
import { Empty, Note, Problem, Skeleton, State } from "../ui/parts.js";
import { Question } from "../ui/question.js";
import { ago, line } from "../text.js";

const OLD = 30; // decided ones shown below

const Pick = ({ a, current }) => html`
  <a class="pick" href=${at("a", a.id)} aria-current=${current ? "true" : undefined}>
    <span class="top"><${State} is=${a.state} /><span class="dim small">${ago(aged(a))}</span></span>
    <span class="what">${line(a.title || a.tool || a.kind)}</span>
    <span class="dim small cut">${line(a.repo || a.run)} · ${line(a.machine_name)}</span>
  </a>`;

export function Approvals({ id }) {
  const [error, setError] = useState(null);
  const all = approvals.list();
  const waiting = all.filter((a) => a.state === "open").sort((a, b) => a.opened_at < b.opened_at ? -1 : 1);
  const old = all.filter((a) => a.state !== "open").sort((a, b) => a.opened_at < b.opened_at ? 1 : -1).slice(0, OLD);
  // The one that is looked at stays, also once it is decided: what became of it is shown, and no other takes its place by itself.
  const [stays, setStays] = useState(id);
  const first = waiting[0]?.id;
  useEffect(() => { setStays(id || ((now) => now || first)); }, [id, first]);
  const chosen = id ? approvals.get(id) : approvals.get(stays);
  useEffect(() => {
    setError(null);
    if (id && !approvals.rows.has(id)) need(approvals, `/approvals/${encodeURIComponent(id)}`, (row) => row).catch(setError);
  }, [id]);
  return html`
    <div class="page">
      <div class="head"><h1>Approvals</h1><span class="dim" role="status">${waiting.length ? `${waiting.length.toLocaleString()} waiting` : "Nothing waits"}</span>
        ${id && html`<a class="back" href="/approvals">All approvals</a>`}</div>
      ${!approvals.loaded.value && !all.length ? html`<${Skeleton} />` : !all.length && !id ? html`
        <${Empty} title="Nothing waits for you"><p>When an agent asks before it acts, the question appears here within a second.</p><//>` : html`
        <div class="two ${id ? "one" : ""}">
          <div class="stack">
            <nav class="picks" aria-label="Waiting">${waiting.map((a) => html`<${Pick} key=${a.id} a=${a} current=${a.id === chosen?.id} />`)}
              ${!waiting.length && html`<p class="dim">Nothing waits at the moment.</p>`}</nav>
            ${old.length > 0 && html`<nav class="picks" aria-label="Decided"><h2 class="label">Before</h2>${old.map((a) => html`<${Pick} key=${a.id} a=${a} current=${a.id === chosen?.id} />`)}</nav>`}
          </div>
          <div>
            <${Problem} error=${error} />
            ${chosen ? html`<${Question} key=${chosen.id} a=${chosen} />` : !error && !id && html`<${Note}>Choose one to see what happened.<//>`}
          </div>
        </div>`}
    </div>`;
}

// Stops: say which runs, see what that means, give the order, and watch the receipts come in.
import { html, useEffect, useRef, useState } from "../lib.js";
import { orders, runs, machines, receipts, aged, link } from "../store.js";
import { get, post } from "../wire.js";
import { may, session } from "../session.js";
import { at, go } from "../route.js";
import { Ask, Empty, Note, Problem, Skeleton, State, useAction } from "../ui/parts.js";
import { ago, bytes, count, day, exact, line } from "../text.js";

const ORDER = ["ended", "refused", "failed", "unproven", "ending", "unconfirmed", "unreachable"];
const SAYS = {
  ended: "seen gone by its machine", refused: "start refused", failed: "something is left alive", unproven: "over, its machine says, without proof", ending: "its machine has the order", unconfirmed: "not confirmed yet", unreachable: "machine away: obeys at its return",
};

/** A selector in words. */
export function words(selector) {
  const lists = [["repos", "repository"], ["machines", "machine"], ["owners", "owner"], ["agents", "agent"], ["runs", "run"]];
  const names = (key, list) => key === "machines" ? list.map((id) => machines.rows.get(id)?.name || id) : list;
  const parts = lists.filter(([key]) => selector[key]?.length).map(([key, noun]) => `${noun} ${names(key, selector[key]).join(", ")}`);
  if (!parts.length) parts.push("every run");
  if (selector.except_repos?.length) parts.push(`but not ${selector.except_repos.join(", ")}`);
  if (selector.except_runs?.length) parts.push(`but not ${count(selector.except_runs.length, "run")}`);
  return parts.join(", ");
}

const KINDS = [["all", "Everything"], ["except_repos", "All but a repository"], ["repos", "Repositories"], ["machines", "Machines"], ["owners", "Owners"], ["agents", "Agents"]];
const FIELD = { repos: "repo", except_repos: "repo", machines: "machine", owners: "owner", agents: "agent" };

function choicesOf(kind) {
  if (kind === "machines") return machines.list().map((m) => [m.id, m.name]);
  const values = new Set(runs.list().filter((row) => row.active).map((row) => row[FIELD[kind]]).filter(Boolean));
  return [...values].sort().slice(0, 500).map((value) => [value, value]);
}

function Fresh() {
  const [kind, setKind] = useState("all");
  const [picked, setPicked] = useState([]);
  const [other, setOther] = useState("");
  const [reason, setReason] = useState("");
  const [hold, setHold] = useState(true);
  const [preview, setPreview] = useState(null);
  const [problem, setProblem] = useState(null);
  const id = useRef(crypto.randomUUID?.() || String(Date.now()));
  const names = kind === "all" ? [] : [...picked, ...other.split(/[\s,]+/).filter(Boolean)];
  const ready = kind === "all" || names.length > 0;
  const selector = kind === "all" ? { all: true } : { [kind]: names };
  const said = JSON.stringify(selector);
  const living = runs.version.value;
  useEffect(() => {
    if (!ready) return setPreview(null);
    let over = false;
    const timer = setTimeout(async () => {
      try {
        const found = await post("/orders/preview", { selector });
        if (!over) { setPreview(found); setProblem(null); }
      } catch (error) { if (!over) { setPreview(null); setProblem(error); } }
    }, 150);
    return () => { over = true; clearTimeout(timer); };
  }, [said, ready, living]);
  const [send, busy, error] = useAction(async () => {
    const { order } = await post("/orders", { selector, reason: reason.trim(), hold, request_id: id.current });
    orders.put(order);
    go(at("s", order.id));
  });
  const options = kind === "all" ? [] : choicesOf(kind);
  const away = preview?.machines_away || [];
  return html`
    <form class="card stack" onSubmit=${(e) => { e.preventDefault(); send(); }} aria-label="A new stop">
      <h2>Stop runs</h2>
      <div class="segments" role="group" aria-label="Which runs">
        ${KINDS.map(([name, title]) => html`<button key=${name} type="button" aria-pressed=${kind === name} onClick=${() => { setKind(name); setPicked([]); setOther(""); }}>${title}</button>`)}
      </div>
      ${kind !== "all" && html`
        <fieldset><legend class="hush">${KINDS.find(([name]) => name === kind)[1]}</legend>
          ${options.map(([value, name]) => html`<label class="check" key=${value}>
            <input type="checkbox" checked=${picked.includes(value)} onChange=${(e) => setPicked(e.target.checked ? [...picked, value] : picked.filter((p) => p !== value))} /><span class="any">${line(name)}</span></label>`)}
          ${kind !== "machines" && html`<label class="field"><span>${options.length ? "Others, by name" : "By name"}</span><input class="input" value=${other} spellcheck=${false} onInput=${(e) => setOther(e.target.value)} /></label>`}
        </fieldset>`}
      ${preview && html`<${Note} tone=${preview.count ? "wait" : ""}>
        ${preview.count ? html`Stops <strong>${count(preview.count, "run")}</strong> on <strong>${count(preview.machines, "machine")}</strong>.` : "Nothing that runs at this moment fits."}
        ${away.length > 0 && html` ${count(away.length, "machine is", "machines are")} away and will obey at ${away.length === 1 ? "its" : "their"} return: ${line(away.slice(0, 5).join(", "))}${away.length > 5 ? "…" : ""}.`}
      <//>
      ${preview.runs.length > 0 && html`<details><summary class="small dim">Which ones</summary><ul class="small" style=${{ marginTop: "8px" }}>${preview.runs.map((r) => html`<li key=${r.id} class="any">${line(r.repo || r.id)} <span class="dim">${line(r.branch)} · ${line(r.machine_name)} · ${line(r.owner)}</span></li>`)}</ul></details>`}`}
      <label class="field"><span>Reason; everybody who is held back reads it</span>
        <textarea class="input" rows="2" maxlength="2000" required value=${reason} onInput=${(e) => setReason(e.target.value)} /></label>
      <label class="check"><input type="checkbox" checked=${hold} onChange=${(e) => setHold(e.target.checked)} />
        <span>Hold: refuse matching runs that start later, until it is lifted</span></label>
      <${Problem} error=${error || problem} />
      <div><button class="button stop" disabled=${busy || !ready || !reason.trim() || !preview}>${busy ? "Giving the order…" : preview?.count ? `Stop ${count(preview.count, "run")} on ${count(preview.machines, "machine")}` : "Give the order"}</button></div>
    </form>`;
}

const standing = (order) => order.lifted ? "lifted" : order.hold ? "standing" : "over";

export function Stops() {
  const all = orders.list().sort((a, b) => Number(b.standing) - Number(a.standing) || b.generation - a.generation);
  return html`
    <div class="page narrow">
      <div class="head"><h1>Stops</h1><span class="dim" role="status">${count(all.filter((o) => o.standing).length, "order stands", "orders stand")}</span></div>
      ${may("stop") && html`<${Fresh} />`}
      ${!orders.loaded.value && !all.length ? html`<${Skeleton} rows=${3} />` : !all.length ? html`<${Empty} title="No stop was ever given"><p>An order reaches every machine at once, and those that are away at their return.</p><//>` : html`
        <nav class="picks" aria-label="Orders">${all.map((o) => html`
          <a key=${o.id} class="pick" href=${at("s", o.id)}>
            <span class="top"><${State} is=${standing(o)} word=${standing(o) === "over" ? "once" : standing(o)} /><span class="dim small">${ago(aged(o))} ago by ${line(o.by)}</span></span>
            <span class="what">${line(o.reason)}</span><span class="dim small any">${line(words(o.selector))}</span></a>`)}</nav>`}
    </div>`;
}

function Receipt({ row }) {
  const r = row.receipt, s = r?.safety;
  if (!r) return html`<span class="dim">${SAYS[row.standing]}</span>`;
  const parts = [];
  if (r.proof) parts.push(r.proof);
  if (r.rung) parts.push(r.rung === "none" ? "had ended by itself" : r.rung);
  if (r.outcome === "ended") parts.push(`${r.took_ms.toLocaleString()} ms`, count(r.processes, "process", "processes"));
  return html`
    <div>${parts.map((p) => line(p)).reduce((all, p, i) => i ? [...all, " · ", p] : [p], [])}${r.reason && html`<div class="dim">${line(r.reason)}</div>`}
      ${s && html`<div class="dim small">${s.error ? html`Not saved: ${line(s.error)}` : s.id ? html`Saved ${count(s.files, "file")}, ${bytes(s.bytes)}, at <code>${exact((s.head || "").slice(0, 10))}</code> as <code>${exact(s.id)}</code>` : "Nothing to save"}
        ${s.left_out > 0 && html`<details><summary>${count(s.left_out, "path")} not saved</summary>${s.not_saved.slice(0, 200).map((p, i) => html`<div key=${i}>${exact(p)}</div>`)}</details>`}</div>`}
    </div>`;
}

export function Stop({ id }) {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const [ask, setAsk] = useState("");
  const order = orders.get(id) || found?.order;
  const moved = `${receipts.value}/${orders.get(id)?.generation}/${machines.version.value}/${runs.version.value}/${link.value}`;
  useEffect(() => {
    let over = false;
    const timer = setTimeout(() => get(`/orders/${encodeURIComponent(id)}`).then((answer) => { if (!over) { setFound(answer); setError(null); } }, (e) => { if (!over) setError(e); }), found ? 100 : 0);
    return () => { over = true; clearTimeout(timer); };
  }, [id, moved]);
  const path = `/orders/${encodeURIComponent(id)}`;
  const [extend, extending, notExtended] = useAction(async () => { const answer = await post(`${path}/extend`, { hours: 8 }); orders.put(answer.order); });
  if (!order || !found) return html`<div class="page narrow"><a class="back" href="/stops">All stops</a>${error ? html`<${Problem} error=${error} />` : html`<${Skeleton} />`}</div>`;
  const { counts, rows, machines: told } = found;
  const done = (counts.ended || 0) + (counts.refused || 0);
  const sorted = [...rows].sort((a, b) => ORDER.indexOf(b.standing) - ORDER.indexOf(a.standing) || (a.run < b.run ? -1 : 1));
  const mine = may("lift") || order.by === session.value?.person;
  return html`
    <div class="page narrow">
      <div class="stack tight">
        <a class="back" href="/stops">All stops</a>
        <div class="title"><h1 class="grow any">${line(order.reason)}</h1>
          ${!order.lifted && mine && html`<button class="button" onClick=${() => setAsk("lift")}>Lift…</button>`}</div>
        <div class="row wrap"><${State} is=${standing(order)} word=${standing(order) === "over" ? "once" : standing(order)} /><span class="dim any">${line(words(order.selector))} · by ${line(order.by)}, ${day(order.issued_at)}</span></div>
        ${order.lifted && html`<${Note}>Lifted by ${line(order.lifted_by)}, ${day(order.lifted_at)}: ${line(order.lift_reason)}<//>`}
        ${order.review_due && mine && html`<${Note} tone="wait"><div class="row wrap"><span class="grow">This hold stands longer than its review time. Is it still needed?</span>
          <button class="button" disabled=${extending} onClick=${extend}>Extend by 8 h</button></div><//>`}
        <${Problem} error=${error || notExtended} />
      </div>
      <section class="card stack" aria-label="How far it is">
        <div><p class="big-count"><span data-done=${done}>${done.toLocaleString()}</span> <small>of ${count(rows.length, "run")} ended with proof</small></p></div>
        ${rows.length > 0 && html`<div class="bar" aria-hidden="true">${ORDER.filter((s) => counts[s]).map((s) => html`<span key=${s} class=${s} style=${{ width: `${(100 * counts[s]) / rows.length}%` }} />`)}</div>`}
        <ul class="legend">${ORDER.filter((s) => counts[s]).map((s) => html`<li key=${s} class="row"><${State} is=${s} word=${`${counts[s].toLocaleString()} ${s}`} /><span class="dim">${SAYS[s]}</span></li>`)}</ul>
        <p class="dim small">${told.seen.toLocaleString()} of ${count(told.total, "machine")} hold the order on disk${told.away.length ? html`; away: ${line(told.away.slice(0, 8).join(", "))}${told.away.length > 8 ? ` and ${told.away.length - 8} more` : ""}` : ""}.</p>
      </section>
      ${rows.length > 0 && html`
        <table class="plain"><thead><tr><th scope="col">Run</th><th scope="col">Machine</th><th scope="col">State</th><th scope="col">Receipt</th></tr></thead>
          <tbody>${sorted.slice(0, 300).map((row) => html`
            <tr key=${row.run}><td><a href=${at("r", row.run)}>${line(runs.rows.get(row.run)?.repo || row.run)}</a></td><td>${line(row.machine_name)}</td><td><${State} is=${row.standing} /></td><td><${Receipt} row=${row} /></td></tr>`)}</tbody></table>
        ${sorted.length > 300 && html`<p class="dim small">The ${(sorted.length - 300).toLocaleString()} others: <code>switchboard stop status ${exact(order.id)}</code></p>`}`}
      ${ask === "lift" && html`
        <${Ask} title="Lift this order" button="Lift" tone="main" onClose=${() => setAsk("")} onSend=${async (reason) => { const answer = await post(`${path}/lift`, { reason }); orders.put(answer.order); }}>
          <p class="dim">Matching runs may start again. What was stopped stays stopped until somebody resumes it.</p><//>`}
    </div>`;
}

// The machines: which are there, what they found, and the line that brings in another.
import { html, useState } from "../lib.js";
import { machines, runs, aged } from "../store.js";
import { post } from "../wire.js";
import { may } from "../session.js";
import { Ask, Copy, Empty, Note, Problem, Skeleton, State, useAction } from "../ui/parts.js";
import { ago, count, exact, line } from "../text.js";

const stands = (m) => m.standing !== "active" ? m.standing : m.attached ? "attached" : "away";

function Machine({ m, running, onRevoke }) {
  const is = stands(m);
  return html`
    <article class="card machine">
      <div class="row"><h2 class="grow any">${line(m.name)}</h2><${State} is=${is} word=${is === "away" ? `away ${m.seen_age_s === null ? "" : ago(aged(m, "seen_age_s"))}` : is} /></div>
      <dl class="facts">
        <dt>Runs</dt><dd>${running}</dd>
        <dt>Owner</dt><dd>${line(m.owner)}</dd>
        <dt>Daemon</dt><dd>${line(m.version || "–")}${m.platform && html` <span class="dim">on ${line(m.platform)}</span>`}</dd>
        ${m.agents.map((agent) => html`<dt key=${agent.name}>${line(agent.name)}</dt>
          <dd>${agent.problem ? html`<span class="late">${line(agent.problem)}</span>` : html`${line(agent.version)} <span class="dim">· ${agent.signed_in ? "signed in" : "not signed in"}</span>`}</dd>`)}
        <dt>Id</dt><dd><code class="small dim">${exact(m.id)}</code></dd>
      </dl>
      ${may("revoke-machine") && m.standing !== "revoked" && html`<div><button class="button quiet" onClick=${() => onRevoke(m)}>Revoke…</button></div>`}
    </article>`;
}

export function Machines() {
  const [revoking, setRevoking] = useState(null);
  const [invited, setInvited] = useState(null);
  const [invite, busy, error] = useAction(async () => setInvited(await post("/machines/invites", { name: "" })));
  const all = machines.list().sort((a, b) => (a.standing === "revoked") - (b.standing === "revoked") || (a.name < b.name ? -1 : 1));
  const running = {};
  for (const row of runs.list()) if (row.active) running[row.machine] = (running[row.machine] || 0) + 1;
  return html`
    <div class="page">
      <div class="head"><h1>Machines</h1><span class="dim" role="status">${all.filter((m) => m.attached && m.standing === "active").length} of ${count(all.filter((m) => m.standing === "active").length, "machine")} attached</span>
        <span class="grow"></span>
        ${may("invite-machine") && html`<button class="button" disabled=${busy} onClick=${invite}>Invite a machine</button>`}</div>
      <${Problem} error=${error} />
      ${invited && html`<section class="card stack" aria-label="Invitation"><h2>Paste this line on the machine</h2>
        <${Copy} text=${invited.command} label="Copy the line" /><p class="dim small">It works once, and for 15 minutes.</p></section>`}
      ${!machines.loaded.value && !all.length ? html`<${Skeleton} />` : !all.length ? html`<${Empty} title="No machine has joined"><p>Invite one, and paste the line there.</p><//>` : html`
        <div class="machines">${all.map((m) => html`<${Machine} key=${m.id} m=${m} running=${running[m.id] || 0} onRevoke=${setRevoking} />`)}</div>`}
      ${revoking && html`
        <${Ask} title=${`Revoke ${revoking.name}`} button="Revoke" onClose=${() => setRevoking(null)} onSend=${(reason) => post(`/machines/${encodeURIComponent(revoking.id)}/revoke`, { reason })}>
          <${Note} tone="wait">Its connection closes within seconds, and it must be invited anew. Its runs go on without being seen until its daemon ends them.<//><//>`}
    </div>`;
}

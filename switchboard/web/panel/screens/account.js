// Oneself: who one is signed in as, a new password, the way out.
import { html, useState } from "../lib.js";
import { api } from "../wire.js";
import { session, signedOut } from "../session.js";
import { Note, Problem, useAction } from "../ui/parts.js";
import { line } from "../text.js";

export const leave = async () => { await api("DELETE", "/session").catch(() => {}); signedOut(); };

export function Account() {
  const me = session.value;
  const [password, setPassword] = useState("");
  const [done, setDone] = useState(false);
  const [change, busy, error] = useAction(async () => { await api("PUT", "/session/password", { password }); setPassword(""); setDone(true); });
  return html`
    <div class="page narrow">
      <div class="head"><h1>${line(me.display || me.person)}</h1></div>
      <section class="card stack" aria-label="Account">
        <dl class="facts"><dt>Name</dt><dd>${line(me.person)}</dd><dt>Role</dt><dd>${line(me.role)}</dd></dl>
        <form class="stack" onSubmit=${(e) => { e.preventDefault(); change(); }}>
          <input type="text" autocomplete="username" value=${me.person} readonly hidden />
          <label class="field"><span>New password</span>
            <input class="input" type="password" autocomplete="new-password" minlength="10" required value=${password} onInput=${(e) => { setPassword(e.target.value); setDone(false); }} /></label>
          <${Problem} error=${error} />
          ${done && html`<${Note} tone="good">Changed. Your other sessions have ended.<//>`}
          <div class="row wrap"><button class="button main" disabled=${busy}>Change password</button>
            <button type="button" class="button" onClick=${leave}>Sign out</button></div>
        </form>
      </section>
    </div>`;
}

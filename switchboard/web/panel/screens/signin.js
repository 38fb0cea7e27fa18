// Sign in: by a one-time link, which may ask for a first password, or by name and password.
import { html, useEffect, useState } from "../lib.js";
import { api } from "../wire.js";
import { signedIn } from "../session.js";
import { go, path } from "../route.js";
import { Problem, useAction } from "../ui/parts.js";
import { line } from "../text.js";

// The secret leaves the address at once: it must not lie in the history, and no server ever saw it there.
let secret = "";
export function takeSecret() {
  if (location.pathname !== "/sign-in" || location.hash.length < 2) return;
  secret = location.hash.slice(1);
  history.replaceState(null, "", "/sign-in");
}

const entered = (about) => {
  secret = "";
  signedIn(about);
  if (path.value === "/sign-in") go("/", { replace: true });
};

const Brand = () => html`<span class="brand"><img src="/panel/icon.svg" alt="" />Switchboard</span>`;

function Choose({ person, display }) {
  const [password, setPassword] = useState("");
  const [send, busy, error] = useAction(async () => entered(await api("POST", "/session/link", { secret, password })));
  return html`
    <form onSubmit=${(e) => { e.preventDefault(); send(); }}>
      <div><h1>Welcome, ${line(display || person)}</h1>
        <p class="dim">Choose a password. The command line asks for it when you approve or deny.</p></div>
      <input type="text" autocomplete="username" value=${person} readonly hidden />
      <label class="field"><span>Password for ${line(person)}</span>
        <input class="input" type="password" autocomplete="new-password" minlength="10" required autofocus value=${password} onInput=${(e) => setPassword(e.target.value)} /></label>
      <p class="small dim">At least 10 characters; a few words do well.</p>
      <${Problem} error=${error} />
      <button class="button main" disabled=${busy}>${busy ? "Signing in…" : "Set password and sign in"}</button>
    </form>`;
}

function Password({ first }) {
  const [person, setPerson] = useState("");
  const [password, setPassword] = useState("");
  const [send, busy, error] = useAction(async () => entered(await api("POST", "/session", { person, password })));
  return html`
    <form onSubmit=${(e) => { e.preventDefault(); send(); }}>
      <h1>Sign in</h1>
      <label class="field"><span>Name</span>
        <input class="input" name="person" autocomplete="username" autocapitalize="none" spellcheck=${false} required autofocus value=${person} onInput=${(e) => setPerson(e.target.value)} /></label>
      <label class="field"><span>Password</span>
        <input class="input" type="password" name="password" autocomplete="current-password" required value=${password} onInput=${(e) => setPassword(e.target.value)} /></label>
      <${Problem} error=${error || first} />
      <button class="button main" disabled=${busy}>${busy ? "Signing in…" : "Sign in"}</button>
      <p class="small dim">No password yet? Ask an admin for a link, or start <code>switchboard up</code> in a terminal: it prints one.</p>
    </form>`;
}

export function SignIn() {
  const [link, setLink] = useState({ asking: Boolean(secret), needs: null, error: null });
  useEffect(() => {
    if (!secret) return;
    api("POST", "/session/link", { secret }).then(entered, (error) => {
      if (error.details?.needs === "password") setLink({ asking: false, needs: error.details, error: null });
      else { secret = ""; setLink({ asking: false, needs: null, error }); }
    });
  }, []);
  return html`
    <main class="gate"><div class="card">
      <${Brand} />
      ${link.asking ? html`<p class="dim" role="status">Signing in…</p>` : link.needs ? html`<${Choose} ...${link.needs} />` : html`<${Password} first=${link.error} />`}
    </div></main>`;
}

// The shell: who is signed in, where one is, and whether what is shown is live.
import { html, render, h, useEffect } from "./lib.js";
import { get } from "./wire.js";
import { session, signedIn, solo } from "./session.js";
import { link, open, shut, trouble, waiting, orders } from "./store.js";
import { path } from "./route.js";
import { SignIn, takeSecret } from "./screens/signin.js";
import { Runs } from "./screens/runs.js";
import { Run } from "./screens/run.js";
import { Approvals } from "./screens/approvals.js";
import { Stop, Stops } from "./screens/stops.js";
import { Machines } from "./screens/machines.js";
import { Account, leave } from "./screens/account.js";
import { Empty, Fence } from "./ui/parts.js";
import { line } from "./text.js";

takeSecret();

const icon = (d) => html`<svg viewBox="0 0 24 24" aria-hidden="true">${d}</svg>`;
const NAV = [
  ["/", "Runs", icon(html`<path d="M4 6h16M4 12h16M4 18h10" />`), ["/", "/r/"]],
  ["/approvals", "Approvals", icon(html`<path d="M9 12.5l2.2 2.2L15.5 10" /><path d="M12 3l7.5 3v5.5c0 4.4-3 7.9-7.5 9.5-4.500-1.600-7.500-5.100-7.500-9.500V6z" />`), ["/approvals", "/a/"]],
  ["/stops", "Stops", icon(html`<path d="M8.200 3h7.600L21 8.200v7.600L15.800 21H8.200L3 15.800V8.200z" /><path d="M9 12h6" />`), ["/stops", "/s/"]],
  ["/machines", "Machines", icon(html`<rect x="3.500" y="4.500" width="17" height="11" rx="2" /><path d="M8.500 19.500h7M12 15.500v4" />`), ["/machines"]],
  ["/account", "You", icon(html`<circle cx="12" cy="8.500" r="3.700" /><path d="M4.800 20c1.200-3.600 4-5.400 7.200-5.400s6 1.800 7.200 5.400" />`), ["/account"]],
];

const LINK = { live: "live", away: "reconnecting", starting: "connecting" };

// An address that was cut or typed need not be well escaped: it is then nobody's id, and is said as it stands.
function spelled(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function screen(where) {
  const one = /^\/([ras])\/(.+)$/.exec(where);
  if (one) {
    const id = spelled(one[2]);
    return { r: () => html`<${Run} key=${id} id=${id} />`, a: () => html`<${Approvals} id=${id} />`, s: () => html`<${Stop} key=${id} id=${id} />` }[one[1]]();
  }
  return { "/": () => html`<${Runs} />`, "/approvals": () => html`<${Approvals} />`, "/stops": () => html`<${Stops} />`, "/machines": () => html`<${Machines} />`, "/account": () => html`<${Account} />` }[where]?.() ?? html`<${Empty} title="No such page"><p>There is no page ${line(where)}: <a href="/">the runs</a> are where everything begins.</p><//>`;
}

function Shell() {
  const where = path.value;
  const waits = waiting.value.length;
  const standing = orders.list().filter((order) => order.standing).length;
  const counts = { "/approvals": [waits, "wait"], "/stops": [standing, ""] };
  useEffect(() => { open(); return shut; }, []);
  useEffect(() => { document.title = `${waits ? `(${waits}) ` : ""}Switchboard`; }, [waits]);
  return html`
    <div class="shell">
      <header class="rail">
        <a class="brand" href="/"><img src="/panel/icon.svg" alt="" />Switchboard</a>
        <nav aria-label="Pages">${NAV.map(([href, title, svg, under]) => html`
          <a key=${href} href=${href} aria-current=${under.some((u) => u === "/" ? where === "/" : where === u || (u.endsWith("/") && where.startsWith(u))) ? "page" : undefined}>
            ${svg}<span>${title}</span>${counts[href]?.[0] > 0 && html`<span class="count" data-tone=${counts[href][1]}>${counts[href][0]}</span>`}</a>`)}</nav>
        <div class="foot">
          <span class="link" data-state=${link.value} role="status">${LINK[link.value]}</span>
          <div class="who"><span class="cut">${line(session.value.display || session.value.person)}</span><button class="button quiet" onClick=${leave}>Sign out</button></div>
        </div>
      </header>
      <main class="main">
        ${solo.value && html`<p class="solo">Solo: one person is all there is, so you decide on your own runs.</p>`}
        ${link.value === "away" && html`<p class="solo" role="status">${trouble.value ? line(trouble.value) : "The switchboard cannot be reached at the moment"}. What you see is as it was; it comes back by itself.</p>`}
        <${Fence} key=${where} what="This page" raw=${{ page: where }}>${screen(where)}<//>
      </main>
    </div>`;
}

function App() {
  if (session.value === undefined) return trouble.value ? html`<main class="gate"><div class="card"><h1>One moment</h1><p role="status">${line(trouble.value)}. This page tries again by itself.</p></div></main>` : null;
  return session.value === null || path.value === "/sign-in" ? html`<${SignIn} />` : html`<${Shell} />`;
}

async function begin() {
  if (path.value === "/sign-in") {
    session.value = null;
  } else {
    try {
      signedIn(await get("/session"));
      trouble.value = "";
    } catch (error) {
      // Not known is one thing, nobody there to ask is another.
      if (error.status === 401) session.value = null;
      else { trouble.value = error.message; setTimeout(begin, 1000); }
    }
  }
}

render(h(App), document.getElementById("app"));
begin();

// Unified diffs as rows of text: line numbers, a sign, the line. Nothing is ever left out, only folded.
import { html, useState } from "../lib.js";
import { exact } from "../text.js";

const FOLD = 400; // changed lines; longer files open on request
const GENERATED = /(^|\/)(package-lock\.json|yarn\.lock|pnpm-lock\.yaml|poetry\.lock|uv\.lock|Cargo\.lock|go\.sum|requirements[^/]*\.lock)$/;
const STEP = 2000; // rows drawn at once

/** Read a unified patch into rows {kind, old, new, text}. */
export function parse(patch) {
  const rows = [];
  let before = 0, after = 0, inside = false;
  for (const text of String(patch || "").split("\n")) {
    const hunk = /^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@/.exec(text);
    if (hunk) {
      [before, after, inside] = [Number(hunk[1]), Number(hunk[2]), true];
      rows.push({ kind: "hunk", text });
    } else if (!inside) {
      if (text && !/^(diff |index |--- |\+\+\+ |old mode|new mode|similarity|rename |deleted file|new file)/.test(text)) rows.push({ kind: "hunk", text });
    } else if (text[0] === "+") rows.push({ kind: "add", new: after++, text: text.slice(1) });
    else if (text[0] === "-") rows.push({ kind: "del", old: before++, text: text.slice(1) });
    else if (text[0] === "\\") rows.push({ kind: "hunk", text });
    else if (text[0] === " ") rows.push({ kind: "same", old: before++, new: after++, text: text.slice(1) });
    else if (text) rows.push({ kind: "hunk", text });
  }
  return rows;
}

const SIGN = { add: "+", del: "−", same: "" };

export function Lines({ patch }) {
  const rows = parse(patch);
  const [shown, setShown] = useState(STEP);
  return html`
    <div class="lines" role="group" aria-label="changes" tabindex="0">
      ${rows.slice(0, shown).map((row, at) => row.kind === "hunk"
        ? html`<div key=${at} class="hunk">${exact(row.text)}</div>`
        : html`<div key=${at} class=${row.kind}><i>${row.old ?? ""}</i><i>${row.new ?? ""}</i><b>${SIGN[row.kind]}</b><span>${exact(row.text)}</span></div>`)}
    </div>
    ${rows.length > shown && html`<button class="fold" onClick=${() => setShown(shown + STEP)}>${(rows.length - shown).toLocaleString()} more lines</button>`}`;
}

export function File({ file }) {
  const long = file.additions + file.deletions > FOLD || GENERATED.test(file.path);
  const [open, setOpen] = useState(!long);
  return html`
    <details class="diff" open=${open} onToggle=${(e) => setOpen(e.currentTarget.open)}>
      <summary>
        <span class="grow any mono">${file.old_path && file.old_path !== file.path ? html`${exact(file.old_path)} → ` : ""}${exact(file.path)}</span>
        ${file.status && html`<span class="pill">${exact(file.status)}</span>`}
        <span class="plus mono">+${file.additions}</span><span class="minus mono">−${file.deletions}</span>
      </summary>
      ${open && (file.binary
        ? html`<p class="small dim" style=${{ padding: "12px 14px" }}>A binary file: its bytes are not shown.</p>`
        : html`<${Lines} patch=${file.patch} />`)}
      ${open && (file.note || file.truncated) && html`<p class=${file.truncated ? "small late" : "small dim"} style=${{ padding: "8px 14px" }}>${file.note ? exact(file.note) : "Not all of it is shown."}</p>`}
    </details>`;
}

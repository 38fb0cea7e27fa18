// A stranger's text, made fit to be read: what cannot be seen, or turns the reading round, is shown as an escape.
import { html } from "./lib.js";

// Controls but for newline and tab, C1, bidi marks and overrides, zero-width and blank letters, odd spaces, tags, noncharacters.
const HIDDEN = "\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00a0\\u00ad\\u034f\\u061c\\u115f\\u1160\\u1680\\u17b4\\u17b5\\u180b-\\u180f"
  + "\\u2000-\\u200c\\u200e\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u2800\\u3000\\u3164\\ufeff\\uffa0\\ufff0-\\uffff\\u{e0000}-\\u{e0fff}";
const IN_NAMES = new RegExp(`[${HIDDEN}\\ud800-\\udfff\\u200d\\ufe00-\\ufe0f]`, "gu"); // joiners and variants too: nobody needs them in a command
const IN_PROSE = new RegExp(`[${HIDDEN}\\ud800-\\udfff]`, "gu");
const COLOURS = /\x1b\[[0-9;:]*m/g;
const BEYOND_ASCII = /[^\x00-\x7f]/gu;

const code = (char) => "U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

function escaped(text, pattern) {
  const parts = [];
  let last = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index > last) parts.push(text.slice(last, found.index));
    parts.push(html`<span class="esc" title="an invisible character">${code(found[0])}</span>`);
    last = found.index + found[0].length;
  }
  if (!parts.length) return text;
  parts.push(text.slice(last));
  return parts;
}

/** For names, commands, paths: everything that is not plainly visible becomes an escape. */
export const exact = (text) => escaped(String(text ?? ""), IN_NAMES);

/** For what agents say: colours of terminals are dropped, other controls shown. */
export const prose = (text) => escaped(String(text ?? "").replace(COLOURS, ""), IN_PROSE);

/** For one line: newlines are shown too, so that nothing hides below. */
export const line = (text) => escaped(String(text ?? "").replaceAll("\n", " ⏎ ").replaceAll("\t", " "), IN_NAMES);

/** Letters beyond ASCII in a command, named: one of them may only look like another. */
export function lookalikes(text) {
  return [...new Set(String(text ?? "").match(BEYOND_ASCII) || [])].slice(0, 12).map((char) => `${code(char)}`);
}

export function ago(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}`;
  return `${Math.floor(s / 86400)} d`;
}

export const clock = (instant) => instant ? new Date(instant).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }) : "";
export const day = (instant) => instant ? new Date(instant).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "";
export const count = (n, one, many = one + "s") => `${n.toLocaleString()} ${n === 1 ? one : many}`;
export const bytes = (n) => n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 1048576).toFixed(1)} MiB`;

// What is known here: a snapshot, then every change as it happens. Rows remember when they came, so that ages go on.
import { signal, computed } from "./lib.js";
import { get, follow } from "./wire.js";
import { session, signedIn } from "./session.js";

/** live, away, or starting. */
export const link = signal("starting");
/** Why it is away, in the server's words, when it said any. */
export const trouble = signal("");
/** Seconds since the page began; ticks once a second and drives every age. */
export const now = signal(performance.now() / 1000);
setInterval(() => { if (!document.hidden) now.value = performance.now() / 1000; }, 1000);

/** The age of a row, which it stated when it came. */
export const aged = (row, field = "age_s") => row[field] === null || row[field] === undefined ? null : row[field] + Math.max(0, now.value - row.got);

/** One noun's rows by id. Readers subscribe to `version`; a burst of changes makes one redraw. */
class Table {
  #due = false;
  #touched = new Set();

  constructor() {
    this.rows = new Map();
    this.version = signal(0);
    this.loaded = signal(false);
  }

  get(id) {
    this.version.value;
    return this.rows.get(id);
  }

  list() {
    this.version.value;
    return [...this.rows.values()];
  }

  put(row) {
    const before = this.rows.get(row.id);
    this.rows.set(row.id, { ...row, got: performance.now() / 1000, watched: before?.watched || before?.active });
    this.#touched.add(row.id);
    this.#redraw();
  }

  drop(id) {
    this.rows.delete(id);
    this.#touched.add(id);
    this.#redraw();
  }

  /** A snapshot begins: what changes from here on is newer than it. */
  begin() {
    this.#touched.clear();
  }

  take(rows) {
    const got = performance.now() / 1000;
    for (const row of rows) if (!this.#touched.has(row.id)) this.rows.set(row.id, { ...row, got, watched: this.rows.get(row.id)?.watched });
    this.#redraw();
  }

  /** The snapshot is whole: what it did not name, and nothing named since, is gone. */
  finish(ids, keep = () => false) {
    for (const [id, row] of this.rows) if (!ids.has(id) && !this.#touched.has(id) && !keep(row)) this.rows.delete(id);
    this.loaded.value = true;
    this.#redraw();
  }

  #redraw() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => { this.#due = false; this.version.value++; });
  }
}

export const runs = new Table();
export const approvals = new Table();
export const orders = new Table();
export const machines = new Table();
/** What this page told machines to do, and what became of it. */
export const instructions = new Table();
const ordered = new Set();
const TABLES = { run: runs, approval: approvals, order: orders, machine: machines, instruction: instructions };
/** Receipts come one by one; whoever shows an order asks again when this moves. */
export const receipts = signal(0);

export const waiting = computed(() => approvals.list().filter((a) => a.state === "open"));

export const ENDED = new Set(["succeeded", "failed", "stopped", "interrupted", "refused"]);
export const problem = signal("");

async function snapshot() {
  for (const table of [runs, approvals, orders, machines]) table.begin();
  try {
    const [questions, stops, fleet] = await Promise.all([get("/approvals"), get("/orders"), get("/machines")]);
    for (const [table, rows] of [[approvals, questions.approvals], [orders, stops.orders], [machines, fleet.machines]]) {
      table.take(rows);
      table.finish(new Set(rows.map((row) => row.id)));
    }
    const seen = new Set();
    for (let after = ""; after !== null;) {
      const page = await get(`/runs?limit=${seen.size ? 2000 : 200}${after ? `&after=${encodeURIComponent(after)}` : ""}`);
      runs.take(page.runs);
      for (const row of page.runs) seen.add(row.id);
      after = page.next;
    }
    runs.finish(seen, (row) => !row.active);
    problem.value = "";
  } catch (error) {
    problem.value = error.message;
  }
}

let close = null;

/** Look, from now on. */
export function open() {
  close?.();
  close = follow("/events", {
    link: (state, why = "") => { link.value = state; trouble.value = why; },
    refused: (error) => { problem.value = error.message; },
    event(name, data) {
      if (name === "hello" || name === "reset") return void snapshot();
      if (name === "late") return void late(data.machines);
      if (name === "receipt") receipts.value++;
      if (name === "person") return void again();
      if (name === "instruction" && !ordered.has(data.id)) return;
      const table = TABLES[name];
      if (!table) return;
      if (data.gone) table.drop(data.id);
      else table.put(data);
    },
  });
}

/** Somebody came, went or changed: what that means for who looks here, and whether they are alone. */
async function again() {
  try {
    signedIn(await get("/session"));
  } catch (error) {
    if (session.value) problem.value = error.message;
  }
}

/** Machines that fell silent, with the age of their last sign of life; every other one is alive. */
export const silent = signal(new Map());
function late(ages) {
  silent.value = new Map(Object.entries(ages).map(([id, age]) => [id, { age_s: age, got: performance.now() / 1000 }]));
}

export function shut() {
  close?.();
  close = null;
  for (const table of Object.values(TABLES)) { table.begin(); table.finish(new Set()); table.loaded.value = false; }
}

/** Keep an eye on an instruction that was just given. */
export function mind({ instruction }) {
  ordered.add(instruction.id);
  instructions.put(instruction);
  return instruction.id;
}

/** Fetch one thing that the snapshot left out, an ended run for example. */
export async function need(table, path, pick) {
  const row = pick(await get(path));
  table.put(row);
  return row;
}

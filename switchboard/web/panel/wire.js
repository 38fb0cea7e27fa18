// Talks to the server: requests with the secrets that prove them, and event streams that come back by themselves.
import { session, signedOut } from "./session.js";

const V1 = "/api/v1";

/** What the server refused, in its own words. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.details = body;
  }
}

/** Ask the server. Throws Refused with its sentence, or with one of ours when it cannot be reached. */
export async function api(method, path, body) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  const { csrf, page_secret } = session.value || {};
  if (method !== "GET") {
    if (csrf) headers["x-csrf-token"] = csrf;
    if (page_secret) headers["x-page-secret"] = page_secret;
  }
  let response;
  try {
    response = await fetch(V1 + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, { error: "the switchboard cannot be reached: nothing was sent" });
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  if (response.status === 401 && session.value) signedOut();
  throw new Refused(response.status, answer);
}

export const get = (path) => api("GET", path);
export const post = (path, body = {}) => api("POST", path, body);

/**
 * Follow an event stream until `close()`. It is let go while the tab is hidden, because a browser holds six connections to
 * one server, and taken up again where it was.
 */
export function follow(path, on) {
  let after = on.after ?? "", cut = null, over = false, wait = 250, timer = 0;

  async function once() {
    cut = new AbortController();
    const address = new URL(V1 + path, location.origin);
    if (after) address.searchParams.set("after", after);
    const response = await fetch(address, { headers: { accept: "text/event-stream" }, signal: cut.signal });
    if (response.status === 401) return signedOut();
    if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
    on.link?.("live");
    wait = 250;
    for await (const event of frames(response.body)) {
      if (event.id) after = event.id;
      if (over) return;
      try {
        on.event(event.event, event.data, event.id);
      } catch (error) {
        reportError(error); // a mistake of ours, which must not look like a cut line
      }
      if (event.event === "end") return close();
      if (event.event === "reset") after = "";
    }
  }

  async function loop() {
    while (!over && !document.hidden) {
      let why = "";
      try {
        await once();
      } catch (error) {
        why = error instanceof Refused ? error.message : "";
        if (over || document.hidden) break;
        if (error instanceof Refused && [403, 404].includes(error.status)) {
          on.refused?.(error);
          return close();
        }
        // The server went away, or the network did: come back, a little later each time, never all at once.
      }
      if (over || document.hidden) break;
      on.link?.("away", why);
      await new Promise((done) => { timer = setTimeout(done, wait * (0.5 + Math.random() / 2)); wake = done; });
      wait = Math.min(wait * 2, 5000);
    }
    running = false;
  }

  let running = false, wake = null;
  const start = () => { if (!running && !over && !document.hidden) { running = true; loop(); } };
  const seen = () => { if (document.hidden) { cut?.abort(); wake?.(); } else { wait = 250; wake?.(); start(); } };
  const online = () => { wait = 250; wake?.(); start(); };
  document.addEventListener("visibilitychange", seen);
  addEventListener("online", online);
  function close() {
    over = true;
    clearTimeout(timer);
    cut?.abort();
    wake?.();
    document.removeEventListener("visibilitychange", seen);
    removeEventListener("online", online);
  }
  start();
  return close;
}

/** Cut a byte stream into server-sent events. */
export async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const frame = { event: "message", data: null, id: "" };
        for (const line of rest.slice(0, end).split("\n")) {
          if (line.startsWith("event: ")) frame.event = line.slice(7);
          else if (line.startsWith("id: ")) frame.id = line.slice(4);
          else if (line.startsWith("data: ")) frame.data = JSON.parse(line.slice(6));
        }
        rest = rest.slice(end + 2);
        if (frame.data !== null) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

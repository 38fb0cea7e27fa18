// Who looks. The page secret stays in this origin's own storage: a server on another port gets the cookie, never this.
import { signal, computed } from "./lib.js";

const KEY = "switchboard.page-secret";

/** undefined: not asked yet; null: nobody; else who, with csrf and page_secret. */
export const session = signal(undefined);
export const solo = computed(() => Boolean(session.value?.solo));
export const may = (permission) => Boolean(session.value?.permits?.includes(permission));

/** Take what a sign-in gave, or what GET /session says of one from before. */
export function signedIn(about) {
  if (about.page_secret) localStorage.setItem(KEY, about.page_secret);
  session.value = { ...about, page_secret: about.page_secret || localStorage.getItem(KEY) || "" };
}

export function signedOut() {
  localStorage.removeItem(KEY);
  session.value = null;
}

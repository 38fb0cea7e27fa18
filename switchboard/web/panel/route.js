// The address is the state: which screen, which run. Links are real links; this keeps the page from loading again.
import { signal } from "./lib.js";

export const path = signal(location.pathname);

export function go(to, { replace = false } = {}) {
  if (to === location.pathname) return;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  path.value = location.pathname;
  scrollTo(0, 0);
}

addEventListener("popstate", () => { path.value = location.pathname; });
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (link.origin !== location.origin || link.target || link.pathname.startsWith("/api/")) return;
  event.preventDefault();
  go(link.pathname);
});

export const at = (kind, id) => `/${kind}/${encodeURIComponent(id)}`;

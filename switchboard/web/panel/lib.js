// The only file that knows where the libraries are.
export { h, render, Fragment, Component } from "./vendor/preact.js";
export { useEffect, useLayoutEffect, useRef, useState, useMemo, useCallback } from "./vendor/preact-hooks.js";
export { signal, computed, effect, batch, useSignal, useComputed } from "./vendor/signals.js";
import { h } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);

// Colours of the style sheet for what is drawn on a canvas, and the switch between light and dark.
import { find, mark, put } from "./dom.js";

const KEY = "gpumon-theme";
const NAMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
let known = new Map();
const listeners = [];

/** Give a colour of the style sheet by its name. */
export function colour(name) {
  let value = known.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    known.set(name, value);
  }
  return value;
}

/** Call something whenever the colours have changed. */
export const onColours = (listener) => listeners.push(listener);

function changed() {
  known = new Map();
  for (const listener of listeners) listener();
}

/** Let the button switch from the system's theme to light, dark and back. */
export function startTheme() {
  const root = document.documentElement;
  const button = find("theme");
  const tell = () => {
    put(find("theme-name"), NAMES[root.dataset.theme]);
    mark(button, "title", NAMES[root.dataset.theme]);
  };
  button.addEventListener("click", () => {
    const names = Object.keys(NAMES);
    root.dataset.theme = names[(names.indexOf(root.dataset.theme) + 1) % names.length];
    try {
      localStorage.setItem(KEY, root.dataset.theme);
    } catch {
      // Storage is switched off: the choice holds for this page.
    }
    tell();
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  tell();
}

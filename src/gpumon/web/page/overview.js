// All GPUs at once: a card each, and the sums above them.
import { find, keep, make, mark, put, show } from "./dom.js";
import { count, gibibytes, percent, power, shortName, celsius } from "./format.js";
import { gauge } from "./gauge.js";
import { GAUGES } from "./readings.js";
import { spark } from "./spark.js";
import { CATEGORIES, alertName } from "./words.js";

// Pixels: below this a card's bars are too short to compare; the gap is the style sheet's.
const [NARROWEST, GAP] = [255, 10];
// Further down the window than this nobody sees that the detail has changed.
const FAR = 0.8;
const STEP = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: "row", ArrowUp: "-row", Home: "first", End: "last" };

/** Show all GPUs; `choose` is called with the id of one that was picked. */
export function overview(live, choose) {
  const grid = find("cards");
  grid.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    choose(card.dataset.key);
    // On a telephone the detail is far below.
    const top = find("detail").getBoundingClientRect().top;
    if (top > FAR * innerHeight) find("detail").scrollIntoView({ block: "start" });
  });
  grid.addEventListener("keydown", (event) => move(grid, event));
  new ResizeObserver(fit).observe(grid);

  /** Let all rows be of the same length where that is possible: eight cards are two rows of four, not five and three. */
  function fit() {
    const many = grid.children.length;
    const most = Math.max(1, Math.floor((grid.clientWidth + GAP) / (NARROWEST + GAP)));
    const columns = Math.ceil(many / Math.ceil(many / most)) || 1;
    const wanted = `repeat(${columns}, minmax(0, 1fr))`;
    if (grid.style.gridTemplateColumns !== wanted) grid.style.gridTemplateColumns = wanted;
  }

  return {
    update(node, chosen) {
      put(find("sums"), sums(node.gpus));
      grid.dataset.many = node.gpus.length === 1 ? "one" : node.gpus.length > 8 ? "many" : "some";
      show(find("no-gpus"), node.gpus.length === 0);
      keep(grid, node.gpus, (one) => one.id, card);
      fit();
      for (const element of grid.children) {
        const picked = element.dataset.key === chosen;
        mark(element.button, "aria-pressed", `${picked}`);
        element.spark.draw(live.of(element.dataset.key), node.time);
      }
    },
    draw(now) {
      for (const element of grid.children) element.spark.draw(live.of(element.dataset.key), now);
    },
  };
}

function card() {
  const title = make("span", { class: "title" });
  const state = make("span", { class: "state" });
  const name = make("span", { class: "product" });
  const button = make("button", { type: "button", class: "pick", "aria-pressed": "false" }, title, " ", name);
  const canvas = make("canvas", { class: "spark", "aria-hidden": "true" });
  const gauges = GAUGES.map(gauge);
  const who = make("p", { class: "who" });
  const element = make("div", { class: "card" }, make("div", { class: "head" }, button, state), canvas, ...gauges, who);
  element.button = button;
  element.spark = spark(canvas);
  element.update = (one) => {
    put(title, `GPU ${one.id}`);
    put(name, shortName(one.name));
    const [words, grade] = stateOf(one);
    put(state, words);
    mark(state, "data-grade", grade);
    mark(element, "data-grade", grade);
    for (const each of gauges) each.update(one);
    put(who, whoUses(one));
  };
  return element;
}

/** Give what is to be said of a GPU's state in two words, and how bad it is. */
export function stateOf(one) {
  if (!one.up) return [one.trouble, "bad"];
  const alert = (severity) => one.alerts.find((each) => each.severity === severity);
  if (alert("critical")) return [alertName(alert("critical").alert), "bad"];
  if (one.trouble) return [one.trouble, "warn"];
  if (alert("warning")) return [alertName(alert("warning").alert), "warn"];
  return ["", "calm"];
}

function whoUses(one) {
  const working = one.workloads.filter((each) => each.category !== "idle" && each.processes > 0);
  working.sort((a, b) => (b.memory_used_bytes ?? 0) - (a.memory_used_bytes ?? 0));
  const parts = working.slice(0, 2).map((each) => {
    const where = each.pod || each.job || each.container;
    return (
      (each.category === "unknown" ? "Unknown work" : (CATEGORIES[each.category] ?? each.category)) +
      (where ? ` in ${where}` : "")
    );
  });
  if (working.length > 2) parts.push(`${working.length - 2} more`);
  if (one.migs.length) parts.push(count(one.migs.length, "MIG instance"));
  return parts.join(" · ") || (one.up ? "nobody uses it" : "");
}

/** Give the node in one line. What a GPU does not tell is left out of sum and mean, and the line says so. */
function sums(gpus) {
  const of = (column) =>
    gpus
      .filter((one) => one.up)
      .map((one) => one.gpu[column])
      .filter((value) => value !== undefined);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const of_all = (values) => (values.length < gpus.length ? ` (${values.length} of ${gpus.length})` : "");
  const [use, used, total, watts, heat] = [
    "utilization_gpu",
    "memory_used",
    "memory_total",
    "power",
    "temperature",
  ].map(of);
  const parts = [count(gpus.length, "GPU")];
  const down = gpus.filter((one) => !one.up).length;
  if (down) parts.push(`${down} down`);
  if (gpus.length < 2) return parts.join(" · ");
  if (use.length) parts.push(`${percent(sum(use) / use.length)} busy${of_all(use)}`);
  if (used.length) parts.push(`${gibibytes(sum(used))} of ${gibibytes(sum(total))} GiB${of_all(used)}`);
  if (watts.length) parts.push(`${power(sum(watts))}${of_all(watts)}`);
  if (heat.length) parts.push(`hottest ${celsius(Math.max(...heat))}`);
  return parts.join(" · ");
}

function move(grid, event) {
  const buttons = [...grid.querySelectorAll(".pick")];
  const at = buttons.indexOf(document.activeElement);
  const step = STEP[event.key];
  if (at < 0 || step === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const to = { row: at + columns, "-row": at - columns, first: 0, last: buttons.length - 1 }[step] ?? at + step;
  event.preventDefault();
  buttons[Math.min(Math.max(to, 0), buttons.length - 1)].focus();
}

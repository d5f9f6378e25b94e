// What happened, in words, newest first; and the alerts that are active now.
import { find, keep, make, mark, put, show } from "./dom.js";
import { clock, count, span, unix } from "./format.js";
import { get } from "./link.js";
import { event as wordOf } from "./words.js";

const EVERY_SECONDS = 15;
const HOURS = 24;
const MOST = 200;
// A pick of an event shows so much before it and after.
const AROUND_SECONDS = 300;

/** Show events; `chosen()` gives the GPU looked at, `pick(id, start, end)` shows one around an event, `told` gets them all. */
export function events(chosen, pick, told) {
  const only = find("only-events");
  let [list, trouble, asked, sign] = [[], "", -Infinity, ""];
  only.addEventListener("change", draw);

  function draw() {
    const id = chosen();
    const wanted = only.checked ? list.filter((event) => event.gpu_id === undefined || `${event.gpu_id}` === id) : list;
    keep(find("event-rows"), wanted, (event) => `${event.id ?? ""} ${event.time} ${event.message}`, (event) => eventRow(event, pick));
    put(find("event-note"), trouble || (wanted.length ? "" : `Nothing happened in the last ${HOURS} hours.`));
  }

  return {
    draw,
    /** Ask for the events if it is time, or if the node shows that there are new ones. */
    async update(node) {
      const now = signature(node);
      if (node.time - asked < EVERY_SECONDS && node.time >= asked && now === sign) return;
      [asked, sign] = [node.time, now];
      try {
        list = (await get("events", { hours: HOURS, limit: MOST })).events;
        trouble = "";
      } catch (error) {
        [list, trouble] = [[], error.message];
      }
      draw();
      told(list);
    },
  };
}

/** Give a text that changes when something happened that is an event. */
function signature(node) {
  const xids = node.all("gpu_xid").map((xid) => xid.xid_errors_total);
  return [...node.gpus.map((one) => `${one.up}${one.trouble}`), ...xids, ...node.alerts.map((alert) => alert.alert + alert.subject)].join();
}

function eventRow(first, pick) {
  const gpu = first.gpu_id;
  const when = make("time", { datetime: first.time });
  const word = make("span", { class: "word" });
  const message = make("span", { class: "message" });
  const advice = make("p", { class: "advice" });
  const what = gpu === undefined ? message : make("button", { type: "button", class: "message", title: `Show GPU ${gpu} around this time` }, message);
  const element = make("li", {}, when, word, what, advice);
  if (gpu !== undefined) {
    what.addEventListener("click", () => pick(`${gpu}`, unix(first.time) - AROUND_SECONDS, unix(first.time) + AROUND_SECONDS));
  }
  element.update = (event) => {
    const said = wordOf(event.kind);
    put(when, clock(unix(event.time)));
    put(word, said.word);
    mark(element, "data-grade", said.grade);
    put(message, event.message);
    put(advice, event.advice ?? "");
    show(advice, Boolean(event.advice));
  };
  return element;
}

/** Show the alerts that are active. */
export function alerts(choose) {
  return {
    update(node) {
      show(find("alerts"), node.alerts.length > 0);
      put(find("alerts-title"), count(node.alerts.length, "active alert"));
      const key = (alert) => [alert.alert, alert.gpu_uuid, alert.subject].join(" ");
      keep(find("alert-rows"), node.alerts, key, (alert) => alertRow(alert, choose));
      for (const element of find("alert-rows").children) element.tell(node.time);
    },
  };
}

function alertRow(first, choose) {
  const text = make("span");
  const gpu = first.gpu_id;
  const inner = gpu ? make("button", { type: "button", title: `Show GPU ${gpu}` }, text) : text;
  const element = make("li", {}, inner);
  if (gpu) inner.addEventListener("click", () => choose(gpu));
  let alert = first;
  element.update = (now) => {
    alert = now;
    mark(element, "data-grade", { critical: "bad", warning: "warn" }[alert.severity] ?? "calm");
  };
  element.tell = (time) => {
    const since = alert.start_timestamp_seconds;
    const about = [gpu && `GPU ${gpu}`, alert.subject].filter(Boolean).join(", ");
    const long = since === undefined ? "" : ` for ${span(time - since)}`;
    put(text, `${alert.alert.replaceAll("_", " ")}${about ? ` · ${about}` : ""}${long}`);
  };
  return element;
}

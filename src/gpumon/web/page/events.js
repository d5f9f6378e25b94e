// What happened, in words, newest first.
import { find, keep, make, mark, put, show } from "./dom.js";
import { clock, unix } from "./format.js";
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
  let [list, trouble, asked, sign, stored] = [[], "", -Infinity, "", false];
  only.addEventListener("change", draw);

  function draw() {
    const id = chosen();
    const wanted = only.checked ? list.filter((event) => event.gpu_id === undefined || `${event.gpu_id}` === id) : list;
    keep(
      find("event-rows"),
      wanted,
      (event) => `${event.id ?? ""} ${event.time} ${event.message}`,
      (event) => eventRow(event, pick),
    );
    put(find("event-note"), trouble || (wanted.length ? "" : `Nothing happened in the last ${HOURS} hours.`));
  }

  return {
    draw,
    /** Say whether events are kept anywhere. */
    set stored(kept) {
      stored = kept;
      trouble = kept ? "" : "Events are not kept (storage.enabled is false).";
      draw();
    },
    /** Ask for the events if it is time, or if the node shows that there are new ones. */
    async update(node) {
      if (!stored) return;
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
  return [
    ...node.gpus.map((one) => `${one.up}${one.trouble}`),
    ...xids,
    ...node.alerts.map((alert) => alert.alert + alert.subject),
  ].join();
}

function eventRow(first, pick) {
  const gpu = first.gpu_id;
  const when = make("time", { datetime: first.time });
  const word = make("span", { class: "word" });
  const message = make("span", { class: "message" });
  const advice = make("p", { class: "advice" });
  const what =
    gpu === undefined
      ? message
      : make("button", { type: "button", class: "message", title: `Show GPU ${gpu} around this time` }, message);
  const element = make("li", {}, when, word, what, advice);
  if (gpu !== undefined) {
    what.addEventListener("click", () =>
      pick(`${gpu}`, unix(first.time) - AROUND_SECONDS, unix(first.time) + AROUND_SECONDS),
    );
  }
  element.update = (event) => {
    const said = wordOf(event);
    put(when, clock(unix(event.time)));
    put(word, said.word);
    mark(element, "data-grade", said.grade);
    put(message, event.message);
    put(advice, event.advice ?? "");
    show(advice, Boolean(event.advice));
  };
  return element;
}

// The page: takes each snapshot from the stream and lets every part of the page show it, once per frame.
import { alerts } from "./alerts.js";
import { onColours, startTheme } from "./colours.js";
import { detail } from "./detail.js";
import { find, show } from "./dom.js";
import { events } from "./events.js";
import { follow, get, hasToken, setToken } from "./link.js";
import { Live } from "./live.js";
import { models } from "./models.js";
import { node as nodeOf } from "./node.js";
import { overview } from "./overview.js";
import { processes } from "./processes.js";
import { RANGES } from "./readings.js";
import { status } from "./status.js";

const state = { gpu: null, range: "live", zoom: null };
const live = new Live();
let stream = null;
let node = null; // as the newest snapshot shows it
let frame = 0;
let parts = null;

function readHash() {
  if (!location.hash.includes("=")) return; // a link within the page
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("gpu")) state.gpu = given.get("gpu");
  state.range = RANGES.some(({ id }) => id === given.get("range")) ? given.get("range") : "live";
}

function writeHash() {
  const hash = new URLSearchParams({
    gpu: state.gpu ?? "0",
    ...(state.range === "live" ? {} : { range: state.range }),
  });
  history.replaceState(null, "", `#${hash}`);
}

function choose(id) {
  if (id === state.gpu) return;
  Object.assign(state, { gpu: id, zoom: null });
  writeHash();
  parts.processes.draw();
  parts.events.draw();
  schedule();
}

function pick(id, start, end) {
  choose(id);
  draw();
  parts.detail.zoom(start, end);
  find("detail").scrollIntoView({ block: "start" });
}

function build() {
  const chosen = () => state.gpu;
  parts = {
    status: status(),
    overview: overview(live, choose),
    detail: detail(live, state, writeHash),
    processes: processes(chosen),
    models: models(),
    events: events(chosen, pick, (list) => (parts.detail.events = list)),
    alerts: alerts(choose),
  };
}

function schedule() {
  if (!document.hidden) frame ||= requestAnimationFrame(draw);
}

function draw() {
  cancelAnimationFrame(frame);
  frame = 0;
  // A stale snapshot has no readings: what was there stays, and the page says of when it is.
  if (node === null || node.stale) return;
  if (!node.gpus.some((one) => one.id === state.gpu)) state.gpu = node.gpus[0]?.id ?? null;
  show(find("readings"), true);
  parts.overview.update(node, state.gpu);
  parts.alerts.update(node);
  parts.models.update(node);
  const one = node.gpus.find((each) => each.id === state.gpu);
  show(find("detail"), one !== undefined);
  if (one) parts.detail.update(one, node);
  parts.processes.update(node);
  parts.events.update(node);
}

function take(snapshot) {
  node = nodeOf(snapshot);
  parts.status.heard(snapshot, node);
  live.add(node);
  schedule();
}

/** Learn what gpumon is, each time its stream has opened: it may have been restarted as another. */
async function opened() {
  const info = await get("info");
  parts.status.about(info);
  live.stored = info.storage;
  live.interval = info.poll_interval_secs;
  parts.detail.stored = info.storage;
  parts.events.stored = info.storage;
  // The store knows more than this page, which may have been away: forget, and take all from there.
  if (info.storage) live.clear();
  live.recallSparks().then(schedule, () => {}); // without it the sparks fill by themselves
}

function connect() {
  stream?.stop();
  stream = follow({ opened, snapshot: take, lost: parts.status.lost, denied: askToken });
}

function askToken() {
  show(find("wrong"), hasToken());
  setToken(null);
  show(find("readings"), false);
  show(find("sign-in"), true);
  find("token").focus();
}

find("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(find("token").value.trim());
  find("token").value = "";
  show(find("sign-in"), false);
  connect();
});

// A page that nobody sees reads nothing; what it has missed comes from the store.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.stop();
    cancelAnimationFrame(frame);
    frame = 0;
  } else if (find("sign-in").hidden) {
    connect();
    parts.detail.ask();
  }
});

addEventListener("hashchange", () => {
  readHash();
  state.zoom = null;
  parts.detail.ask();
  schedule();
});

startTheme();
readHash();
build();
onColours(schedule);
connect();

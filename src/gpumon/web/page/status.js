// How gpumon is, and how old what is shown is: in the header, and across the page when something is wrong.
import { find, mark, put, show } from "./dom.js";
import { clock, count, span } from "./format.js";

// As many ticks gpumon itself waits before it calls a snapshot stale.
const STALE_TICKS = 3;

const DRIVERS = {
  simulated: ["SIMULATED", "GPUs are simulated: no number about them is real."],
  replayed: ["REPLAYED", "GPUs are replayed from a capture: no number about them is of now."],
};

/** Keep the header. `tell` is called with the state and what is known; each second it counts the age on by itself. */
export function status() {
  const known = { info: null, node: null, age: 0, heard: 0, lostAt: null, why: "" };
  let last = "";

  function age() {
    return known.node === null ? null : known.age + (performance.now() - known.heard) / 1000;
  }

  /** Give the state, the words for the header, and how the sentence goes on across the page. */
  function state() {
    const { node, info, lostAt, why } = known;
    if (lostAt !== null) {
      return [
        "lost",
        `Disconnected since ${clock(lostAt)}`,
        ` (${why}). Trying again${node ? `; what you see is of ${clock(node.time)}` : ""}.`,
      ];
    }
    if (node === null) return ["waiting", "Connecting", ""];
    const old = `Stale: readings are ${span(age())} old`;
    if (node.stale) return ["stale", old, ": gpumon answers, but takes no readings."];
    if (age() > STALE_TICKS * (info?.poll_interval_secs ?? 2)) return ["stale", old, ": nothing has come since."];
    const down = node.gpus.filter((one) => !one.up).length;
    if (down) return ["partly", `Live, ${count(down, "GPU")} down`, ""];
    const failing = node.sources.filter((source) => source.success === 0).map((source) => source.source);
    if (failing.length) return ["partly", `Live, but not all readings of ${failing.join(" and ")}`, ""];
    return ["live", "Live", ""];
  }

  function draw() {
    const [name, words, more] = state();
    const root = document.documentElement;
    mark(root, "data-state", name);
    put(find("state"), words);
    put(find("age"), known.node === null || name === "stale" ? "" : `${span(age())} old`);
    const banner = name === "lost" || name === "stale";
    show(find("banner"), banner);
    put(find("banner"), banner ? words + more : "");
    if (name !== last) put(find("spoken"), words); // for screen readers, once per change
    last = name;
  }

  setInterval(() => document.hidden || draw(), 1000);

  return {
    draw,
    about(info) {
      known.info = info;
      put(find("host"), info.host);
      document.title = `${info.host} · gpumon`;
      mark(find("host"), "title", `gpumon ${info.version}, running since ${clock(Date.parse(info.started) / 1000)}`);
    },
    heard(snapshot, node) {
      Object.assign(known, { node, age: snapshot.age_seconds ?? 0, heard: performance.now(), lostAt: null });
      const [badge, why] = DRIVERS[snapshot.driver] ?? ["", ""];
      show(find("badge"), badge !== "");
      put(find("badge"), badge);
      mark(find("badge"), "title", why || null);
      const version = node.gpus.find((one) => one.info.driver_version)?.info.driver_version;
      put(
        find("driver"),
        { none: "no NVIDIA driver", "nvidia-smi": "by nvidia-smi" }[snapshot.driver] ??
          (version ? `driver ${version}` : ""),
      );
      draw();
    },
    lost(why) {
      known.lostAt ??= Date.now() / 1000;
      known.why = why;
      draw();
    },
  };
}

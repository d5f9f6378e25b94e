// One chart of a GPU: lines with a band from minimum to maximum, a limit, marks; by mouse, touch and keyboard.
import { colour } from "./colours.js";
import { make, mark, put, show } from "./dom.js";
import { NONE, clock, number } from "./format.js";
import { drawMarks } from "./marks.js";
import { whyMissing } from "./node.js";

const HEIGHT = 150;
const FONT = "11px system-ui, sans-serif";
// The keyboard moves the cursor by this share of the width, and zooms to this share of the span.
const STEP = 0.02;
const CLOSER = 0.5;

const HOURS = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const SECONDS = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAYS = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

// The ends of a band have no line of their own.
const EDGE = { width: 0, points: { show: false } };

function times(plot, splits, _axis, _space, step) {
  const form = step < 60 ? SECONDS : step < 86_400 ? HOURS : DAYS;
  return splits.map((at) => {
    const moment = new Date(1000 * at);
    return form === HOURS && moment.getHours() + moment.getMinutes() === 0 ? DAYS.format(moment) : form.format(moment);
  });
}

/**
 * Give a chart of a row of CHARTS. `on.zoom` gets the ends of a stretch that was picked, `on.reset` is told to go back,
 * `on.cursor` gets the time under the cursor or null. All charts share one cursor.
 */
export function chart(row, on) {
  const factor = row.factor ?? 1;
  const when = make("span");
  const keys = row.lines.map((line) => make("span", { class: `key is-${line.colour}` }));
  const ending = make("span");
  const readout = make("span", { class: "readout" }, when, ...keys, ending);
  const reason = make("p", { class: "reason note", hidden: true });
  const box = make("div", { class: "plot" });
  const element = make(
    "figure",
    { class: "chart", tabindex: "0", "aria-keyshortcuts": "ArrowLeft ArrowRight + - Escape" },
    make("figcaption", {}, make("span", { class: "title" }, row.title), readout),
    box,
    reason,
  );
  const state = { gpu: {}, window: [0, 1], marks: [], data: [[]], banded: false };
  let plot = null;

  const limit = () => row.limit?.(state.gpu);

  function build() {
    plot?.destroy();
    const per = state.banded ? 3 : 1;
    const series = row.lines.flatMap((line) => [
      { stroke: () => colour(line.colour), width: 1.5, points: { show: false } },
      ...(state.banded ? [EDGE, EDGE] : []),
    ]);
    const bands = state.banded
      ? row.lines.map((line, i) => ({ series: [per * i + 3, per * i + 2], fill: () => colour(`${line.colour}-soft`) }))
      : [];
    const axis = {
      stroke: () => colour("muted"),
      grid: { stroke: () => colour("line"), width: 1 },
      ticks: { show: false },
      font: FONT,
    };
    plot = new uPlot(
      {
        width: Math.max(box.clientWidth, 100),
        height: HEIGHT,
        padding: [6, 4, 0, 0],
        legend: { show: false },
        cursor: {
          drag: { x: true, y: false, setScale: false },
          sync: { key: "gpu", scales: ["x", null], setSeries: false },
          points: { size: 6, show: (u, i) => (state.banded && (i - 1) % 3 ? document.createElement("i") : undefined) },
          bind: { dblclick: () => () => on.reset() },
          y: false,
        },
        scales: { x: { time: true }, y: { range: ends } },
        axes: [
          { ...axis, size: 24, space: 70, values: times },
          { ...axis, size: 44, space: 34, values: (u, splits) => splits.map((split) => number(split)) },
        ],
        series: [{}, ...series],
        bands,
        hooks: {
          drawClear: [(u) => drawMarks(u, state.marks, colour)],
          draw: [drawLimit],
          setSelect: [picked],
          setCursor: [(u) => (tell(), on.cursor(u.cursor.left < 0 ? null : u.posToVal(u.cursor.left, "x")))],
        },
      },
      state.data,
      box,
    );
  }

  function ends(u, low, high) {
    const [bottom, top] = row.scale(state.gpu).map((end) => (Number.isFinite(end) ? end * factor : null));
    const lowest = bottom ?? Math.min(0, low ?? 0);
    return [
      low === null ? lowest : Math.min(lowest, low),
      Math.max(top ?? 1.1 * (high ?? 1), high ?? 0, lowest + 1e-9),
    ];
  }

  function drawLimit(u) {
    const at = limit();
    if (!Number.isFinite(at)) return;
    const { ctx: pen, bbox } = u;
    const y = u.valToPos(at * factor, "y", true);
    pen.save();
    pen.strokeStyle = colour("muted");
    pen.lineWidth = devicePixelRatio;
    pen.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    pen.beginPath();
    pen.moveTo(bbox.left, y);
    pen.lineTo(bbox.left + bbox.width, y);
    pen.stroke();
    pen.restore();
  }

  function picked(u) {
    const { left, width } = u.select;
    if (width < 4) return;
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    on.zoom(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
  }

  /** Say the values under the cursor, or the newest. A line that has none is not spoken of. */
  function tell() {
    const at = plot.cursor.idx ?? null;
    const here = plot.cursor.left >= 0 && at !== null && state.data[0].length > 0;
    const per = state.banded ? 3 : 1;
    keys.forEach((key, i) => {
      const values = state.data[per * i + 1];
      const value = here ? values[at] : values.at(-1);
      const name = row.lines.length > 1 ? `${row.lines[i].name} ` : "";
      const band =
        here && state.banded && value !== null && keys.length === 1
          ? ` (${number(state.data[per * i + 2][at])} to ${number(state.data[per * i + 3][at])})`
          : "";
      put(key, name + number(value) + band);
      const known = values.some((each) => each !== null);
      show(key, known);
    });
    const top = limit();
    put(when, here ? clock(state.data[0][at]) : "");
    put(ending, ` ${row.unit}` + (!here && Number.isFinite(top) ? `, limit ${number(top * factor)}` : ""));
    mark(element, "data-here", here ? "" : null);
  }

  element.addEventListener("keydown", (event) => {
    if (!plot || event.ctrlKey || event.altKey || event.metaKey) return;
    const width = plot.over.clientWidth;
    const left = plot.cursor.left >= 0 ? plot.cursor.left : width;
    const step = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
    if (step !== undefined) {
      readout.ariaLive = "polite";
      plot.setCursor({ left: Math.min(Math.max(left + step * width, 0), width - 1), top: 10 });
    } else if (event.key === "+" || event.key === "=") {
      const [start, end] = state.window;
      const middle = plot.cursor.left >= 0 ? plot.posToVal(left, "x") : end;
      const half = ((end - start) * CLOSER) / 2;
      const from = Math.min(Math.max(middle - half, start), end - 2 * half);
      on.zoom(from, from + 2 * half);
    } else if (event.key === "-" || event.key === "Escape") {
      on.reset();
    } else return;
    event.preventDefault();
  });
  element.addEventListener("blur", () => {
    readout.ariaLive = null;
    plot?.setCursor({ left: -10, top: -10 });
  });

  // A change of width is drawn with the next frame, not once per pixel.
  new ResizeObserver(() =>
    requestAnimationFrame(
      () => plot && box.clientWidth > 0 && plot.setSize({ width: box.clientWidth, height: HEIGHT }),
    ),
  ).observe(box);

  return {
    element,
    /** Show a window [start, end] of data { times, lines: one per line of the row { average, minimum, maximum } }. */
    update(one, window, data, list) {
      const { gpu } = one;
      const banded = data.lines.some((line) => line.minimum !== undefined);
      const scaled = (values) =>
        factor === 1 ? values : values.map((value) => (value === null ? null : value * factor));
      const none = () => new Array(data.times.length).fill(null);
      const parts = banded ? ["average", "minimum", "maximum"] : ["average"];
      state.data = [
        data.times,
        ...data.lines.flatMap((line) => parts.map((part) => (line[part] ? scaled(line[part]) : none()))),
      ];
      const rebuild = plot === null || banded !== state.banded;
      Object.assign(state, { gpu, window, banded, marks: list });
      const cursor = plot?.cursor.left ?? -1;
      if (rebuild) build();
      plot.batch(() => {
        if (!rebuild) plot.setData(state.data, false);
        plot.setScale("x", { min: window[0], max: window[1] });
        if (rebuild && cursor >= 0) plot.setCursor({ left: cursor, top: 10 }); // who reads values goes on reading
      });
      tell();
      const missing = row.lines.every((line) => gpu[line.column] === undefined) && keys.every((key) => key.hidden);
      show(reason, missing);
      show(readout, !missing);
      if (missing) put(reason, `${NONE} ${whyMissing(one, row.lines[0].metric)}`);
      mark(element, "aria-label", `${row.title}: ${missing ? reason.textContent : readout.textContent}`);
    },
    redraw: () => plot?.redraw(false),
  };
}

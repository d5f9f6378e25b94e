// One GPU in detail: its charts over a span of time, its facts, its MIG instances.
import { chart } from "./chart.js";
import { onColours } from "./colours.js";
import { find, keep, make, mark, put, show } from "./dom.js";
import { NONE, clock, gibibytes, ratio, shortName } from "./format.js";
import { get } from "./link.js";
import { LIVE_SECONDS, query } from "./live.js";
import { markAt, marks } from "./marks.js";
import { whyMissing } from "./node.js";
import { stateOf } from "./overview.js";
import { CHARTS, FACTS, RANGES } from "./readings.js";

// A chart is some 400 dots wide; more points than that are not seen.
const POINTS = 360;
const MARKS = 500;
// History that nobody has zoomed into is asked for again after a step of it, but not more often than this.
const REFRESH_SECONDS = 10;
// Within so many hundredths of the window the cursor is at a mark.
const REACH = 0.01;

/** Show one GPU. `state` holds range and zoom; `changed` is called when the reader has picked another. */
export function detail(live, state, changed) {
  const view = {
    one: null,
    node: null,
    now: 0,
    events: [],
    history: null,
    asked: null,
    due: 0,
    marks: [],
    window: [0, 0],
  };
  const charts = CHARTS.map((row) => chart(row, { zoom, reset: () => zoom(null), cursor }));
  find("charts").append(...charts.map((each) => each.element));
  find("ranges").append(...RANGES.map(radio));
  find("reset").addEventListener("click", () => zoom(null));
  onColours(() => charts.forEach((each) => each.redraw()));
  const facts = FACTS.map((row) => ({ row, value: make("dd") }));
  find("facts").append(...facts.map(({ row, value }) => make("div", {}, make("dt", {}, row.name), value)));

  function radio(range) {
    const input = make("input", { type: "radio", name: "range", value: range.id, id: `range-${range.id}` });
    input.addEventListener("change", () => {
      Object.assign(state, { range: range.id, zoom: null });
      ask();
      changed();
    });
    return make("span", {}, input, make("label", { for: `range-${range.id}` }, range.name));
  }

  function zoom(start, end) {
    if (start === null && state.zoom === null) return;
    // Closer than two ticks there is nothing to see.
    state.zoom = start === null || end - start < 5 ? null : { start, end: Math.min(end, view.now) };
    ask();
    changed();
  }

  const isLive = () => state.range === "live" && (state.zoom === null || !live.stored);

  function wanted() {
    const range = RANGES.find((each) => each.id === state.range);
    return state.zoom ?? { hours: range.hours };
  }

  /** Ask the store for what is to be seen; what is shown stays until it has answered, and is dimmed if it is something else. */
  async function ask(again = false) {
    const { one } = view;
    const asked = one === null || isLive() ? null : { id: one.id, ...wanted() };
    view.asked = asked;
    mark(find("charts"), "aria-busy", asked === null || again ? null : "true");
    if (asked === null) {
      view.history = null;
      return draw();
    }
    view.due = Infinity;
    try {
      const [data, told] = await Promise.all([
        live.past(one.id, asked, POINTS),
        get("events", { ...query(asked), gpu_id: one.id, limit: MARKS }),
      ]);
      if (view.asked !== asked) return; // something else is wanted by now
      const end = asked.end ?? view.now;
      view.history = {
        id: one.id,
        data,
        marks: marks(told.events, one.id, view.node),
        window: [asked.start ?? end - 3600 * asked.hours, end],
      };
      view.due = view.now + Math.max(data.step_seconds, REFRESH_SECONDS);
      put(find("chart-trouble"), data.times.length === 0 ? "Nothing is stored of this time." : "");
    } catch (error) {
      if (view.asked !== asked) return;
      view.history = null;
      view.due = view.now + REFRESH_SECONDS;
      put(find("chart-trouble"), `History cannot be shown: ${error.message}`);
    }
    mark(find("charts"), "aria-busy", null);
    draw();
  }

  function draw() {
    const { one, history } = view;
    if (one === null) return;
    const window = isLive()
      ? state.zoom
        ? [state.zoom.start, state.zoom.end]
        : [view.now - LIVE_SECONDS, view.now]
      : history?.window;
    if (isLive()) put(find("chart-trouble"), "");
    const series = live.of(one.id);
    view.marks = isLive() ? marks(view.events, one.id, view.node) : (history?.marks ?? []);
    view.window = window ?? [view.now - 1, view.now];
    charts.forEach((each, i) => {
      const columns = CHARTS[i].lines.map((line) => line.column);
      const data = isLive()
        ? { times: series.times, lines: columns.map((column) => ({ average: series.columns[column] })) }
        : {
            times: history?.data.times ?? [],
            lines: columns.map((column) => history?.data.series[column] ?? { average: null, minimum: null }),
          };
      each.update(one, view.window, data, view.marks);
    });
    show(find("reset"), state.zoom !== null);
    put(find("span"), `${clock(view.window[0])} to ${clock(view.window[1])}`);
  }

  function cursor(time) {
    const [start, end] = view.window;
    const near = time === null ? undefined : markAt(view.marks, time, REACH * (end - start));
    put(find("mark-note"), near ? `${clock(near.time)} ${near.word}: ${near.message}` : "");
  }

  function head(one) {
    put(find("gpu-title"), `GPU ${one.id}: ${shortName(one.name)}`);
    const [words, grade] = stateOf(one);
    put(find("gpu-state"), words);
    mark(find("gpu-state"), "data-grade", grade);
    for (const { row, value } of facts) {
      const missing = (row.metric && one.gpu[row.column] === undefined) || (!one.up && !row.lasting);
      put(value, missing ? `${NONE} (${whyMissing(one, row.metric)})` : row.text(one));
    }
    show(find("migs"), one.migs.length > 0);
    keep(find("mig-rows"), one.migs, (mig) => mig.mig_uuid, migRow);
  }

  function migRow() {
    const cells = Array.from({ length: 4 }, () => make("td"));
    const name = make("th", { scope: "row" });
    const element = make("tr", {}, name, ...cells);
    element.update = (mig) => {
      const info = view.one.migInfos.find((each) => each.mig_uuid === mig.mig_uuid);
      put(name, info?.profile || mig.mig_uuid);
      put(cells[0], `${mig.gpu_instance_id}/${mig.compute_instance_id}`);
      put(cells[1], `${gibibytes(mig.memory_used_bytes)} / ${gibibytes(mig.memory_total_bytes)} GiB`);
      put(cells[2], ratio(mig.sm_active_ratio));
      put(cells[3], ratio(mig.tensor_active_ratio));
      mark(
        cells[2],
        "title",
        mig.sm_active_ratio === undefined ? whyMissing(view.one, "gpumon_mig_sm_active_ratio") : null,
      );
    };
    return element;
  }

  return {
    /** Show a GPU as it is now. */
    update(one, node) {
      const other = view.one?.id !== one.id;
      Object.assign(view, { one, node, now: node.time });
      head(one);
      find(`range-${state.range}`).checked = true;
      live.recall(one.id).then((more) => more && view.one.id === one.id && draw());
      if (other) {
        view.history = null;
        ask();
      } else if (!isLive() && state.zoom === null && node.time >= view.due) ask(true);
      else if (isLive()) draw();
    },
    set events(events) {
      view.events = events;
    },
    /** Offer the past only where it is kept. */
    set stored(stored) {
      for (const { id } of RANGES) find(`range-${id}`).disabled = !stored && id !== "live";
      show(find("no-store"), !stored);
    },
    zoom,
    ask,
  };
}

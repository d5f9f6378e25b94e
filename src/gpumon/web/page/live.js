// What this page has seen: the last minutes of every GPU, from the stream, with what the store has of the time before.
import { iso, unix } from "./format.js";
import { get } from "./link.js";
import { COLUMNS } from "./readings.js";

export const LIVE_SECONDS = 600;
// What a spark shows: utilisation; of a GPU in MIG mode, which has none, how busy its multiprocessors are.
export const SPARK = [
  { column: "utilization_gpu", top: 100 },
  { column: "sm_active_ratio", top: 1 },
];
// A spark is some 250 dots wide.
const SPARK_POINTS = 120;
// More than this between two readings is a gap, in ticks.
const GAP_TICKS = 3.5;

/** The last minutes, per GPU as { times, columns }: arrays of the same length, null where a reading is missing. */
export class Live {
  #gpus = new Map();
  #interval = 2;

  /** Whether there is a store to ask. */
  stored = false;

  /** Forget everything, as after a pause in which nothing was read. */
  clear() {
    this.#gpus.clear();
  }

  set interval(seconds) {
    this.#interval = seconds;
  }

  /** Add a snapshot; one that is not newer adds nothing, unless the clock was set back. */
  add(node) {
    if (node.stale) return;
    for (const { id, gpu } of node.gpus) {
      // A clock that was set back: what was seen before cannot be drawn on the same axis.
      if (node.time < this.of(id).times.at(-1) - GAP_TICKS * this.#interval) this.#gpus.delete(id);
      const series = this.of(id);
      const last = series.times.at(-1);
      if (last !== undefined && node.time <= last) continue;
      if (last !== undefined && node.time - last > GAP_TICKS * this.#interval) push(series, last + this.#interval, {});
      push(series, node.time, gpu);
      trim(series, node.time - LIVE_SECONDS);
    }
  }

  /** Give the last minutes of a GPU. */
  of(id) {
    let series = this.#gpus.get(id);
    if (!series) {
      series = empty();
      this.#gpus.set(id, series);
    }
    return series;
  }

  /** Put what the store knows of a GPU before what was seen here, once; says whether there is something new to draw. */
  async recall(id) {
    const series = this.of(id);
    if (series.recalled || !this.stored) return false;
    series.recalled = true;
    try {
      const chart = await this.past(id, { hours: LIVE_SECONDS / 3600 }, LIVE_SECONDS / 2);
      prepend(series, chart.times, (column) => chart.series[column]?.average);
    } catch {
      return false; // without the past, the live minutes fill by themselves
    }
    return true;
  }

  /** Put what sparks show, as the store knows it, before what was seen here, for all GPUs at once. */
  async recallSparks() {
    if (!this.stored) return;
    const columns = SPARK.map(({ column }) => column).join(",");
    const past = await get("historical", { hours: LIVE_SECONDS / 3600, kind: "gpu", columns, points: SPARK_POINTS });
    for (const { labels, points } of past.series) {
      const series = this.of(`${labels.gpu_id}`);
      if (series.recalled) continue;
      const times = points.map((point) => unix(point.time));
      const values = Object.fromEntries(
        SPARK.map(({ column }) => [column, points.map((point) => point[column]?.average ?? null)]),
      );
      openGaps(times, Object.values(values), past.step_seconds, this.#longest(past.step_seconds));
      prepend(series, times, (column) => values[column]);
    }
  }

  /**
   * Give a GPU's chart from the store: { times, series: { column: { average, minimum, maximum } }, step_seconds }.
   * `range` has hours, or start and end as Unix seconds.
   */
  async past(id, range, points) {
    const chart = await get("chart", { gpu_id: id, ...query(range), columns: COLUMNS.join(","), points });
    const lines = Object.values(chart.series).flatMap(Object.values);
    openGaps(chart.times, lines, chart.step_seconds, this.#longest(chart.step_seconds));
    return chart;
  }

  /** Give the longest time between two points of the store's answer that is no gap. */
  #longest(step) {
    return 1.5 * step + GAP_TICKS * this.#interval;
  }
}

/** Put nulls into lines where more than `longest` has passed, so that none is drawn over a time of which nothing is known. */
export function openGaps(times, lines, step, longest) {
  for (let i = times.length - 1; i > 0; i--) {
    if (times[i] - times[i - 1] <= longest) continue;
    times.splice(i, 0, times[i - 1] + step);
    for (const line of lines) line.splice(i, 0, null);
  }
}

/** Give a span of time as the API takes it. */
export const query = (range) =>
  "hours" in range ? { hours: range.hours } : { start: iso(range.start), end: iso(range.end) };

/** Put the past before what was seen here, in place of any past that is there. */
function prepend(series, times, valuesOf) {
  const first = series.times[series.past] ?? Infinity;
  const many = times.filter((time) => time < first).length;
  series.times.splice(0, series.past, ...times.slice(0, many));
  for (const column of COLUMNS) {
    const values = valuesOf(column)?.slice(0, many) ?? new Array(many).fill(null);
    series.columns[column].splice(0, series.past, ...values);
  }
  series.past = many;
}

/** A series is of one length throughout; its first `past` points are the store's, `recalled` says that it was asked. */
const empty = () => ({
  times: [],
  columns: Object.fromEntries(COLUMNS.map((column) => [column, []])),
  past: 0,
  recalled: false,
});

function push(series, time, gpu) {
  series.times.push(time);
  for (const column of COLUMNS) series.columns[column].push(gpu[column] ?? null);
}

function trim(series, oldest) {
  const many = series.times.findIndex((time) => time >= oldest);
  if (many <= 0) return;
  series.times.splice(0, many);
  for (const column of COLUMNS) series.columns[column].splice(0, many);
  series.past = Math.max(0, series.past - many);
}

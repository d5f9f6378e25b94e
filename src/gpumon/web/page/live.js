// What this page has seen: the last minutes of every GPU, from the stream, with what the store has of the time before.
import { iso, unix } from "./format.js";
import { get } from "./link.js";
import { COLUMNS } from "./readings.js";

export const LIVE_SECONDS = 600;
const SPARK = "utilization_gpu";
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

  /** Add a snapshot; one that is not newer adds nothing. */
  add(node) {
    if (node.stale) return;
    for (const { id, gpu } of node.gpus) {
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
      const chart = await get("chart", { gpu_id: id, hours: LIVE_SECONDS / 3600, columns: COLUMNS.join(","), points: LIVE_SECONDS / 2 });
      const until = series.first ?? Infinity;
      const many = chart.times.findIndex((time) => time >= until);
      const keep = many < 0 ? chart.times.length : many;
      const seen = series.times.findIndex((time) => time >= until);
      series.times.splice(0, Math.max(seen, 0), ...chart.times.slice(0, keep));
      for (const column of COLUMNS) {
        const past = chart.series[column]?.average.slice(0, keep) ?? new Array(keep).fill(null);
        series.columns[column].splice(0, Math.max(seen, 0), ...past);
      }
    } catch {
      return false; // without the past, the live minutes fill by themselves
    }
    return true;
  }

  /** Put the utilisation that the store knows before what was seen here, for all GPUs at once. */
  async recallSparks() {
    if (!this.stored) return;
    const past = await get("historical", { hours: LIVE_SECONDS / 3600, kind: "gpu", columns: SPARK, points: SPARK_POINTS });
    for (const { labels, points } of past.series) {
      const series = this.of(`${labels.gpu_id}`);
      if (series.recalled) continue;
      const first = series.first ?? Infinity;
      const before = points.filter((point) => unix(point.time) < first);
      const seen = Math.max(0, series.times.findIndex((time) => time >= first));
      series.times.splice(0, seen, ...before.map((point) => unix(point.time)));
      for (const column of COLUMNS) {
        series.columns[column].splice(0, seen, ...before.map((point) => point[column]?.average ?? null));
      }
    }
  }
}

const empty = () => ({ times: [], columns: Object.fromEntries(COLUMNS.map((column) => [column, []])), recalled: false });

function push(series, time, gpu) {
  series.first ??= time;
  series.times.push(time);
  for (const column of COLUMNS) series.columns[column].push(gpu[column] ?? null);
}

function trim(series, oldest) {
  const many = series.times.findIndex((time) => time >= oldest);
  if (many <= 0) return;
  series.times.splice(0, many);
  for (const column of COLUMNS) series.columns[column].splice(0, many);
}

/** Give a GPU's chart from the store: { times, series: { column: { average, minimum, maximum } }, step_seconds }. */
export function past(id, range, points) {
  const span = "hours" in range ? { hours: range.hours } : { start: iso(range.start), end: iso(range.end) };
  return get("chart", { gpu_id: id, ...span, columns: COLUMNS.join(","), points });
}

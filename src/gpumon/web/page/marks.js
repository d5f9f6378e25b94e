// What happened, as marks on a time axis: moments, and spans from the beginning of something to its end.
import { unix } from "./format.js";
import { ends, event as wordOf } from "./words.js";

const BEGINS = /(_start|_lost|_firing|_active|_begin)$/;
const SHOWN = new Set(["bad", "warn"]);

const stem = (kind) => kind.replace(/_(start|end|lost|back|firing|resolved|active|begin|over|cleared)$/, "");
const same = (event) =>
  [stem(event.kind), event.gpu_id ?? "", stem(event.kind) === "alert" ? event.subject : ""].join("|");

/**
 * Give the marks of a GPU's events, newest first as the API has them, as { time, end, grade, word, message }, oldest first.
 * `end` is null for a moment, and `now` for what has not ended; of what began before gpumon `started` nobody has seen the end.
 * `fault` is whether it is the device's own state, not somebody's judgement of it.
 */
export function marks(events, id, { time: now, started }) {
  const found = [];
  const open = new Map();
  for (const event of events.toReversed()) {
    if (event.gpu_id === undefined || `${event.gpu_id}` !== id) continue;
    const { word, grade } = wordOf(event);
    if (ends(event.kind)) {
      const begun = open.get(same(event));
      if (begun) begun.end = unix(event.time);
      open.delete(same(event));
    } else if (SHOWN.has(grade)) {
      const time = unix(event.time);
      const lasts = BEGINS.test(event.kind);
      const fault = stem(event.kind) !== "alert";
      const mark = { time, end: lasts && time >= started ? now : null, grade, word, message: event.message, fault };
      found.push(mark);
      if (lasts) open.set(same(event), mark);
    }
  }
  return found;
}

// Pixels of a triangle and of a bar.
const [HEIGHT, BAR] = [7, 3];

/** Draw marks into a chart: moments as a line with a triangle, spans as a bar: on the axis and with a shade, alerts at the top. */
export function drawMarks(plot, list, colour) {
  const { ctx: pen, bbox } = plot;
  const scale = devicePixelRatio;
  const { min, max } = plot.scales.x;
  const right = bbox.left + bbox.width;
  const bottom = bbox.top + bbox.height;
  pen.save();
  for (const { time, end, grade, fault } of list) {
    if ((end ?? time) < min || time > max) continue;
    const from = Math.max(plot.valToPos(time, "x", true), bbox.left);
    pen.fillStyle = pen.strokeStyle = colour(grade);
    if (end !== null) {
      const width = Math.max(Math.min(plot.valToPos(end, "x", true), right) - from, 2 * scale);
      if (fault) {
        pen.globalAlpha = 0.1;
        pen.fillRect(from, bbox.top, width, bbox.height);
        pen.globalAlpha = 1;
      }
      pen.fillRect(from, fault ? bottom - BAR * scale : bbox.top, width, BAR * scale);
    }
    if (time < min) continue;
    pen.lineWidth = scale;
    pen.setLineDash([3 * scale, 3 * scale]);
    pen.beginPath();
    pen.moveTo(from, bbox.top);
    pen.lineTo(from, bottom);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(from, bottom - HEIGHT * scale);
    pen.lineTo(from + 5 * scale, bottom);
    pen.lineTo(from - 5 * scale, bottom);
    pen.fill();
  }
  pen.restore();
}

/** Give what to say of the mark nearest to a time, if it is within `reach` seconds or lasts over it. */
export function markAt(list, time, reach) {
  const near = list.filter(
    (mark) => Math.abs(mark.time - time) <= reach || (mark.time <= time && time <= (mark.end ?? mark.time)),
  );
  near.sort((a, b) => Math.abs(a.time - time) - Math.abs(b.time - time));
  return near[0];
}

// Numbers, times and words for people. What is not known is a dash, never 0.

export const NONE = "–";
const GIB = 2 ** 30;

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Give a number with three digits that count, and a unit after it. */
export function number(value, unit = "") {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
  return value.toFixed(digits) + unit;
}

export const whole = (value, unit = "") => (known(value) ? Math.round(value) + unit : NONE);
export const percent = (value) => whole(value, " %");
export const ratio = (value) => (known(value) ? percent(100 * value) : NONE);
export const celsius = (value) => whole(value, " °C");
export const watts = (value) => whole(value, " W");
export const gibibytes = (value) => (known(value) ? (value / GIB).toFixed(1) : NONE);

/** Give bytes in the unit that fits. */
export function bytes(value) {
  if (!known(value)) return NONE;
  if (value >= GIB / 10) return `${(value / GIB).toFixed(1)} GiB`;
  return value >= 2 ** 20 ? `${Math.round(value / 2 ** 20)} MiB` : `${Math.round(value / 1024)} KiB`;
}

/** Give hertz as megahertz, the unit in which clocks of GPUs are known. */
export const megahertz = (value) => (known(value) ? `${Math.round(value / 1e6)} MHz` : NONE);

/** Give power of one GPU or of many. */
export const power = (value) => (known(value) && value >= 10_000 ? `${(value / 1000).toFixed(1)} kW` : watts(value));

/** Give a span of seconds. */
export function span(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

/** Give seconds that may be far below one. */
export function latency(seconds) {
  if (!known(seconds)) return NONE;
  return seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** Give the time of day of Unix seconds, with the day where it is not today. */
export function clock(seconds) {
  const moment = new Date(1000 * seconds);
  const time = CLOCK.format(moment);
  return moment.toDateString() === new Date().toDateString() ? time : `${DAY.format(moment)}, ${time}`;
}

/** Give Unix seconds of an ISO time. */
export const unix = (text) => Date.parse(text) / 1000;

/** Give an ISO time of Unix seconds. */
export const iso = (seconds) => new Date(1000 * seconds).toISOString();

/** Give a product name without what every card says. */
export const shortName = (name) => name.replace(/^NVIDIA\s+/, "").replace(/^GeForce\s+/, "");

/** Give a count and its noun. */
export const count = (many, noun) => `${many} ${noun}${many === 1 ? "" : "s"}`;

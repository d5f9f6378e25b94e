// The way to gpumon: JSON by request, snapshots by a stream that is taken up again whenever it breaks.

const TOKEN = "gpumon-token";
// The stream says something every 15 s at the latest; after three times that its other end is gone without a word.
const SILENCE_MS = 45_000;
const ANSWER_MS = 15_000;
// A restart of gpumon takes a second or two; pauses beyond 5 s would be felt by whoever watches.
const PAUSES_MS = [500, 1000, 2000, 5000];

/** gpumon wants a token, or another one. */
export class DeniedError extends Error {}

/** Keep a token for as long as this tab lives; null forgets it. */
export function setToken(token) {
  if (token === null) sessionStorage.removeItem(TOKEN);
  else sessionStorage.setItem(TOKEN, token);
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

async function ask(path, signal) {
  const token = sessionStorage.getItem(TOKEN);
  const reply = await fetch(path, { headers: token === null ? {} : { Authorization: `Bearer ${token}` }, signal });
  if (reply.status === 401) throw new DeniedError("a token is needed");
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => ({}));
  throw new Error(told.error ?? `gpumon answered ${reply.status}`);
}

/** Give the answer to a GET of the API. Throws DeniedError, or an Error whose message can be shown. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  const reply = await ask(`/api/${path}?${new URLSearchParams(given)}`, AbortSignal.timeout(ANSWER_MS));
  return reply.json();
}

/**
 * Follow the stream until `stop` is called. `on.opened` is told each time it begins, `on.snapshot` gets each snapshot, `on.lost`
 * what broke the stream each time it breaks, `on.denied` is told that a token is needed, which ends it.
 */
export function follow(on) {
  const end = new AbortController();
  run(on, end.signal);
  return { stop: () => end.abort() };
}

async function run(on, end) {
  for (let failures = 0; !end.aborted;) {
    try {
      await listen(on, end, () => (failures = 0));
    } catch (error) {
      if (end.aborted) return;
      if (error instanceof DeniedError) return on.denied();
      on.lost(error.message);
      await pause(PAUSES_MS[Math.min(failures++, PAUSES_MS.length - 1)], end);
    }
  }
}

/** Read one stream to its end, which is always an error. */
async function listen(on, end, opened) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  heard();
  try {
    const reply = await ask("/api/stream", AbortSignal.any([end, silence.signal]));
    opened();
    on.opened().catch(() => {}); // if it cannot be asked, the stream will break as well
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("gpumon has ended the stream");
      heard();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      const newest = events.map(dataOf).findLast((data) => data !== "");
      if (newest) on.snapshot(JSON.parse(newest)); // those before it are passed already
    }
  } finally {
    clearTimeout(timer);
  }
}

const dataOf = (event) =>
  event
    .split("\n")
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5))
    .join("\n");

function pause(milliseconds, end) {
  return new Promise((resume) => {
    const timer = setTimeout(resume, milliseconds);
    end.addEventListener("abort", () => (clearTimeout(timer), resume()), { once: true });
  });
}

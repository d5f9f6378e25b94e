// Model servers and their models: speed, time to the first token, energy, as of the last half minute.
import { find, keep, make, mark, put, show } from "./dom.js";
import { NONE, bytes, latency, number, ratio, whole } from "./format.js";

// Long enough that a reply which comes in bursts has one speed, short enough to see it end.
const WINDOW_SECONDS = 30;
// Times to the first token are few: of one minute there may be none.
const FIRST_TOKEN_SECONDS = 300;

/** Show model servers and models. */
export function models() {
  const memory = new Map(); // what was counted, by model: [time, traffic], oldest first

  /** Keep a counter's past, and give the snapshot that lies so many seconds back, or the oldest. */
  function past(key, time, traffic) {
    let seen = memory.get(key);
    if (!seen || seen.at(-1).traffic.generated_tokens_total > traffic.generated_tokens_total)
      memory.set(key, (seen = [])); // restarted
    if (seen.at(-1)?.time !== time) seen.push({ time, traffic });
    while (seen.length > 1 && time - seen[1].time >= FIRST_TOKEN_SECONDS) seen.shift();
    return (seconds) => seen.find((each) => time - each.time <= seconds) ?? seen[0];
  }

  return {
    update(node) {
      const servers = node.all("llm_server");
      show(find("models"), servers.length > 0);
      if (servers.length === 0) return memory.clear();
      const of = (kind, row) =>
        node.all(kind).find((each) => each.server === row.server && each.model === row.model) ?? {};
      const keyOf = (row) => `${row.server} ${row.model}`;
      const traffics = Map.groupBy(node.all("llm_traffic"), keyOf);
      const rows = new Map([...node.all("llm_model"), ...node.all("llm_traffic")].map((row) => [keyOf(row), row]));
      for (const key of memory.keys()) if (!rows.has(key)) memory.delete(key);
      const shown = [...rows].map(([key, row]) => {
        const traffic = together(traffics.get(key) ?? []);
        const back = past(key, node.time, traffic);
        return {
          key,
          model: row.model,
          server: row.server,
          kind: row.kind,
          running: traffic.requests_running,
          waiting: traffic.requests_waiting,
          speed: speed(back(WINDOW_SECONDS), { time: node.time, traffic }),
          first: firstToken(back(FIRST_TOKEN_SECONDS).traffic.first_tokens, traffic.first_tokens),
          joules: of("llm_energy", row).joules_per_token,
          cache: traffic.kv_cache_usage_ratio,
          memory: of("llm_model", row).memory_bytes,
        };
      });
      keep(find("model-rows"), shown, (row) => row.key, modelRow);
      show(find("model-table"), shown.length > 0);
      const dash = [...find("model-rows").children].some((row) => row.textContent.includes(NONE));
      put(
        find("model-note"),
        dash ? `${NONE} is what the server does not tell, or what nobody asked it for lately.` : "",
      );
      const ways = node.all("llm_way");
      keep(find("server-rows"), servers, (server) => server.server, serverRow);
      for (const element of find("server-rows").children) {
        const silent = ways.filter((way) => way.server === element.dataset.key && way.up === 0 && way.reason);
        mark(element, "title", silent.map((way) => `${way.way}: ${way.reason}`).join("\n") || null);
      }
    },
  };
}

/** Give what all sources tell of a model as one: each token and each request is counted by one of them only. */
function together(rows) {
  const sum = (name) => rows.map((row) => row[name]).reduce((a, b) => (a === undefined ? b : a + (b ?? 0)), undefined);
  const first = rows.map((row) => row.time_to_first_token_seconds).filter(Boolean);
  return {
    requests_running: sum("requests_running"),
    requests_waiting: sum("requests_waiting"),
    generated_tokens_total: sum("generated_tokens_total"),
    kv_cache_usage_ratio: rows.find((row) => row.kv_cache_usage_ratio !== undefined)?.kv_cache_usage_ratio,
    first_tokens: first.reduce((all, { count, sum }) => ({ count: all.count + count, sum: all.sum + sum }), {
      count: 0,
      sum: 0,
    }),
  };
}

/** Give tokens per second between two moments; undefined where it is not known. */
function speed(before, now) {
  const seconds = now.time - before.time;
  const tokens = now.traffic.generated_tokens_total - before.traffic.generated_tokens_total;
  return seconds > 0 && tokens >= 0 ? tokens / seconds : undefined;
}

/** Give the mean time to the first token between two moments, in seconds; undefined where there was none. */
function firstToken(before, now) {
  const count = now.count - before.count;
  return count > 0 ? (now.sum - before.sum) / count : undefined;
}

function modelRow() {
  const name = make("th", { scope: "row" });
  const cells = ["kind", "speed", "first", "joules", "requests", "cache", "memory"].map((column) =>
    make("td", { class: column }),
  );
  const element = make("tr", {}, name, ...cells);
  element.update = (row) => {
    put(name, row.model);
    const waiting = row.waiting ? ` +${whole(row.waiting)}` : "";
    const texts = [
      `${row.kind} ${row.server}`,
      number(row.speed),
      latency(row.first),
      row.joules === undefined ? NONE : `${number(row.joules)} J`,
      whole(row.running) + waiting,
      ratio(row.cache),
      bytes(row.memory),
    ];
    texts.forEach((text, i) => put(cells[i], text));
    mark(cells[4], "title", row.waiting ? `${row.running ?? 0} running, ${row.waiting} waiting` : null);
  };
  return element;
}

function serverRow() {
  const element = make("li");
  element.update = (server) => {
    const up = server.up === 1;
    put(element, `${server.kind} ${server.server}: ${up ? "answers" : "does not answer"}`);
    mark(element, "data-grade", up ? "good" : "bad");
  };
  return element;
}

// The alerts that are active now: one line per alert, with every GPU it is active on, the worst first.
import { find, keep, make, mark, put, show } from "./dom.js";
import { count, span } from "./format.js";
import { SEVERITIES, alertName } from "./words.js";

const worst = (alerts) =>
  Object.keys(SEVERITIES).find((severity) => alerts.some((alert) => alert.severity === severity));

/** Show the alerts that are active; `choose` is called with the id of a GPU that was picked. */
export function alerts(choose) {
  const list = find("alert-rows");
  list.addEventListener("click", (event) => {
    const { gpu } = event.target.dataset;
    if (gpu !== undefined) choose(gpu);
  });

  return {
    update({ alerts: active, time }) {
      show(find("alerts"), active.length > 0);
      if (active.length === 0) return;
      put(find("alerts-title"), count(active.length, "active alert"));
      mark(find("alerts"), "data-grade", SEVERITIES[worst(active)] ?? "calm");
      keep(list, together(active), (group) => group.key, alertRow);
      for (const row of list.children) row.tell(time);
    },
  };
}

/** Put alerts of the same name and subject together. */
function together(active) {
  const groups = new Map();
  for (const alert of active) {
    // Of a GPU the subject is about a part of it, which only its own line could say.
    const key = [alert.severity, alert.alert, alert.gpu_id ? "" : alert.subject].join(" ");
    if (!groups.has(key)) groups.set(key, { key, first: alert, alerts: [] });
    groups.get(key).alerts.push(alert);
  }
  const order = Object.keys(SEVERITIES);
  return [...groups.values()].sort((a, b) => order.indexOf(a.first.severity) - order.indexOf(b.first.severity));
}

function alertRow() {
  const name = make("span");
  const gpus = make("span", { class: "gpus" });
  const since = make("span", { class: "since" });
  const element = make("li", {}, name, gpus, since);
  let begun = [];
  element.update = ({ first, alerts }) => {
    mark(element, "data-grade", SEVERITIES[first.severity] ?? "calm");
    put(
      name,
      `${first.severity}: ${alertName(first.alert)}${first.gpu_id || !first.subject ? "" : ` (${first.subject})`}`,
    );
    const on = new Map(alerts.filter((alert) => alert.gpu_id).map((alert) => [alert.gpu_id, alert]));
    keep(gpus, [...on.keys()], (id) => id, gpuButton);
    for (const button of gpus.children) mark(button, "title", on.get(button.dataset.gpu).subject || null);
    begun = alerts.map((alert) => alert.start_timestamp_seconds).filter((start) => start !== undefined);
  };
  element.tell = (time) => put(since, begun.length ? `for ${span(time - Math.min(...begun))}` : "");
  return element;
}

function gpuButton(id) {
  const button = make("button", { type: "button", "data-gpu": id }, `GPU ${id}`);
  button.update = () => {};
  return button;
}

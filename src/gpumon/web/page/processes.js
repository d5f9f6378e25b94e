// The processes on the GPUs: whose they are, what kind of work, which share.
import { find, keep, make, mark, put, show } from "./dom.js";
import { NONE, bytes, percent } from "./format.js";
import { get } from "./link.js";
import { CATEGORIES, missing } from "./words.js";

// Comings and goings are seen soon enough; the list can be long.
const EVERY_SECONDS = 4;
// What gpumon does not tell, it will not tell a moment later either.
const AFTER_TROUBLE_SECONDS = 30;
// More rows than that are no overview any more.
const MOST = 60;
const COLUMNS = ["gpu", "pid", "name", "kind", "where", "share", "memory"];

/** Show the processes; `chosen()` gives the GPU that is looked at. */
export function processes(chosen) {
  const only = find("only-processes");
  const body = find("process-rows");
  let [node, rows, trouble, asked, due] = [{ gpus: [] }, [], "", -Infinity, -Infinity];
  only.addEventListener("change", draw);

  function draw() {
    const id = chosen();
    const wanted = only.checked ? rows.filter((row) => `${row.gpu_id}` === id) : rows;
    keep(body, wanted.slice(0, MOST), (row) => `${row.gpu_uuid}/${row.gpu_instance_id ?? ""}/${row.pid}`, processRow);
    show(find("process-table"), wanted.length > 0);
    put(find("process-note"), trouble || note(wanted, only.checked ? `GPU ${id}` : "a GPU"));
  }

  function note(wanted, where) {
    if (wanted.length === 0) return `No process is on ${where}.`;
    const said = wanted.length > MOST ? [`${wanted.length - MOST} more are not shown.`] : [];
    if (wanted.some((row) => row.sm_utilization_percent === undefined)) {
      const known = reasons("work")[0];
      said.push(`Share ${NONE}: ${known ? missing(known) : "the driver has sampled no work of it lately"}.`);
    }
    return said.join(" ");
  }

  /** Give why some part of what processes do is not known, GPU by GPU. */
  function reasons(part) {
    const all = node.gpus.flatMap((one) => one.shareReasons);
    return all.filter((each) => each.part === part).map((each) => each.reason);
  }

  return {
    draw,
    /** Ask for the processes if it is time; `now` tells the time and what cannot be known. */
    async update(now) {
      node = now;
      if (node.time < due && node.time >= asked) return;
      [asked, due] = [node.time, node.time + EVERY_SECONDS];
      try {
        rows = (await get("processes")).processes;
        const unseen = node.attribution?.mode === "none" ? node.attribution.reason : "";
        trouble = rows.length ? "" : (reasons("processes").map(missing)[0] ?? unseen);
      } catch (error) {
        [rows, trouble] = [[], error.message];
        due = asked + AFTER_TROUBLE_SECONDS;
      }
      draw();
    },
  };
}

function processRow() {
  const cells = Object.fromEntries(COLUMNS.map((name) => [name, make(name === "name" ? "th" : "td", { class: name })]));
  cells.name.scope = "row";
  const fill = make("span", { class: "fill" });
  const text = make("span");
  const bar = make("span", { class: "bar", "aria-hidden": "true" }, fill);
  cells.share.append(bar, text);
  const element = make("tr", {}, ...COLUMNS.map((name) => cells[name]));
  element.update = (row) => {
    put(cells.gpu, `${row.gpu_id ?? NONE}${row.gpu_instance_id === undefined ? "" : `/${row.gpu_instance_id}`}`);
    put(cells.pid, `${row.pid}`);
    put(cells.name, row.name ?? NONE);
    mark(cells.name, "title", row.command_line ?? null);
    put(cells.kind, CATEGORIES[row.category] ?? row.category ?? NONE);
    mark(cells.kind, "data-category", row.category ?? null);
    put(
      cells.where,
      [row.namespace, row.pod, row.container].filter(Boolean).join(" / ") || row.job || row.user || NONE,
    );
    const share = row.sm_utilization_percent;
    put(text, percent(share));
    mark(cells.share, "title", share === undefined ? "The driver does not tell what each process does here." : null);
    show(bar, share !== undefined);
    fill.style.transform = `scaleX(${Math.min((share ?? 0) / 100, 1).toFixed(3)})`;
    put(cells.memory, bytes(row.memory_used_bytes));
    mark(
      cells.memory,
      "title",
      row.memory_used_bytes === undefined ? "The driver does not tell what each process holds here." : null,
    );
  };
  return element;
}

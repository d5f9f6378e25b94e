// A gauge: a name, a bar against a limit, and the number. One that has no reading says why.
import { make, mark, put, show } from "./dom.js";
import { NONE } from "./format.js";
import { whyMissing } from "./node.js";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Give an element that shows one of GAUGES for a GPU; its `update` takes the GPU. */
export function gauge(row) {
  const fill = make("span", { class: "fill" });
  const limit = make("span", { class: "limit", hidden: true });
  const bar = make("span", { class: "bar", role: "meter", "aria-label": row.name, "aria-valuemin": "0" }, fill, limit);
  const reason = make("span", { class: "reason", hidden: true });
  const value = make("span", { class: "value" });
  const element = make(
    "div",
    { class: `gauge is-${row.id}` },
    make("span", { class: "name", title: row.name }, row.short),
    bar,
    reason,
    value,
  );
  element.update = (one) => {
    const now = one.up ? one.gpu[row.column] : undefined;
    const missing = !known(now);
    show(bar, !missing);
    show(reason, missing);
    put(value, missing ? NONE : row.text(one.gpu));
    if (missing) return put(reason, whyMissing(one, row.metric));
    const top = row.top(one.gpu);
    // Without a limit to hold it against there is only the number.
    const share = known(top) && top > 0 ? Math.min(Math.max(now / top, 0), 1) : 0;
    fill.style.transform = `scaleX(${share.toFixed(3)})`;
    const at = row.limit?.(one.gpu);
    show(limit, known(at));
    if (known(at)) limit.style.left = `${((100 * at) / top).toFixed(1)}%`;
    mark(element, "data-warn", row.warn?.(one.gpu) ? "" : null);
    mark(bar, "aria-valuemax", `${Math.round(known(top) ? Math.max(top, now) : Math.max(now, 1))}`);
    mark(bar, "aria-valuenow", `${Math.round(now)}`);
    mark(bar, "aria-valuetext", row.text(one.gpu));
  };
  return element;
}

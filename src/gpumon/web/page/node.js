// One snapshot of the node as the page needs it: everything of a GPU together.
import { THROTTLING, down, missing } from "./words.js";

const NOTHING = [];
// Kinds of which a GPU has its own.
const BY_GPU = "gpu gpu_info gpu_down support mig mig_info fan nvlink workload share_reason".split(" ");

/** Give the node a snapshot shows. GPUs are those that gpumon has seen since it started, also while they are down. */
export function node(snapshot) {
  const { entities } = snapshot;
  const all = (kind) => entities[kind] ?? NOTHING;
  const by = Object.fromEntries(BY_GPU.map((kind) => [kind, Map.groupBy(all(kind), (entity) => entity.gpu_id)]));
  const rows = all("gpu_health").length ? all("gpu_health") : all("gpu");
  const gpus = rows.map((row) => {
    const of = (kind) => by[kind].get(row.gpu_id) ?? NOTHING;
    const gpu = of("gpu")[0] ?? {};
    const downInfo = of("gpu_down")[0];
    const up = row.up !== 0;
    return {
      id: row.gpu_id,
      name: row.gpu_name,
      uuid: row.gpu_uuid,
      up,
      trouble: up ? throttling(gpu) : down(downInfo?.reason),
      gpu,
      info: of("gpu_info")[0] ?? {},
      support: of("support"),
      migs: of("mig"),
      migInfos: of("mig_info"),
      fans: of("fan"),
      links: of("nvlink"),
      workloads: of("workload"),
      shareReasons: of("share_reason"),
      alerts: all("alert").filter((alert) => alert.gpu_id === row.gpu_id && alert.active === 1),
    };
  });
  return {
    time: Date.parse(snapshot.time) / 1000,
    started: all("daemon")[0]?.start_time_seconds ?? 0,
    stale: snapshot.stale,
    gpus,
    alerts: all("alert").filter((alert) => alert.active === 1),
    attribution: all("process_attribution")[0],
    sources: all("source"),
    all,
  };
}

function throttling(gpu) {
  for (const [reason, words] of Object.entries(THROTTLING)) {
    if (gpu[`throttle_active_${reason}`] === 1) return words;
  }
  return null;
}

/** Give why a GPU has no value for a metric. */
export function whyMissing(one, metric) {
  if (!one.up) return "GPU is down";
  // Where no value of a labelled reading is there, it is listed once, without the labels.
  const names = [metric, metric.replace(/\{.*/, "")];
  const row = one.support.find((each) => names.includes(each.reading) && each.reading_supported === 0);
  return row ? missing(row.reason) : "not read this time";
}

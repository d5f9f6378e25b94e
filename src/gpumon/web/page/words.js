// Words for what the API names by a code.

export const CATEGORIES = {
  gaming: "Gaming",
  llm_inference: "LLM inference",
  ml_training: "ML training",
  general_compute: "Compute",
  unknown: "Unknown",
};

/** What slows a GPU down that should not; power capping is how a GPU under load keeps to its limit. */
export const THROTTLING = {
  hw_thermal: "slowed: too hot (hardware)",
  sw_thermal: "slowed: too hot",
  hw_power_brake: "slowed: power brake",
  hw_slowdown: "slowed by hardware",
};

const MISSING = {
  NOT_SUPPORTED: "not supported",
  FUNCTION_NOT_FOUND: "needs a newer driver",
  ARGUMENT_VERSION_MISMATCH: "needs a newer driver",
  NO_PERMISSION: "no permission",
  INSUFFICIENT_POWER: "power cable is missing",
};

const DOWN = {
  GPU_IS_LOST: "lost: fell off the bus",
  HUNG: "hung: the driver does not return",
  RESET_REQUIRED: "must be reset",
  DRIVER_NOT_LOADED: "driver is not loaded",
  UNINITIALIZED: "driver was unloaded",
  NO_PERMISSION: "no permission",
};

/** Give why a reading is missing. */
export const missing = (reason) => MISSING[reason] ?? reason;

/** Give why a GPU is down. */
export const down = (reason) => DOWN[reason] ?? (reason ? `down: ${reason}` : "down");

/** What an event is, by the begin of its kind: a word for it, and how bad it is. The first that fits counts. */
const EVENTS = [
  ["device_lost", "Lost", "bad"],
  ["device_back", "Back", "good"],
  ["xid", "XID", "bad"],
  ["ecc_", "ECC", "bad"],
  ["row_remap_", "Rows", "bad"],
  ["throttle_", "Slowed", "warn"],
  ["alert", "Alert", "bad"],
  ["model_", "Model", "calm"],
  ["process_", "Process", "calm"],
];

const OVER = /(_end|_resolved|_over|_back|_cleared)$/;

/** How bad an alert is, by its severity, the worst first. */
export const SEVERITIES = { critical: "bad", warning: "warn", info: "calm" };

/** Give an alert's name as words. */
export const alertName = (name) => name.replace(/^gpu_/, "").replaceAll("_", " ");

/** Give the word for an event and how bad it is: bad, warn, good or calm. */
export function event({ kind, detail }) {
  const [, word, grade] = EVENTS.find(([begin]) => kind.startsWith(begin)) ?? ["", kind.replaceAll("_", " "), "calm"];
  return { word, grade: OVER.test(kind) ? "good" : (SEVERITIES[detail?.severity] ?? grade) };
}

/** Say whether an event is the end of what another began. */
export const ends = (kind) => OVER.test(kind);

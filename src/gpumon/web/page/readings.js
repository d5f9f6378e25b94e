// Which readings the page shows, as rows. `metric` is the name by which the API says why a reading is missing.
import * as say from "./format.js";

const slowdown = (gpu) =>
  gpu.temperature_threshold_slowdown_celsius ??
  (gpu.temperature_margin_celsius === undefined ? undefined : gpu.temperature + gpu.temperature_margin_celsius);

/** The gauges of a GPU: value, the end of the scale, the limit that is marked, and from when on it is a warning. */
export const GAUGES = [
  {
    id: "use",
    name: "Utilisation",
    short: "Use",
    column: "utilization_gpu",
    metric: "gpumon_gpu_utilization_percent",
    top: () => 100,
    text: (gpu) => say.percent(gpu.utilization_gpu),
  },
  {
    id: "memory",
    name: "Memory",
    short: "Mem",
    column: "memory_used",
    metric: "gpumon_gpu_memory_used_bytes",
    top: (gpu) => gpu.memory_total,
    text: (gpu) => `${say.gibibytes(gpu.memory_used)} / ${say.gibibytes(gpu.memory_total)} GiB`,
    warn: (gpu) => gpu.memory_used > 0.98 * gpu.memory_total,
  },
  {
    id: "heat",
    name: "Temperature",
    short: "Temp",
    column: "temperature",
    metric: "gpumon_gpu_temperature_celsius",
    // With room above the limit, so that its mark shows; without a limit, what no card survives for long.
    top: (gpu) => (slowdown(gpu) ?? 100) + 8,
    limit: slowdown,
    text: (gpu) =>
      slowdown(gpu) ? `${say.whole(gpu.temperature)} / ${say.celsius(slowdown(gpu))}` : say.celsius(gpu.temperature),
    warn: (gpu) => gpu.temperature >= slowdown(gpu) - 3,
  },
  {
    id: "power",
    name: "Power",
    short: "Power",
    column: "power",
    metric: "gpumon_gpu_power_watts",
    top: (gpu) => gpu.power_limit_enforced_watts ?? gpu.power_limit_max_watts,
    text: (gpu) =>
      gpu.power_limit_enforced_watts === undefined
        ? say.watts(gpu.power)
        : `${say.whole(gpu.power)} / ${say.watts(gpu.power_limit_enforced_watts)}`,
  },
];

/**
 * The charts of a GPU. `lines` are columns with the colour they have; `limit` is drawn as a dashed line; `scale` gives the
 * ends of the y axis, where a missing one follows the data; `factor` makes the unit shown of the unit stored.
 */
export const CHARTS = [
  {
    id: "use",
    title: "Utilisation",
    unit: "%",
    lines: [{ column: "utilization_gpu", metric: "gpumon_gpu_utilization_percent", name: "GPU", colour: "use" }],
    scale: () => [0, 104],
  },
  {
    id: "memory",
    title: "Memory",
    unit: "GiB",
    factor: 2 ** -30,
    lines: [{ column: "memory_used", metric: "gpumon_gpu_memory_used_bytes", name: "used", colour: "memory" }],
    limit: (gpu) => gpu.memory_total,
    scale: (gpu) => [0, 1.05 * gpu.memory_total],
  },
  {
    id: "heat",
    title: "Temperature",
    unit: "°C",
    lines: [
      { column: "temperature", metric: "gpumon_gpu_temperature_celsius", name: "GPU", colour: "heat" },
      {
        column: "memory_temperature_celsius",
        metric: "gpumon_gpu_memory_temperature_celsius",
        name: "memory",
        colour: "memory",
      },
    ],
    limit: slowdown,
    scale: (gpu) => [20, slowdown(gpu) + 8],
  },
  {
    id: "power",
    title: "Power",
    unit: "W",
    lines: [{ column: "power", metric: "gpumon_gpu_power_watts", name: "drawn", colour: "power" }],
    limit: (gpu) => gpu.power_limit_enforced_watts,
    scale: (gpu) => [0, 1.08 * gpu.power_limit_enforced_watts],
  },
  {
    id: "activity",
    title: "Activity",
    unit: "%",
    factor: 100,
    lines: [
      { column: "sm_active_ratio", metric: "gpumon_gpu_sm_active_ratio", name: "SM", colour: "use" },
      { column: "tensor_active_ratio", metric: "gpumon_gpu_tensor_active_ratio", name: "tensor", colour: "memory" },
      { column: "dram_active_ratio", metric: "gpumon_gpu_dram_active_ratio", name: "memory bus", colour: "power" },
    ],
    scale: () => [0, 1.04],
  },
  {
    id: "clocks",
    title: "Clocks",
    unit: "MHz",
    factor: 1e-6,
    lines: [
      { column: "clock_sm_hertz", metric: "gpumon_gpu_clock_hertz{clock=sm}", name: "SM", colour: "use" },
      {
        column: "clock_memory_hertz",
        metric: "gpumon_gpu_clock_hertz{clock=memory}",
        name: "memory",
        colour: "memory",
      },
    ],
    scale: (gpu) => [0, 1.05 * Math.max(gpu.clock_max_sm_hertz ?? 0, gpu.clock_max_memory_hertz ?? 0)],
  },
];

/** All columns that are drawn. */
export const COLUMNS = [...new Set(CHARTS.flatMap((chart) => chart.lines.map((line) => line.column)))];

/** Spans of time to look at; the first is what this page itself has seen, with what the store has before it. */
export const RANGES = [
  { id: "live", name: "Live", hours: 1 / 6 },
  { id: "1h", name: "1 h", hours: 1 },
  { id: "6h", name: "6 h", hours: 6 },
  { id: "24h", name: "24 h", hours: 24 },
  { id: "7d", name: "7 d", hours: 168 },
];

const join = (...parts) => parts.filter(Boolean).join(" · ");

/**
 * Facts of a GPU in its detail: what to say, and the reading without which there is nothing to say; `lasting` where it can
 * be said of a GPU that is down as well.
 */
export const FACTS = [
  {
    name: "Clocks",
    column: "clock_sm_hertz",
    metric: "gpumon_gpu_clock_hertz{clock=sm}",
    text: ({ gpu }) => `SM ${say.megahertz(gpu.clock_sm_hertz)} · memory ${say.megahertz(gpu.clock_memory_hertz)}`,
  },
  {
    name: "P-state",
    column: "performance_state",
    metric: "gpumon_gpu_performance_state",
    text: ({ gpu }) => `P${gpu.performance_state}`,
  },
  {
    name: "Fans",
    text: ({ fans }) => fans.map((fan) => say.percent(fan.fan_speed_percent)).join(", ") || "none on the board",
  },
  {
    name: "PCIe",
    column: "pcie_link_generation_current",
    metric: "gpumon_gpu_pcie_link_generation{kind=current}",
    text: ({ gpu }) =>
      `generation ${gpu.pcie_link_generation_current} of ${gpu.pcie_link_generation_max ?? say.NONE}, x${gpu.pcie_link_width_current ?? say.NONE}`,
  },
  {
    name: "NVLink",
    text: ({ links }) =>
      links.length ? `${links.filter((link) => link.nvlink_up === 1).length} of ${links.length} links up` : "none",
  },
  {
    name: "ECC errors since the driver's start",
    column: "ecc_errors_uncorrected_volatile_total",
    metric: "gpumon_gpu_ecc_errors_total{severity=uncorrected,scope=volatile}",
    text: ({ gpu }) =>
      `${gpu.ecc_errors_uncorrected_volatile_total} uncorrected, ${gpu.ecc_errors_corrected_volatile_total ?? say.NONE} corrected`,
  },
  {
    name: "Remapped rows",
    column: "remapped_rows_uncorrected_total",
    metric: "gpumon_gpu_remapped_rows_total{severity=uncorrected}",
    text: ({ gpu }) =>
      `${gpu.remapped_rows_uncorrected_total}${gpu.row_remap_pending ? ", reset pending" : ""}${gpu.row_remap_failure ? ", FAILED" : ""}`,
  },
  {
    name: "Driver",
    text: ({ info }) => join(info.driver_version, info.cuda_version && `CUDA ${info.cuda_version}`) || say.NONE,
  },
  {
    name: "Architecture",
    text: ({ info }) =>
      join(info.architecture, info.mig_mode === "enabled" && "MIG", info.ecc_mode === "enabled" && "ECC") || say.NONE,
  },
  { name: "PCI address", text: ({ info }) => info.pci_bus_id || say.NONE },
  { name: "UUID", lasting: true, text: ({ uuid }) => uuid },
];

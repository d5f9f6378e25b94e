"""The settings tree: every option with its help, its default and what is allowed.

`docs/configuration.md`, `config.example.toml` and the chart's schema are generated from this tree.
Reading it from files and the environment is in `gpumon.load`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TypeVar

Value = bool | int | float | str
V = TypeVar("V", bool, int, float, str)

ENV_PREFIX = "GPUMON"

# What a text can be, in words to follow "allowed is". What each accepts is in `gpumon.load`.
FORMS = {
    "text": "a text",
    "path": "a path",
    "url": "a URL that begins with http:// or https://",
    "urls": "URLs that begin with http:// or https://, separated by spaces",
    "servers": "URLs that begin with http:// or https://, separated by spaces, each with KIND= before it or without",
    "address": 'an IP address or "localhost"',
    "listen": "an address and a port, as in 127.0.0.1:11435",
    "tables": "a list of tables, or the same as JSON text",
}


class SettingsError(ValueError):
    """Input from outside that gpumon cannot work with, as one sentence that says what it is and what is allowed."""


def option(
    default: V,
    help: str,  # noqa: A002 - the field's own word
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    form: str = "text",
    reserved: bool = False,
    secret: bool = False,
) -> V:
    """Declare one option of a section, with everything about it.

    The default gives the type; a text whose default is not empty may not be set empty.
    `form` is what a text is, a key of FORMS; in a path, `~` is expanded when settings are read.
    `reserved` marks a key whose name is fixed but which does nothing yet.
    `secret` marks a value that may be a secret or hold one, and is told to nobody, even where it is wrong.
    """
    facts = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "form": form,
        "reserved": reserved,
        "secret": secret,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The daemon itself."""

    poll_interval_secs: float = option(2.0, "Seconds between two readings of the GPUs.", minimum=0.25, maximum=300)
    data_dir: str = option(
        "~/.local/share/gpumon", "Folder for what gpumon keeps. The image sets it to /data.", form="path"
    )
    log_level: str = option(
        "info", "Least important log lines to write.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = option(
        "auto",
        'Form of log lines; "auto" is readable text on a terminal and one JSON object per line elsewhere.',
        choices=("auto", "text", "json"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Reading the GPUs."""

    enable_nvml: bool = option(True, "Read GPUs through NVIDIA's management library.")
    fallback_to_nvidia_smi: bool = option(False, "Read GPUs by nvidia-smi when the library cannot be loaded.")
    nvidia_smi_path: str = option("nvidia-smi", "Command or path of nvidia-smi.", form="path")
    slow_interval_secs: float = option(
        30.0,
        "Seconds between two readings of what changes slowly: limits, thresholds, ECC, remapped rows, link states.",
        minimum=1,
        maximum=3600,
    )
    retry_interval_secs: float = option(
        30.0,
        "Seconds between two looks for a driver, for new GPUs and for changed MIG devices.",
        minimum=1,
        maximum=3600,
    )
    hung_limit_secs: float = option(
        300.0,
        "Seconds a driver call may hang before /healthz fails, so that an orchestrator restarts gpumon.",
        minimum=10,
        maximum=86400,
    )
    read_kernel_log: bool = option(True, "Take XID errors from /dev/kmsg as well, where it can be read.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Who uses the GPUs."""

    enabled: bool = option(True, "Find, classify and account the processes on the GPUs.")
    proc_root: str = option(
        "/proc",
        "The host's /proc, where it is mounted elsewhere, as in a container without the host's pids.",
        form="path",
    )
    command_lines: bool = option(
        False, "Keep command lines of processes, cut and without secrets, for the API and the history; never as labels."
    )
    per_process_metrics: bool = option(False, "Give each process series of its own.")
    per_process_limit: int = option(
        20, "Most processes per GPU with series of their own: those with the most memory.", minimum=1, maximum=1000
    )
    rules: str = option(
        "",
        "Rules of your own, tried before the built-in ones: tables with name, category and patterns, see docs/processes.md.",
        form="tables",
    )
    job_mapping_dir: str = option(
        "",
        "Folder with a file per GPU, named by its index, that holds the ids of the batch jobs on it, a line each.",
        form="path",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """Naming pods."""

    pod_resources_socket: str = option(
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "Socket of the kubelet's PodResources API; pods are named where it is there.",
        form="path",
    )
    interval_secs: float = option(15.0, "Seconds between two questions to the kubelet.", minimum=1, maximum=3600)
    resource_names: str = option(
        "", "Further names of GPU resources, with commas between them, besides those that begin with nvidia.com/."
    )
    pod_labels: str = option(
        "",
        "Labels of pods to give, with commas between them; asked of the API server, for this node only. Empty asks nothing.",
    )
    node_name: str = option("", "Name of this node, as in spec.nodeName; needed for pod_labels.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ollama:
    """Watching Ollama."""

    enabled: bool = option(True, "Watch Ollama.")
    api_port: int = option(11434, "Port of Ollama on this machine.", minimum=1, maximum=65535)
    api_url: str = option(
        "", "Base URL of Ollama; empty is this machine at api_port, where it may be absent.", form="url"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """Watching model servers."""

    servers: str = option(
        "",
        "Base URLs of model servers, separated by spaces, as in vllm=http://127.0.0.1:8000; without the kind the "
        "server is asked what it is. Servers whose processes are recognised need not be named.",
        form="servers",
    )
    poll_interval_secs: float = option(5.0, "Seconds between two looks at a model server.", minimum=1, maximum=300)
    model_limit: int = option(
        50, 'Most models told apart in metrics; those beyond are counted as "other".', minimum=1, maximum=1000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Measuring requests to a model server by passing them on; see proxy.md."""

    listen: str = option(
        "", "Address and port clients send their requests to; empty is no proxy in the daemon.", form="listen"
    )
    upstream: str = option("", "Base URL of the model server; empty is Ollama as [ollama] has it.", form="url")
    max_connections: int = option(
        1000, "Connections of clients at a time; those beyond it are answered with 503.", minimum=1, maximum=20000
    )
    drain_secs: float = option(
        0.0, "Seconds that replies under way may go on when gpumon is told to stop.", minimum=0, maximum=3600
    )
    rewrite_host: bool = option(
        False, "Send the upstream's name as Host; a server that checks names is then asked by one it knows."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """History on disk."""

    enabled: bool = option(True, "Keep history in service.data_dir.")
    retention_days: float = option(7.0, "Days kept in SQLite.", minimum=0.04, maximum=3650)
    enable_parquet_archival: bool = option(True, "Move older rows to Parquet instead of deleting them.")
    archive_dir: str = option(
        "",
        "Folder of the Parquet archive, or an object store, as in s3://bucket/prefix?endpoint_override=http://host:9000; "
        "empty is archive/ in service.data_dir.",
        form="path",
    )
    archive_retention_days: float = option(
        0.0, "Days kept in the archive; 0 keeps them for good.", minimum=0, maximum=36500
    )
    max_disk_bytes: int = option(
        0,
        "Most bytes that database and archive may take together; the archive's oldest files make room, never what is "
        "not archived yet. 0 is no limit.",
        minimum=0,
        maximum=10**15,
    )
    node_name: str = option("", "Name of this node in an object store; empty is the host's name.")
    cluster_name: str = option("default", "Name of this node's cluster in an object store.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Telling others."""

    enable_prometheus: bool = option(True, "Serve /metrics, /healthz and /readyz.")
    metrics_address: str = option(
        "0.0.0.0",  # noqa: S104 - what scrapers need
        "Address the metrics port listens on.",
        form="address",
    )
    metrics_port: int = option(9090, "Port of /metrics, /healthz and /readyz.", minimum=1, maximum=65535)
    web_config_file: str = option(
        "", "TLS and basic auth of the metrics port, in Prometheus's web-config format.", form="path"
    )
    dcgm_compat: str = option(
        "off",
        'Give /metrics the names, units and labels of dcgm-exporter as well: "legacy" as before its 4.9, "4.9" as from then on; '
        "see docs/dcgm.md.",
        choices=("off", "legacy", "4.9"),
    )
    enable_opentelemetry: bool = option(True, "Send readings by OTLP, once otlp_endpoint or its OTEL_ variable is set.")
    otlp_endpoint: str = option(
        "",
        "Address of an OpenTelemetry collector, as in http://collector:4317; empty takes OTEL_EXPORTER_OTLP_ENDPOINT. "
        "Everything else about the way there is said by the other OTEL_EXPORTER_OTLP_ variables.",
    )
    otlp_interval_secs: float = option(10.0, "Seconds between two exports by OTLP.", minimum=1, maximum=3600)
    otlp_names: str = option(
        "conventions",
        'Names and attributes sent by OTLP: OpenTelemetry\'s conventions where they have the thing, or "prometheus" for those '
        "of /metrics, which its dashboards and rules need.",
        choices=("conventions", "prometheus"),
    )
    otlp_traces: bool = option(False, "Send spans of gpumon's own work by OTLP as well.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The REST API and the built-in page; see api.md."""

    enabled: bool = option(True, "Serve the API and the page.")
    address: str = option(
        "127.0.0.1",
        "Address the API listens on; on any but loopback others can read it, so set a token.",
        form="address",
    )
    port: int = option(8010, "Port of the API and the page.", minimum=1, maximum=65535)
    token: str = option("", "Bearer token that requests to /api/ must carry; empty asks for none.", secret=True)
    token_file: str = option("", "File whose first line is the token, as a mounted secret has it.", form="path")
    allowed_origins: str = option(
        "",
        "Other sites whose pages may read the API, separated by spaces, as in https://grafana.example.org.",
    )
    allowed_hosts: str = option(
        "",
        "Names this gpumon may be asked by, separated by spaces, besides localhost, the host's own and IP addresses; "
        "* allows any.",
    )
    max_connections: int = option(
        192, "Connections at a time; those beyond it are answered with 503.", minimum=1, maximum=10000
    )
    max_streams: int = option(
        128, "Readers of /api/stream at a time; those beyond it are answered with 503.", minimum=1, maximum=10000
    )
    max_range_days: float = option(92.0, "Days that one question about the past may span.", minimum=0.04, maximum=3660)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    """Alerts gpumon raises by itself; see alerts.md."""

    enabled: bool = option(True, "Look for alerts.")
    temp_threshold_celsius: float = option(85.0, "GPU temperature above which to warn.", minimum=0, maximum=150)
    memory_threshold_percent: float = option(
        90.0, "Share of a GPU's memory in use above which to say so.", minimum=0, maximum=100
    )
    models: str = option(
        "",
        "Other thresholds for some models of GPU: tables with gpu_name, a pattern, and numbers by the names of alerts.",
        form="tables",
    )
    rules: str = option(
        "",
        "Alerts of your own: tables with name, metric and above, below or absent, see docs/alerts.md.",
        form="tables",
    )
    disabled: str = option("", "Names of alerts that are not to be raised, with commas between them.")
    log: bool = option(True, "Write beginnings and ends of alerts to gpumon's log.")
    enable_desktop_notifications: bool = option(
        False, "Show alerts on the desktop of the user who runs gpumon, by D-Bus."
    )
    webhook_url: str = option(
        "",
        "URL to which beginnings and ends of alerts are posted, in the form of Alertmanager's webhooks.",
        form="url",
        secret=True,
    )
    webhook_headers: str = option(
        "", "Headers for webhook_url, as in X-Api-Key=secret,X-Team=ml; values may be percent-encoded.", secret=True
    )
    webhook_bearer_token_file: str = option("", "File with a bearer token for webhook_url.", form="path")
    alertmanager_urls: str = option(
        "", "Base URLs of Alertmanagers, separated by spaces; each gets every alert.", form="urls", secret=True
    )
    alertmanager_bearer_token_file: str = option("", "File with a bearer token for alertmanager_urls.", form="path")
    resend_secs: float = option(
        60.0,
        "Seconds between two messages to an Alertmanager about an alert that is active; it takes it for over after four.",
        minimum=5,
        maximum=3600,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, one attribute per section."""

    service: Service = field(default_factory=Service)
    gpu: Gpu = field(default_factory=Gpu)
    processes: Processes = field(default_factory=Processes)
    kubernetes: Kubernetes = field(default_factory=Kubernetes)
    ollama: Ollama = field(default_factory=Ollama)
    llm: Llm = field(default_factory=Llm)
    proxy: Proxy = field(default_factory=Proxy)
    storage: Storage = field(default_factory=Storage)
    telemetry: Telemetry = field(default_factory=Telemetry)
    api: Api = field(default_factory=Api)
    alerts: Alerts = field(default_factory=Alerts)

    def __getitem__(self, name: str) -> Value:
        """Give the value of the option called `section.key`."""
        section, key = name.split(".")
        value: Value = getattr(getattr(self, section), key)
        return value


@dataclass(frozen=True, slots=True)
class Option:
    """One option as it was declared, for whoever reads, checks or documents settings."""

    section: str
    key: str
    default: Value
    help: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    form: str
    reserved: bool
    secret: bool

    @property
    def name(self) -> str:
        """Give the name as in a sentence: section and key, joined by a dot."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """Give the name of the environment variable that sets the option."""
        return f"{ENV_PREFIX}_{self.section}_{self.key}".upper()

    @property
    def allowed(self) -> str:
        """Say which values are allowed, to follow "allowed is"."""
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            words = (
                "one of " + ", ".join(f'"{choice}"' for choice in self.choices) if self.choices else FORMS[self.form]
            )
            return words if self.default or self.choices else f"{words}, or empty"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} from {self.minimum:g} to {self.maximum:g}"


def options() -> Iterator[Option]:
    """Give every option of the tree, in the order of declaration."""
    for section in fields(Settings):
        values = getattr(Settings(), section.name)
        for key in fields(values):
            yield Option(section=section.name, key=key.name, default=getattr(values, key.name), **key.metadata)


def named_servers(text: str) -> Iterator[tuple[str, str]]:
    """Give kind and URL of each server that a text names; the kind is "" where none stands before the URL."""
    for word in text.replace(",", " ").split():
        kind, equals, url = word.partition("=")
        yield (kind, url) if equals and "/" not in kind else ("", word)


def reserved_in_use(settings: Settings) -> list[str]:
    """Give the names of options that were set although they have no effect in this version."""
    return [option.name for option in options() if option.reserved and settings[option.name] != option.default]

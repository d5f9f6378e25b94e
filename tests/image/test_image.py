"""The image, built and run without any right that it does not need."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumon import __version__
from gpumon.store.database import connect
from gpumon.store.schema import DAY, HOUR
from gpumon.store.writer import Writer, pack
from tests import stub
from tests.daemon import free_port
from tests.image.running import MEGABYTE, UID, Container, data_folder
from tests.store.nodes import Node
from tests.tools import image as tool

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
GPUS_UP = 'gpumon_gpu_up{gpu_id="7"'
SHELLS = re.compile(r"(^|/)(sh|bash|dash|busybox|apt|apt-get|dpkg|pip\d*|gcc|cc|perl|ldconfig|curl|wget)$")


@pytest.fixture(scope="session")
def image() -> str:
    """Give the image's name, built."""
    try:
        return tool.build()
    except RuntimeError as error:
        pytest.skip(f"NOT TESTED, the image cannot be built here: {error}")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the stand-in for the driver's library."""
    try:
        return stub.build(tmp_path_factory.mktemp("nvml"))
    except stub.UnbuildableError as missing:
        pytest.skip(f"NOT TESTED, no stand-in for the driver's library: {missing}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give a folder for /data."""
    return data_folder(tmp_path / "data")


@pytest.fixture(scope="session")
def files(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tarfile.TarFile]:
    """Give all files of the image."""
    container = tool.podman("create", image).stdout.strip()
    archive = tmp_path_factory.mktemp("image") / "files.tar"
    tool.podman("export", f"--output={archive}", container)
    tool.podman("rm", container)
    with tarfile.open(archive) as opened:
        yield opened


def text_in(files: tarfile.TarFile, name: str) -> str:
    """Give what is in a file of the image."""
    content = files.extractfile(name)
    assert content is not None
    return content.read().decode()


def test_it_serves_every_gpu_without_any_right(image: str, library: Path, data: Path) -> None:
    """As 65532, root read only, no capability: readings, health, history, and an end when told; 2 s to the first page."""
    with Container(library, data) as container:
        container.page()
        assert container.inspect("State", "Running")
        container.until(GPUS_UP)
        assert container.page("/healthz") == "ok\n"
        status = Path(f"/proc/{container.inspect('State', 'Pid')}/status").read_text()
        assert f"Uid:\t{UID}" in status
        assert "CapEff:\t0000000000000000" in status
        assert container.run("health") == (0, "ok\n")
        assert container.run("health", GPUMON_TELEMETRY_METRICS_PORT="1")[0] == 1
        code, said = container.run("check")
        assert code == 0, said
        assert "ok   GPUs            8 x" in said
        assert container.stop() < 3
        assert container.inspect("State", "ExitCode") == 0
    with Container(library, data) as container:  # the files are in memory now, as those of any node that runs it
        container.page()
        seconds = container.elapsed()
    assert seconds < 2


def test_health_check_of_the_image_works(image: str, library: Path, data: Path) -> None:
    """What HEALTHCHECK says is carried out as it stands, without a shell."""
    [options] = json.loads(tool.podman("image", "inspect", image).stdout)
    assert options["Healthcheck"]["Test"] == ["CMD", "/usr/bin/gpumon", "health"]
    with Container(library, data) as container:
        container.until(GPUS_UP)
        done = tool.podman("exec", container.id, *options["Healthcheck"]["Test"][1:])
        assert done.stdout == "ok\n"


def test_history_outlives_the_container(image: str, library: Path, data: Path) -> None:
    """What one container wrote to /data the next one adds to, killed or not."""
    counts = []
    for _ in range(2):
        with Container(library, data, environ={"GPUMON_SERVICE_POLL_INTERVAL_SECS": "0.25"}) as container:
            container.until("gpumon_ticks_total 3")
        connection = sqlite3.connect(data / "gpumon.db")
        counts.append(connection.execute("SELECT count(*) FROM gpu_metrics").fetchone()[0])
        connection.close()
    assert 0 < counts[0] < counts[1]


@pytest.mark.parametrize("library_path", ["/usr/lib64/libnvidia-ml.so.1", "/usr/local/nvidia/lib64/libnvidia-ml.so.1"])
def test_the_library_is_found_where_other_runtimes_mount_it(
    image: str, library: Path, data: Path, library_path: str
) -> None:
    """Without ldconfig having been run, and without a loader's cache at all."""
    empty = data.parent / "ld.so.cache"
    empty.touch()
    with Container(
        library, data, library=library_path, options=(f"--volume={empty}:/etc/ld.so.cache:ro",)
    ) as container:
        container.until(GPUS_UP)


def test_settings_are_read_from_etc(image: str, library: Path, data: Path) -> None:
    """A file mounted as /etc/gpumon/config.toml is found by itself, by any user."""
    config = data.parent / "config.toml"
    config.write_text("[gpu]\nenable_nvml = false\n")
    for user in ("0", str(UID), "1234"):
        options = (f"--volume={config}:/etc/gpumon/config.toml:ro", f"--user={user}")
        with Container(library, data, options=options, environ={"GPUMON_STORAGE_ENABLED": "false"}) as container:
            assert "gpumon_gpu_count 0" in container.until("gpumon_gpu_count")


def test_working_set_with_everything_on(image: str, library: Path, data: Path) -> None:
    """72 MB at most for 8 GPUs: history, processes, proxy, and OTLP by gRPC to a collector that is away."""
    environ = {
        "GPUMON_TELEMETRY_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "GPUMON_TELEMETRY_OTLP_INTERVAL_SECS": "1",
        "GPUMON_TELEMETRY_OTLP_TRACES": "true",
        "GPUMON_PROCESSES_PER_PROCESS_METRICS": "true",
        "GPUMON_PROXY_LISTEN": f"127.0.0.1:{free_port()}",
        "GPUMON_PROXY_UPSTREAM": "http://127.0.0.1:1",
    }
    with Container(library, data, environ=environ, options=("--pid=host",)) as container:
        container.until('gpumon_export_success{exporter="otlp"} 0')
        container.until("gpumon_ticks_total 3")
        assert container.working_set() < 72 * MEGABYTE


def test_a_day_becomes_parquet_and_is_exported(image: str, library: Path, data: Path) -> None:
    """What was left out of pyarrow is missed neither by the archive, by its roll-ups, nor by any form of export."""
    fill(data, hours=26, interval=60.0)
    with Container(library, data, memory=128) as container:
        container.page()
        code, said = container.run("archive")
        assert code == 0, said
        for form, rows in (("csv", 8 * 26 * 60), ("jsonl", 8 * 26 * 60), ("parquet", 0)):
            code, said = container.run(
                "export", "--table=gpu_metrics", f"--format={form}", f"--output=/data/rows.{form}"
            )
            assert code == 0, said
            assert (data / f"rows.{form}").read_bytes().count(b"\n") >= rows
    assert list(data.glob("archive/table=gpu_metrics_10m/date=*/*.parquet"))


def test_memory_limit_holds_under_load(image: str, library: Path, data: Path) -> None:
    """Within 96 MiB: scrapes without pause while hours of 8 GPUs go to Parquet; nobody is killed, and rows arrive."""
    fill(data, hours=2)
    with Container(library, data) as container:
        container.until(GPUS_UP)
        over = threading.Event()
        scraping = threading.Thread(target=scrape, args=(container, over))
        scraping.start()
        try:
            code, said = container.run("archive")
        finally:
            over.set()
            scraping.join()
        assert code == 0, said
        assert re.search(r"28[78]\d\d rows of gpu_metrics", said), said
        assert container.killed_for_memory() == 0
        assert container.inspect("State", "Running")
    assert list(data.glob("archive/table=gpu_metrics/date=*/*.parquet"))


def scrape(container: Container, over: threading.Event) -> None:
    """Scrape until it is over."""
    while not over.is_set():
        container.page()


def fill(data: Path, hours: int, interval: float = 2.0) -> None:
    """Write hours of 8 GPUs that are due for the archive."""
    first = (time.time() - 7 * DAY) // HOUR * HOUR - hours * HOUR
    connection = connect(data / "gpumon.db")
    writer = Writer(connection)
    node = Node(gpus=8, interval=interval, start=first)
    waiting = [pack(snapshot) for snapshot in node.snapshots(int(hours * HOUR / interval))]
    for begin in range(0, len(waiting), 1000):
        writer.write(waiting[begin : begin + 1000])
    connection.close()
    for file in data.glob("gpumon.db*"):
        file.chmod(0o666)


def test_size(image: str, tmp_path: Path) -> None:
    """80 MB at most, as a registry has it: the layers compressed by gzip."""
    tool.podman("push", "--quiet", "--compress", image, f"dir:{tmp_path}/image")
    manifest = json.loads((tmp_path / "image" / "manifest.json").read_text())
    assert sum(layer["size"] for layer in manifest["layers"]) < 80 * MEGABYTE


def test_there_is_no_tool_for_intruders(files: tarfile.TarFile) -> None:
    """No shell, package manager, compiler or downloader; nothing is set-uid; only /tmp and /data can be written to."""
    programs = [member.name for member in files if member.mode & 0o111 and not member.isdir()]
    assert not [name for name in programs if SHELLS.search(name)]
    assert not [member.name for member in files if member.isfile() and member.mode & (stat.S_ISUID | stat.S_ISGID)]
    assert {member.name for member in files if member.isdir() and member.mode & 0o002} == {"tmp"}
    assert {member.name for member in files if member.uid != 0} == {"data"}


def test_nothing_of_the_building_machine_is_left(files: tarfile.TarFile) -> None:
    """Authorities are Debian's, and neither caches nor pip's settings got in."""
    names = {member.name for member in files}
    assert not [name for name in names if name.endswith(("pip.conf", ".whl")) or "/pip/" in name or "/apt/" in name]
    bundle = text_in(files, "etc/ssl/certs/ca-certificates.crt")
    for extra in Path("/usr/local/share/ca-certificates").rglob("*.crt"):
        assert extra.read_text().strip() not in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 100


def test_python_is_compiled_once_and_for_all(files: tarfile.TarFile) -> None:
    """Every module has compiled code that is used without looking at the source's time."""
    names = {member.name for member in files}
    sources = [name for name in names if name.endswith(".py") and "/dist-packages/gpumon/" in name]
    assert len(sources) > 100
    for name in sources:
        folder, _, file = name.rpartition("/")
        [compiled] = [other for other in names if other.startswith(f"{folder}/__pycache__/{file[:-3]}.")]
        content = files.extractfile(compiled)
        assert content is not None
        assert content.read(8)[4:] == b"\x01\x00\x00\x00"  # by hash, not checked (PEP 552)


def test_bill_of_materials_has_all_that_is_inside(files: tarfile.TarFile) -> None:
    """Each Python package and each Debian package in the image is in it, once, with its version."""
    names = [member.name for member in files]
    bill = json.loads(text_in(files, "usr/share/sbom/gpumon.cdx.json"))
    listed = [bill["metadata"]["component"], *bill["components"]]
    purls = [component["purl"] for component in listed]
    assert len(set(purls)) == len(purls)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert f"pkg:pypi/gpumon@{__version__}" in purls
    installed = [re.search(r"([^/]+)-([^-/]+)\.dist-info/METADATA$", name) for name in names]
    python = {f"pkg:pypi/{found[1].lower().replace('_', '-')}@{found[2]}" for found in installed if found}
    debian = {name.rpartition("/")[2] for name in names if name.startswith("var/lib/dpkg/status.d/")}
    assert python == {purl for purl in purls if purl.startswith("pkg:pypi/")}
    assert debian == {component["name"] for component in listed if component["purl"].startswith("pkg:deb/")}
    assert {"libc6", "libssl3t64", "python3.13-minimal"} <= debian
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for component in listed[1:]:
        if component["purl"].startswith("pkg:pypi/"):
            assert component["version"] == locked[component["name"]]
    for name in debian:
        assert f"usr/share/doc/{name}/copyright" in names


def test_every_module_and_every_kind_of_archive_can_be_loaded(image: str) -> None:
    """What was left out of the packages is not missed by anything of gpumon's."""
    code = """
import importlib, pkgutil, gpumon, pyarrow.fs
for module in pkgutil.walk_packages(gpumon.__path__, "gpumon."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for uri in ("s3://bucket/x?region=us-east-1", "gs://anonymous@bucket/x", "abfs://container@account/x", "file:///data"):
    pyarrow.fs.FileSystem.from_uri(uri)
"""
    options = ("--rm", "--network=none", "--read-only", "--entrypoint=/usr/bin/python3")
    tool.podman("run", *options, image, "-c", code)


def test_what_the_image_says_of_itself(image: str) -> None:
    """Settings of the NVIDIA runtime, the volume, ports and the signal are in the image, so that nobody need know them."""
    [inspected] = json.loads(tool.podman("image", "inspect", image).stdout)
    config = inspected["Config"]
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"} <= set(config["Env"])
    assert config["User"] == f"{UID}:{UID}"
    assert set(config["Volumes"]) == {"/data"}
    assert set(config["ExposedPorts"]) == {"9090/tcp", "8010/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__

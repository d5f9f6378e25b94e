"""Assembles the image's file system: what of Debian and of the Python packages goes into it, and nothing else.

    python3 rootfs.py packages OUT PACKAGES   Python packages, without what nothing of gpumon's opens
    python3 rootfs.py system OUT PACKAGES     Python, the C library, and the libraries that these and the packages need
    python3 rootfs.py gpumon OUT PACKAGES     gpumon itself

Runs where the image is built, with that machine's own ldd and strip. Each OUT becomes a layer; all files in it have one
time stamp, SOURCE_DATE_EPOCH, and compiled Python beside them that is used without looking at it.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import sbom

STDLIB = Path(sysconfig.get_path("stdlib"))
SITE = Path("/usr/local", *STDLIB.parts[2:], "dist-packages")  # on the path of Debian's Python
UID = 65532  # "nonroot" of the images that have no distribution, so that what people have set up for it fits

# Of Python's own: tests, texts of its help, and modules whose libraries nothing else here needs.
STDLIB_WITHOUT = (
    *("**/__pycache__", "config-*", "pydoc_data", "sitecustomize.py", "test"),
    *("lib-dynload/*test*", "lib-dynload/_curses*", "lib-dynload/_dbm*", "lib-dynload/readline*"),
)

# What is for those who compile against a package or test it, then what gpumon does not use of one: of 67 MB compressed
# Flight is 11.6, symbols 3.9, sources and headers 1.5, second copies of a library 1.3, other modules 1.2, tests 0.5.
PACKAGES_WITHOUT = (
    *("bin", "**/__pycache__", "**/include", "**/tests", "vendor_licenses", "example.py"),
    *("**/*.c", "**/*.cc", "**/*.cmake", "**/*.h", "**/*.pxd", "**/*.pxi", "**/*.pyi", "**/*.pyx"),
    *("aiohttp/pytest_plugin.py", "aiohttp/test_utils.py"),
    # What neither Parquet, CSV, nor a file system that archive_dir may name needs; all libraries but Flight's are linked.
    *("pyarrow/libarrow*_flight.so*", "pyarrow/libarrow_python_parquet_encryption.so*", "pyarrow/src"),
    *("pyarrow/_cuda*", "pyarrow/_dataset*", "pyarrow/_feather*", "pyarrow/_flight*"),
    *("pyarrow/_hdfs*", "pyarrow/_json*", "pyarrow/_orc*", "pyarrow/_parquet_enc*", "pyarrow/_pyarrow_cpp*"),
    "pyarrow/_substrait*",
    # The loader asks for the name with the version of the ABI; the other two are the same once more.
    *("pyarrow/libarrow_python.so", "pyarrow/libarrow_python.so.*.*.*"),
)

# Libraries that the driver's library and nvidia-smi are linked with, and what finds names of hosts.
LIBRARIES = ("libdl.so.2", "libm.so.6", "libnss_dns.so.2", "libnss_files.so.2", "libpthread.so.0", "librt.so.1")

# The NVIDIA runtime mounts libraries where Debian has them if debian_version is there, and adds to ld.so.conf.d.
FILES = ("/etc/debian_version", "/etc/ld.so.conf", *map(str, Path("/etc/ld.so.conf.d").glob("*.conf")))
FOLDERS = ("dev", "etc/gpumon", "proc", "root", "run", "sys", "usr/bin", "usr/lib64", "usr/sbin", "var")
TEXTS = {
    "etc/passwd": f"root:x:0:0:root:/root:/nonexistent\ngpumon:x:{UID}:{UID}:gpumon:/home/gpumon:/nonexistent\n",
    "etc/group": f"root:x:0:\ngpumon:x:{UID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
ZONES = Path("/usr/share/zoneinfo")  # pyarrow looks up even UTC in it, where times become text
AUTHORITIES = Path("/usr/share/ca-certificates")
BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def packages(out: Path, source: Path) -> None:
    """Write the Python packages that gpumon needs."""
    site = out / SITE.relative_to("/")
    shutil.copytree(source, site)
    remove(site, PACKAGES_WITHOUT)
    for library in site.rglob("*.so*"):
        subprocess.run(["strip", "--strip-unneeded", library], check=True)
    finish(out)


def system(out: Path, source: Path) -> None:
    """Write what is below the packages: Python, the C library, authorities' certificates, accounts."""
    out.mkdir(parents=True)
    for link in (path for path in Path("/").iterdir() if path.is_symlink()):  # /bin, /lib and so on, into /usr
        (out / link.name).symlink_to(link.readlink())
    for folder in FOLDERS:
        (out / folder).mkdir(parents=True, exist_ok=True)
    stdlib = out / STDLIB.relative_to("/")
    shutil.copytree(STDLIB, stdlib, symlinks=True)
    remove(stdlib, STDLIB_WITHOUT)
    python = Path(sys.executable).resolve()
    shutil.copytree(ZONES, out / ZONES.relative_to("/"), symlinks=True)
    copy([python, *map(Path, FILES)], out)
    (out / "usr/bin/python3").symlink_to(python.name)
    copy(libraries([python, *stdlib.rglob("*.so"), *source.rglob("*.so*")], outside=source), out)
    for name, text in TEXTS.items():
        (out / name).write_text(text)
    # Not the machine's own bundle, which may hold authorities that only this machine trusts.
    (out / BUNDLE).parent.mkdir(parents=True)
    (out / BUNDLE).write_bytes(b"".join(path.read_bytes() for path in sorted(AUTHORITIES.rglob("*.crt"))))
    subprocess.run(["ldconfig", "-r", out], check=True)
    for folder, mode in (("data", 0o755), ("tmp", 0o1777)):
        (out / folder).mkdir()
        (out / folder).chmod(mode)
    # The settings file is mounted as /etc/gpumon/config.toml, where gpumon looks for it, whoever it runs as.
    settings = out / "home/gpumon/.config/gpumon"
    settings.parent.mkdir(parents=True)
    settings.symlink_to("/etc/gpumon")
    tell_packages(out)
    finish(out)
    os.chown(out / "data", UID, UID)


def gpumon(out: Path, source: Path) -> None:
    """Write gpumon and its command."""
    site = out / SITE.relative_to("/")
    shutil.copytree(source, site)
    shutil.rmtree(site / "bin")
    command = out / "usr/bin/gpumon"
    command.parent.mkdir(parents=True)
    # -P and -s: only what is in the image is imported, whatever the working folder or the home holds.
    command.write_text("#!/usr/bin/python3 -Ps\nfrom gpumon.cli import main\n\nmain()\n")
    command.chmod(0o755)
    bill = out / sbom.PLACE
    bill.parent.mkdir(parents=True)
    bill.write_text(sbom.bill([out.parent / "system", out.parent / "packages", out]))
    finish(out)


def remove(folder: Path, patterns: Iterable[str]) -> None:
    """Delete what the patterns match in a folder."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=not path.exists())
        else:
            path.unlink(missing_ok=True)


def libraries(programs: Iterable[Path], outside: Path) -> set[Path]:
    """Give the shared libraries that programs and LIBRARIES need, but those in `outside`. RuntimeError names a missing one."""
    found = set()
    folder = Path("/usr/lib", str(sysconfig.get_config_var("MULTIARCH")))
    for program in (*programs, *(folder / name for name in LIBRARIES)):
        told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        if missing := re.findall(r"(\S+) => not found", told):
            raise RuntimeError(f"{program} needs {', '.join(missing)}")
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", told) if not path.startswith(str(outside))}
    return found | {folder / name for name in LIBRARIES}


def copy(files: Iterable[Path], out: Path) -> None:
    """Copy files to their own places below `out`, with their folders' real names, and links with what they lead to."""
    for file in sorted(files):
        place = file.parent.resolve() / file.name
        target = out / place.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            continue
        shutil.copy2(place, target, follow_symlinks=False)
        if place.is_symlink():
            copy([place.resolve()], out)


def tell_packages(out: Path) -> None:
    """Write which of Debian's packages the files are from, where scanners look for it, and their licences."""
    files = [f"/{path.relative_to(out)}" for path in out.rglob("*") if path.is_file()]
    # Fails for what no package has, as the accounts and what the installer of Python compiled.
    told = subprocess.run(["dpkg", "-S", *files], capture_output=True, text=True, check=False).stdout
    owners = {line.split(": ")[0].split(":")[0] for line in told.splitlines()} | {"ca-certificates"}
    for name in sorted(owners):
        stanza = subprocess.run(["dpkg", "-s", name], capture_output=True, check=True).stdout
        for target, content in (
            (out / sbom.STANZAS / name, stanza),
            (out / f"usr/share/doc/{name}/copyright", Path(f"/usr/share/doc/{name}/copyright").read_bytes()),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def finish(out: Path) -> None:
    """Compile Python, and set every time stamp."""
    compileall.compile_dir(
        out, quiet=1, stripdir=str(out), prependdir="/", invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    for path in (*out.rglob("*"), out):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


LAYERS = {"packages": packages, "system": system, "gpumon": gpumon}

if __name__ == "__main__":
    LAYERS[sys.argv[1]](*map(Path, sys.argv[2:]))

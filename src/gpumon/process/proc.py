"""What the kernel tells of a process: /proc/<pid>, here or of the host mounted elsewhere (proc(5)).

Read by hand: psutil takes four times as long for the same facts, which for 200 processes was twice a tick's budget.
What does not change is read once per process; a process is its pid and the moment it started, so that a reused pid is another.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakValueDictionary

from gpumon.process.command import Command, parse

# The kernel's fixed inode number of the first pid namespace (PROC_PID_INIT_INO in its include/linux/proc_ns.h).
HOST_PID_NAMESPACE = "pid:[4026531836]"

# A longer command line is cut: the kernel allows megabytes, and what decides stands at the beginning.
COMMAND_LINE_BYTES = 16384
# Maps of a process with CUDA and a framework are about 300 kB.
MAPS_BYTES = 4 << 20
# So many processes have their stat file kept open, which makes it half as dear to read again; but no more than this
# share of the files gpumon may open.
MOST_OPEN, OPEN_SHARE = 512, 0.25
# Chains of parents are short; a longer one would be a loop by reused pids.
MOST_ANCESTORS = 32

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """What changes of a process, from /proc/<pid>/stat; `ticks` is the start, in clock ticks since boot."""

    name: str
    parent: int
    cpu_seconds: float
    ticks: int
    resident_bytes: int


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Origin:
    """How a process was started, and by whom; the same for its whole life."""

    pid: int
    ticks: int
    name: str
    command: Command
    path: str  # first word of the command line: of the program, as it was called
    argv: tuple[str, ...]  # empty unless command lines are kept
    parent: Origin | None

    @property
    def ancestors(self) -> Iterator[Origin]:
        """Give parent, grandparent and so on."""
        origin = self.parent
        while origin is not None:
            yield origin
            origin = origin.parent


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one process; None where the kernel does not tell, and `denied` names those files."""

    origin: Origin
    started: float  # Unix seconds
    uid: int | None
    user: str
    cgroup: str | None
    denied: tuple[str, ...]


class Proc:
    """A mounted /proc. `reads` counts the files read, by name.

    Command lines are taken apart and not kept, unless `keep_command_lines` says so.
    """

    def __init__(self, root: str = "/proc", *, keep_command_lines: bool = False) -> None:
        self.root = root
        self._keep = keep_command_lines
        self.reads: dict[str, int] = {}
        self._origins: WeakValueDictionary[int, Origin] = WeakValueDictionary()
        self._parents: dict[int, Stat | None] = {}  # of this tick
        self._users: dict[int, str] = {}
        self._open: dict[int, int] = {}  # stat files kept open, by pid
        self._most_open = min(MOST_OPEN, int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * OPEN_SHARE))
        self._booted = self._boot_time()

    def sees_host(self) -> bool:
        """Say whether the pids here are the host's, which are those the driver gives."""
        # Only the first pid namespace has the parent of all kernel threads, at pid 2; hidepid= may hide it.
        if self._read(2, "comm", 64) == b"kthreadd\n":
            return True
        try:
            return self.root == "/proc" and os.readlink("/proc/self/ns/pid") == HOST_PID_NAMESPACE  # noqa: PTH115 - a str
        except OSError:
            return False

    def stat(self, pid: int, *, keep: bool = False) -> Stat | None:
        """Give what changes of a process; None when there is none. `keep` is for one that will be asked again."""
        text = self._read_kept(pid) if keep else self._read(pid, "stat", 4096)
        if not text:
            return None
        head, _, rest = text.rpartition(b")")
        fields = rest.split(None, 22)
        # Numbers of proc(5) less 3, since the name was cut off: 4 ppid, 14 utime, 15 stime, 22 starttime, 24 rss.
        return Stat(
            head.partition(b"(")[2].decode(errors="replace"),
            int(fields[1]),
            (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
            int(fields[19]),
            int(fields[21]) * _PAGE_BYTES,
        )

    def begin_tick(self) -> None:
        """Let go of what is true for one tick only."""
        self._parents = {}

    def forget(self, pid: int) -> None:
        """Close what is kept of a process."""
        file = self._open.pop(pid, None)
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Close all that is kept."""
        for pid in list(self._open):
            self.forget(pid)

    def _read_kept(self, pid: int) -> bytes | None:
        """Read stat from the file kept open: one of a process that has ended gives nothing, even if its pid is in use again."""
        file = self._open.get(pid)
        if file is not None:
            self.reads["stat"] = self.reads.get("stat", 0) + 1
            try:
                return os.pread(file, 4096, 0)
            except OSError:  # ESRCH: it has ended
                self.forget(pid)
        if len(self._open) < self._most_open:
            try:
                self._open[pid] = os.open(f"{self.root}/{pid}/stat", os.O_RDONLY)
            except OSError:
                return None
            return self._read_kept(pid)
        return self._read(pid, "stat", 4096)

    def facts(self, pid: int, stat: Stat) -> Facts:
        """Read what does not change of a process whose stat was just read."""
        denied: list[str] = []
        cgroup = self._read(pid, "cgroup", 16384, denied)
        uid = self._owner(pid)
        return Facts(
            self._origin(pid, stat),
            self._booted + stat.ticks / _TICKS_PER_SECOND,
            uid,
            self._user(uid),
            None if cgroup is None else cgroup.decode(errors="replace"),
            tuple(denied),
        )

    def libraries(self, pid: int) -> frozenset[str] | None:
        """Give the file names of the shared libraries a process has loaded; None when the kernel refuses.

        Costs about a millisecond for a process with CUDA.
        """
        text = self._read(pid, "maps", MAPS_BYTES)
        if text is None:
            return None
        paths = {line[at:] for line in text.split(b"\n") if (at := line.find(b"/")) > 0 and b".so" in line}
        return frozenset(path.rpartition(b"/")[2].decode(errors="replace") for path in paths)

    def listening(self, pid: int) -> frozenset[int] | None:
        """Give the TCP ports a process listens on; None when the kernel refuses. Costs a link per open file."""
        folder = f"{self.root}/{pid}/fd"
        try:
            held = {os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}  # noqa: PTH115, PTH208 - speed
        except OSError:
            return None
        sockets = {link[8:-1] for link in held if link.startswith("socket:[")}
        if not sockets:
            return frozenset()
        ports = set()
        for table in ("net/tcp", "net/tcp6"):
            for line in (self._read(pid, table, MAPS_BYTES) or b"").decode().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in sockets:  # TCP_LISTEN of the kernel's tcp_states.h
                    ports.add(int(fields[1].rpartition(":")[2], 16))
        return frozenset(ports)

    def _origin(self, pid: int, stat: Stat, depth: int = 0) -> Origin:
        """Give how a process was started, read at most once for each, its ancestors included."""
        known = self._origins.get(pid)
        if known is not None and known.ticks == stat.ticks:
            return known
        parent = None
        if stat.parent > 0 and depth < MOST_ANCESTORS:
            parent_stat = self._parent_stat(stat.parent)
            if parent_stat is not None and parent_stat.ticks <= stat.ticks:
                parent = self._origin(stat.parent, parent_stat, depth + 1)
        line = self._read(pid, "cmdline", COMMAND_LINE_BYTES) or b""
        argv = tuple(word.decode(errors="replace") for word in line.rstrip(b"\0").split(b"\0") if line)
        command, path = parse(argv, stat.name), argv[0] if argv else ""
        origin = Origin(pid, stat.ticks, stat.name, command, path, argv if self._keep else (), parent)
        self._origins[pid] = origin
        return origin

    def _parent_stat(self, pid: int) -> Stat | None:
        """Give the stat of a parent, read once per tick: most processes that start together have the same."""
        if pid not in self._parents:
            self._parents[pid] = self.stat(pid)
        return self._parents[pid]

    def _user(self, uid: int | None) -> str:
        """Give a user's name; the number for one this machine (or container) does not know, "" for None."""
        if uid is None:
            return ""
        if uid not in self._users:
            import pwd

            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]

    def home(self, uid: int | None) -> str | None:
        """Give a user's home folder; None for one this machine (or container) does not know."""
        import pwd

        try:
            return None if uid is None else pwd.getpwuid(uid).pw_dir
        except KeyError:
            return None

    def _boot_time(self) -> float:
        for line in (self._read(None, "stat", 1 << 20) or b"").splitlines():
            if line.startswith(b"btime "):
                return float(line[6:])
        return 0.0

    def exe(self, pid: int) -> str | None:
        """Give the path of the program a process runs, of one that is an interpreter the interpreter's; None when refused."""
        self.reads["exe"] = self.reads.get("exe", 0) + 1
        try:
            return os.readlink(f"{self.root}/{pid}/exe").removesuffix(" (deleted)")  # noqa: PTH115 - speed
        except OSError:
            return None

    def _owner(self, pid: int) -> int | None:
        """Give the effective user, who owns the folder; root does for the few processes that are not dumpable (proc(5))."""
        try:
            return os.stat(f"{self.root}/{pid}").st_uid  # noqa: PTH116 - speed; reading `status` takes four times as long
        except OSError:
            return None

    def _read(self, pid: int | None, name: str, limit: int, denied: list[str] | None = None) -> bytes | None:
        self.reads[name] = self.reads.get(name, 0) + 1
        path = f"{self.root}/{name}" if pid is None else f"{self.root}/{pid}/{name}"
        try:
            file = os.open(path, os.O_RDONLY)
        except PermissionError:
            if denied is not None:
                denied.append(name)
            return None
        except OSError:
            return None
        try:
            return _read_all(file, limit)
        except PermissionError:
            if denied is not None:
                denied.append(name)
        except OSError:  # ESRCH: the process ended meanwhile
            pass
        finally:
            os.close(file)
        return None


def _read_all(file: int, limit: int) -> bytes:
    """Read to the end or the limit: the kernel gives long files in pieces."""
    text = os.read(file, min(limit, 65536))
    if len(text) < 4000 or len(text) >= limit:  # less than a page is all there is
        return text
    pieces = [text]
    left = limit - len(text)
    while left > 0 and (text := os.read(file, min(left, 65536))):
        pieces.append(text)
        left -= len(text)
    return b"".join(pieces)

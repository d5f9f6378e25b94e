"""What nvidia-smi prints, sorted into rows of cells, GPUs it cannot open, and all else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpumon.gpu.smi_fields import absence
from gpumon.gpu.xid import pci_address

_SEPARATOR = ", "
UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z-]{1,80}")
INDEX = re.compile(r"[0-9]{1,4}")
# "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU",
# also with "gpu", with no space before the address, and with the index in between ("GPU2: 0000:88:00.0").
_LOST = re.compile(
    r"Unable to determine the device handle for gpu\s*(?:[0-9]+:\s+)?"
    r"([0-9a-f]{1,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]):(.*)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Answer:
    """What nvidia-smi printed, sorted."""

    rows: list[dict[str, str]] = field(default_factory=list)  # cells by field name
    lost: dict[str, str] = field(default_factory=dict)  # reasons by PCI address
    rest: list[str] = field(default_factory=list)  # lines that are neither
    code: int | None = 0


def parse(text: str, fields: Sequence[str]) -> Answer:
    """Sort what nvidia-smi printed: a row has a cell for every field, the last of which may hold the separator."""
    answer = Answer()
    *lines, cut_off = text.split("\n")
    for line in lines:
        line = line.rstrip("\r")
        cells = line.split(_SEPARATOR, len(fields) - 1) if fields else []
        lost = _LOST.search(line)
        if lost is not None:
            address = pci_address(lost[1])
            assert address is not None
            answer.lost[address] = " ".join(lost[2].split())[:120] or "no device handle"
        elif cells and len(cells) == len(fields) and _tells_which(cells[0]):
            answer.rows.append(dict(zip(fields, (cell.strip() for cell in cells), strict=True)))
        else:
            answer.rest += printable_lines(line)
    answer.rest += printable_lines(cut_off)
    return answer


def _tells_which(cell: str) -> bool:
    return bool(INDEX.fullmatch(cell) or UUID.fullmatch(cell) or absence(cell))


def printable_lines(text: str) -> list[str]:
    """Give the lines that say something, fit to stand in a sentence."""
    lines = ("".join(char for char in line if char.isprintable()).strip()[:200] for line in text.splitlines())
    return [line for line in lines if line]

"""What the well-known XIDs mean and what to do about them.

Facts from NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors, release of October 2025); the words are ours.
The driver's own advice for a device is `gpumon_gpu_recovery_action`; where it differs, follow that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Xid:
    """One code: its meaning and the advised action, each a few words."""

    meaning: str
    advice: str


RESTART_APPLICATION = "Restart the application."
CHECK_APPLICATION = "Restart the application and look for the fault in it; if many applications meet it, test the GPU."
RESET_GPU = "Stop what uses the GPU and reset it; if it comes again, contact the vendor."
FOLLOW_OTHER = "Nothing by itself: look at the XIDs around it."
RESTART_NODE = "Drain and restart the node; if it comes again, have power, slot and GPU checked."
CHECK_LINK = "Reset the GPU; if it comes again, have the link, its connector and the GPU at its other end checked."
WATCH = "Nothing now; if it comes often, contact the vendor."
AT_NEXT_RESET = "Nothing now: it takes effect when the GPU is reset next."

UNKNOWN_XID = Xid("not known to gpumon", "Look it up in NVIDIA's Xid catalogue.")

XIDS: dict[int, Xid] = {
    8: Xid("GPU stopped processing", RESTART_APPLICATION),
    11: Xid("invalid or damaged command stream", CHECK_APPLICATION),
    13: Xid("exception in the graphics or compute engine, mostly an access out of bounds", CHECK_APPLICATION),
    31: Xid("memory page fault: an address that is not mapped was used", CHECK_APPLICATION),
    32: Xid("invalid or damaged command stream met by the DMA engine", CHECK_APPLICATION),
    38: Xid("driver firmware error", WATCH),
    43: Xid("an application's channel was reset after a fault of its own; the GPU is well", CHECK_APPLICATION),
    45: Xid("an application's work was removed: it was ended, or another error came before", FOLLOW_OTHER),
    46: Xid("GPU stopped processing", RESET_GPU),
    48: Xid("memory error that ECC could not correct", "Drain and reset the GPU; see also the XIDs around it."),
    61: Xid("internal micro-controller breakpoint", "Contact the vendor."),
    62: Xid("internal micro-controller halted", RESET_GPU),
    63: Xid("a row of memory was marked for replacement, or a page retired", AT_NEXT_RESET),
    64: Xid("a row of memory could not be marked for replacement, or a page not retired", RESET_GPU),
    68: Xid("exception in the video decoder", RESTART_APPLICATION),
    69: Xid("class error in the graphics or compute engine", CHECK_APPLICATION),
    74: Xid("NVLink error", CHECK_LINK),
    79: Xid(
        "GPU has fallen off the bus",
        RESTART_NODE,
    ),
    92: Xid("many memory errors, corrected by ECC", WATCH),
    94: Xid("memory error contained to one application", RESTART_APPLICATION),
    95: Xid("memory error that could not be contained", "Stop everything on the GPU and reset it."),
    109: Xid("context switch timed out", RESET_GPU),
    110: Xid("security fault", RESET_GPU),
    119: Xid("the GPU's system processor (GSP) did not answer in time", RESET_GPU),
    120: Xid("error in the GPU's system processor (GSP)", RESET_GPU),
    121: Xid("error on the chip-to-chip link, corrected", WATCH),
    136: Xid("an NVLink could not be trained", CHECK_LINK),
    137: Xid("NVLink privilege error", FOLLOW_OTHER),
    140: Xid("memory error that was not recovered from", RESET_GPU),
    141: Xid("error in CUDA's fast path", WATCH),
    143: Xid("the GPU could not be initialised", RESET_GPU),
    144: Xid("NVLink error (SAW)", CHECK_LINK),
    145: Xid("NVLink error (RLW)", CHECK_LINK),
    146: Xid("NVLink error (TLW)", CHECK_LINK),
    147: Xid("NVLink error (TREX)", CHECK_LINK),
    148: Xid("NVLink error (NVLPW_CTRL)", CHECK_LINK),
    149: Xid("NVLink error (NETIR)", CHECK_LINK),
    150: Xid("NVLink error (MSE)", CHECK_LINK),
    154: Xid("the driver's advised recovery action changed", "Do what gpumon_gpu_recovery_action says."),
    155: Xid("NVLink error defined by software", RESET_GPU),
    156: Xid("a part of the GPU was marked to be taken out of use", RESET_GPU),
    157: Xid("a part of the GPU could not be taken out of use", "Contact the vendor."),
    158: Xid("fatal time-out in the GPU", RESET_GPU),
    171: Xid("details of XID 48: the error was in device memory", "See XID 48."),
    172: Xid("details of XID 48: the error was in on-chip memory", "See XID 48."),
}

# Codes that leave the GPU usable: what was contained to one application, or takes effect at the next reset.
CONTAINED_XIDS = frozenset({94, 154} | {code for code, xid in XIDS.items() if xid.advice in (WATCH, AT_NEXT_RESET)})
# Codes that are mostly an application's own fault, or follow from another.
APPLICATION_XIDS = (
    frozenset(
        code for code, xid in XIDS.items() if xid.advice in (RESTART_APPLICATION, CHECK_APPLICATION, FOLLOW_OTHER)
    )
    - CONTAINED_XIDS
)


def explain(labels: Mapping[str, str]) -> Xid:
    """Give what is known of the XID that a label `xid` has."""
    code = labels["xid"]
    return XIDS.get(int(code), UNKNOWN_XID) if code.isdecimal() else UNKNOWN_XID

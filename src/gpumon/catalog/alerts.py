"""Every alert gpumon raises by itself. To add one, add a row; `gpumon docs` writes it into docs/alerts.md."""

from __future__ import annotations

from gpumon.catalog.alert import Alert
from gpumon.catalog.alerts_device import DEVICE, LINKS
from gpumon.catalog.alerts_heat import HEAT_AND_MEMORY, THROTTLING
from gpumon.catalog.alerts_service import OWN, SERVERS

ALERTS: tuple[Alert, ...] = HEAT_AND_MEMORY + THROTTLING + DEVICE + LINKS + SERVERS + OWN

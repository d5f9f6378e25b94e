"""What the store says of itself: whether history is kept, what it holds, what was lost."""

from __future__ import annotations

from gpumon.catalog.model import EntityKind, Label, Reading

STORAGE = EntityKind(
    "storage",
    "Keeping history on disk. Present while storage is on.",
    prefix="storage",
    readings=(
        Reading(name="up", help="1 while ticks can be written to the database, 0 while they are kept in memory."),
        Reading(name="waiting_ticks", help="Ticks in memory that are not written yet."),
        Reading(name="write_duration_seconds", help="Time the last write to the database took."),
        Reading(name="volume_free_bytes", help="Space that gpumon may still use on the volume of `service.data_dir`."),
        Reading(name="volume_size_bytes", help="Size of that volume."),
    ),
)

STORAGE_SIZE = EntityKind(
    "storage_size",
    "Space that history takes.",
    prefix="storage",
    labels=(Label("kind", '"database" or "archive".'),),
    readings=(Reading(name="used_bytes", help="Bytes on disk, or in the object store."),),
)

STORAGE_TABLE = EntityKind(
    "storage_table",
    "One table of the database.",
    prefix="storage",
    labels=(Label("table", "Name of the table."),),
    readings=(
        Reading(name="written_rows_total", help="Rows written since gpumon started."),
        Reading(
            name="dropped_rows_total",
            help="Rows lost since gpumon started, because they could not be written for longer than memory holds.",
        ),
    ),
)

ARCHIVE = EntityKind(
    "archive",
    "Moving old rows to Parquet. Present from the first run of the archive since gpumon started.",
    prefix="archive",
    readings=(
        Reading(name="success", help="1 when the last run did all it had to, 0 when it failed; the event says why."),
        Reading(name="last_success_timestamp_seconds", help="Unix time of the end of the last run that succeeded."),
        Reading(name="duration_seconds", help="Time the last run took."),
        Reading(name="rows_total", help="Rows moved to the archive, or deleted without one, since gpumon started."),
        Reading(
            name="removed_files_total",
            help="Files of the archive deleted since gpumon started, for archive_retention_days or max_disk_bytes.",
        ),
    ),
)

STORAGE_KINDS = (STORAGE, STORAGE_SIZE, STORAGE_TABLE, ARCHIVE)

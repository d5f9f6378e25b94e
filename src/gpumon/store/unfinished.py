"""Events that a gpumon which ended has begun: whoever starts after it says that their end is not known."""

from __future__ import annotations

import sqlite3

from gpumon.store.database import Transaction

# An end is written after its beginning, whatever the clock says, under the same name, of the same GPU and subject.
_END = """
INSERT INTO events (timestamp, kind, message, gpu_id, gpu_uuid, subject, detail)
SELECT max(begun.began, coalesce((SELECT max(timestamp) FROM gpu_metrics), '')), begun.name || '_end',
       begun.message || ': gpumon ended before this did; when it was over is not known',
       begun.gpu_id, begun.gpu_uuid, begun.subject, '{"end_known": false}'
FROM (
    SELECT substr(kind, 1, length(kind) - length('_start')) AS name, timestamp AS began, max(id) AS id, message,
           gpu_id, gpu_uuid, subject
    FROM events WHERE kind LIKE '%\\_start' ESCAPE '\\' GROUP BY kind, gpu_uuid, subject
) AS begun
WHERE NOT EXISTS (
    SELECT 1 FROM events AS ended
    WHERE ended.kind = begun.name || '_end' AND ended.id > begun.id
      AND ended.gpu_uuid IS begun.gpu_uuid AND ended.subject IS begun.subject
)
"""


def end_unfinished(connection: sqlite3.Connection) -> int:
    """Write an end for each event that has none, at the time of the last readings; give how many.

    To be called before this process writes events of its own. What goes on begins anew.
    """
    with Transaction(connection):
        return connection.execute(_END).rowcount

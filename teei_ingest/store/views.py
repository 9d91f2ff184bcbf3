"""The views of `teei sql`: SQL text in DuckDB's dialect, and a sentence about each.

Belongs here: what a view says. Does not belong here: running it (`sql.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from teei_ingest.contracts.base import Data, is_directory
from teei_ingest.contracts.stored import arrow_schema
from teei_ingest.redact.text import MARK
from teei_ingest.store.presence import GONE, READ
from teei_ingest.store.tables import contracts
from teei_ingest.systems import all_systems


class View(NamedTuple):
    """`sql` is None where the view is a contract's table itself."""

    sql: str | None
    description: str


def columns(contract: type[Data]) -> tuple[str, ...]:
    """Columns of a contract's view, in order."""
    return tuple(arrow_schema(contract).names)


def _current(contract: type[Data]) -> str:
    # An emptied source_id names no record: such rows stand for themselves.
    newest = f"""
SELECT {", ".join(f'"{name}"' for name in columns(contract))}
FROM {contract.table}
QUALIFY row_number() OVER (
    PARTITION BY company, stream, coalesce(source_id, event_id)
    ORDER BY source_timestamp DESC, "timestamp" DESC, event_id DESC
) = 1"""
    return _with_presence(newest) if is_directory(contract) else newest


def _with_presence(newest: str) -> str:
    return f"""
SELECT
    entry.*,
    CASE
        WHEN entry.source_id <> '{MARK}' AND whole.stream IS NOT NULL THEN gone.event_id IS NULL
    END AS present
FROM ({newest}
) AS entry
LEFT JOIN {READ} AS whole ON whole.company = entry.company AND whole.stream = entry.stream
LEFT JOIN {GONE} AS gone
    ON gone.company = entry.company AND gone.stream = entry.stream AND gone.event_id = entry.event_id"""


def _people() -> str:
    seen = "\n    UNION ALL ".join(
        f"SELECT company, source_system, external_user_id, user_id, source_timestamp FROM {contract.table}"
        for contract in contracts()
    )
    names = " ".join(f"WHEN '{system.name}' THEN '{system.namespace}'" for system in all_systems().values())
    return f"""
SELECT
    company,
    CASE source_system {names} ELSE source_system END AS namespace,
    external_user_id,
    user_id,
    max(source_timestamp) AS last_seen
FROM (
    {seen}
)
WHERE external_user_id <> user_id
GROUP BY ALL"""


PRESENT = (
    " `present` says whether the whole directory, as it was read last, has them; null where it never was, or where the "
    "policy keeps no token of the record."
)

ORG_HIERARCHY = """
WITH RECURSIVE chains AS (
    SELECT company, source_id, manager_id AS above, [source_id] AS path
    FROM current_directory_entries
    WHERE source_id IS NOT NULL
    UNION ALL
    SELECT chains.company, chains.source_id, manager.manager_id, list_prepend(manager.source_id, chains.path)
    FROM chains
    JOIN current_directory_entries AS manager
        ON manager.company = chains.company AND manager.source_id = chains.above
    WHERE NOT list_contains(chains.path, manager.source_id)
),
longest AS (
    SELECT company, source_id, arg_max(path, len(path)) AS path
    FROM chains
    GROUP BY ALL
)
SELECT company, source_id, user_id, manager_id, len(path) - 1 AS depth, path, department, cost_center
FROM current_directory_entries
JOIN longest USING (company, source_id)"""

HOURS_BY_COST_CENTER = """
WITH identity AS (
    SELECT company, external_user_id AS token, arg_max(user_id, (last_seen, user_id)) AS person
    FROM people
    GROUP BY ALL
),
directory AS (
    SELECT
        entry.company,
        coalesce(identity.person, entry.user_id) AS person,
        entry.source_timestamp,
        arg_max({'cost_center': entry.cost_center, 'department': entry.department}, entry.event_id) AS place
    FROM directory_entries AS entry
    LEFT JOIN identity ON identity.company = entry.company AND identity.token = entry.user_id
    WHERE entry.user_id IS NOT NULL
    GROUP BY ALL
),
periods AS (
    -- The oldest entry also stands for the time before it.
    SELECT
        company,
        person,
        place,
        CASE WHEN row_number() OVER own > 1 THEN source_timestamp ELSE '-infinity' END AS since,
        lead(source_timestamp, 1, 'infinity') OVER own AS until
    FROM directory
    WINDOW own AS (PARTITION BY company, person ORDER BY source_timestamp)
),
activities AS (
    SELECT
        activity.company,
        coalesce(identity.person, activity.user_id, activity.external_user_id) AS person,
        activity.activity_date,
        activity.hours_logged
    FROM current_volunteer_events AS activity
    LEFT JOIN identity
        ON identity.company = activity.company
        AND identity.token = coalesce(activity.user_id, activity.external_user_id)
)
SELECT
    activities.company,
    place.cost_center AS cost_center,
    place.department AS department,
    date_trunc('month', activity_date)::DATE AS "month",
    fsum(hours_logged) AS hours,
    count(*) AS activities
FROM activities
LEFT JOIN periods
    ON periods.company = activities.company
    AND periods.person = activities.person
    AND activities.activity_date >= periods.since
    AND activities.activity_date < periods.until
GROUP BY ALL"""


def views() -> dict[str, View]:
    """All views by name, in an order in which each needs only earlier ones."""
    tables = {c.table: View(None, f"{_first_line(c)} Every version that was received.") for c in contracts()}
    current = {
        f"current_{c.table}": View(
            _current(c),
            f"{_first_line(c)} The latest version of every record.{PRESENT if is_directory(c) else ''}",
        )
        for c in contracts()
    }
    return {
        **tables,
        **current,
        "people": View(
            _people(),
            "Which token of an id and which token of a person stand for one person: a record that has only the id "
            "joins through it.",
        ),
        "org_hierarchy": View(
            ORG_HIERARCHY,
            "Everybody in the directory once, with the chain of managers from the top; a chain that runs in a circle "
            "is cut where it would repeat.",
        ),
        "hours_by_cost_center": View(
            HOURS_BY_COST_CENTER,
            "Volunteer hours by company, cost centre, department and month, from the directory as of the activity's "
            "date; hours that nobody in the directory gave have a null cost centre, so totals always agree.",
        ),
    }


def _first_line(contract: type[Data]) -> str:
    return (contract.__doc__ or contract.__name__).strip().splitlines()[0]

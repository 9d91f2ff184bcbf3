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

# Of fewer people than these nothing is told to who counts without names.
FEWEST = 5


class Column(NamedTuple):
    """A column of a view that is released: DuckDB's type, what it counts in, and, where it is a list, its `values`."""

    name: str
    type: str
    unit: str
    description: str
    nullable: bool = False
    values: tuple[str, ...] = ()


class View(NamedTuple):
    """`sql` is None where the view is a contract's table itself; `columns` are those of a released view."""

    sql: str | None
    description: str
    columns: tuple[Column, ...] = ()


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
WHERE external_user_id <> user_id AND '{MARK}' NOT IN (external_user_id, user_id)
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

_IDENTITY = """
WITH identity AS (
    SELECT company, external_user_id AS token, arg_max(user_id, (last_seen, user_id)) AS person
    FROM people
    GROUP BY ALL
)"""

HOURS_BY_COST_CENTER = (
    _IDENTITY
    + """,
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
)

# What the calculators count, a row for each record. A measure may be added; what one says may not change.
_FACTS = (
    _IDENTITY
    + """,
facts AS (
    SELECT
        company, company_id, 'volunteer_hours' AS measure, 'hours' AS unit, activity_date AS moment,
        coalesce(user_id, external_user_id) AS token, hours_logged AS hours, NULL::DECIMAL(18, 4) AS amount
    FROM current_volunteer_events
    UNION ALL
    SELECT
        company, company_id, 'placements', 'placements', placement_date,
        coalesce(user_id, external_user_id), NULL, NULL
    FROM current_placement_events
    UNION ALL
    SELECT
        company, company_id, 'completions', 'completions', coalesce(completion_date, source_timestamp),
        coalesce(user_id, external_user_id), NULL, NULL
    FROM current_enrollment_events
    WHERE status = 'completed'
    UNION ALL
    SELECT
        company, company_id, 'donations', currency, donation_date,
        coalesce(user_id, external_user_id), NULL, amount
    FROM current_donation_events
)"""
)
MEASURES = ("volunteer_hours", "placements", "completions", "donations")
_SUM = "DECIMAL(28, 4)"  # more than 10²⁴ of anything is null
_KEY = 'facts.company, company_id, "month", measure'
# By unit, and over all units of a measure (`unit` is null), with how many people each group has; a mask is nobody.
_GROUPS = f"""{_FACTS},
groups AS (
    SELECT
        facts.company,
        company_id,
        date_trunc('month', moment)::DATE AS "month",
        measure,
        unit,
        count(DISTINCT nullif(coalesce(identity.person, facts.token), '{MARK}')) AS people,
        count(*) AS records,
        try_cast(fsum(hours) AS {_SUM}) AS hours,
        try_cast(sum(amount) AS {_SUM}) AS amount
    FROM facts
    LEFT JOIN identity ON identity.company = facts.company AND identity.token = facts.token
    WHERE moment IS NOT NULL AND unit IS NOT NULL  -- as every contract has it
    GROUP BY GROUPING SETS (({_KEY}, unit), ({_KEY}))
)"""


def _figure(measure: str, figure: str) -> str:
    """A figure of a measure: 0 where there is no record, null where too few people have some."""
    of = f"FILTER (measure = '{measure}' AND fewest >= {FEWEST})"
    return f"CASE WHEN bool_or(measure = '{measure}') THEN max({figure}) {of} ELSE 0 END"


_SROI = f"""{_GROUPS}
SELECT
    company,
    company_id,
    "month",
    measure,
    unit,
    CASE
        WHEN people < {FEWEST} THEN NULL
        WHEN measure = 'volunteer_hours' THEN hours
        WHEN measure = 'donations' THEN amount
        ELSE records::{_SUM}
    END AS value,
    CASE WHEN people >= {FEWEST} THEN people END AS people
FROM groups
WHERE unit IS NOT NULL"""

# A total over units is told only if each of them is: else the rest of it, a small group, would be a subtraction away.
_VIS = f"""{_GROUPS},
totals AS (
    SELECT *, min(people) OVER (PARTITION BY company, company_id, "month", measure) AS fewest
    FROM groups
    QUALIFY unit IS NULL
)
SELECT
    company,
    company_id,
    "month",
    {_figure("volunteer_hours", "people")} AS volunteers,
    {_figure("volunteer_hours", "records")} AS activities,
    {_figure("volunteer_hours", "hours")} AS hours,
    {_figure("placements", "people")} AS placed,
    {_figure("placements", "records")} AS placements,
    {_figure("completions", "people")} AS completers,
    {_figure("completions", "records")} AS completions,
    {_figure("donations", "people")} AS donors,
    {_figure("donations", "records")} AS donations
FROM totals
GROUP BY company, company_id, "month"
"""

_WHEN_AND_WHO = (
    Column("company", "VARCHAR", "", "Slug of the company"),
    Column("company_id", "VARCHAR", "UUID", "Id of the company, as in its events"),
    Column("month", "DATE", "first day of a UTC month", "When it took place"),
)


def _count(name: str, unit: str, description: str) -> Column:
    return Column(name, "BIGINT", unit, description, nullable=True)


RELEASED = {
    "sroi_v1": View(
        _SROI,
        "For the SROI calculator: what a company's people gave and reached, by company, month and measure; figures of "
        f"fewer than {FEWEST} people are null.",
        (
            *_WHEN_AND_WHO,
            Column("measure", "VARCHAR", "", "What is counted; others may be added", values=MEASURES),
            Column("unit", "VARCHAR", "", "`hours`, `placements`, `completions`, or the donations' ISO 4217 currency"),
            Column("value", "DECIMAL(28,4)", "`unit`", "How much or how many", nullable=True),
            _count("people", "people", "How many different people it comes from"),
        ),
    ),
    "vis_v1": View(
        _VIS,
        "For the VIS calculator: how many people did how much, by company and month; figures of fewer than "
        f"{FEWEST} people are null.",
        (
            *_WHEN_AND_WHO,
            _count("volunteers", "people", "Who volunteered"),
            _count("activities", "records", "Their activities"),
            Column("hours", "DECIMAL(28,4)", "hours", "Their hours", nullable=True),
            _count("placed", "people", "Who was placed"),
            _count("placements", "records", "Their placements"),
            _count("completers", "people", "Who completed a course or programme"),
            _count("completions", "records", "Their completed enrollments"),
            _count("donors", "people", "Who donated; null, too, if fewer than five did so in one of the currencies"),
            _count("donations", "records", "Their donations, in any currency; null as `donors`"),
        ),
    ),
}


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
        **RELEASED,
    }


def _first_line(contract: type[Data]) -> str:
    return (contract.__doc__ or contract.__name__).strip().splitlines()[0]

"""Vocabulary that the internal systems share on the wire."""

from teei_ingest.contracts.enrollment import EnrollmentStatus

ENROLLMENT_STATUSES = {
    **{status.value: status for status in EnrollmentStatus},
    "active": EnrollmentStatus.IN_PROGRESS,
}

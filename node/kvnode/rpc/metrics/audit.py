"""What became of records of the audit log."""

from collections.abc import Iterator

from kvnode.rpc.metrics.text import Family, counter, gauge
from kvnode.server.audit_log import AuditLog

__all__ = ["audit_metrics"]


def audit_metrics(audit: AuditLog | None) -> Iterator[Family]:
    """Yield the families; none without a log."""
    if audit is None:
        return
    yield counter("kvnode_audit_records_total", "Records written.", audit.written_count)
    yield gauge("kvnode_audit_records_waiting", "Records not written yet.", audit.waiting_count)
    yield counter("kvnode_audit_records_dropped_total", "Records dropped.", audit.dropped_count)
    yield counter(
        "kvnode_audit_requests_refused_total", "Requests refused as the log was full.", audit.refused_count
    )

"""The time as metadata.json and current.json write it."""

from datetime import UTC, datetime


def timestamp() -> str:
    """Return the time now, RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""What schemathesis is not to find fault with."""

import schemathesis

PATIENCE_MS = 10_000


@schemathesis.hook
def filter_case(context: object, case: schemathesis.Case) -> bool:
    """Leaves out headers that no server may refuse, and answers that are wanted too soon."""
    del context
    headers = {name.lower(): value for name, value in (case.headers or {}).items()}
    if any(name.startswith("x-schemathesis") for name in headers):
        return False
    timeout = str(headers.get("x-embed-timeout-ms", PATIENCE_MS))
    return not (timeout.isdigit() and 0 < int(timeout) < PATIENCE_MS)

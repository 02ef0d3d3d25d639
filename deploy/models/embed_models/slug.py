"""Makes the slug under which a model is known in subjects, buckets and registry paths.

The rule is the same as in the Rust crate `embed-schemas`: a dot would split a NATS subject, so only
lowercase ASCII letters, digits and inner hyphens remain.
"""

import re

from embed_models.errors import UsageError

MAX_LENGTH = 64

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9]+")


def slug(name: str) -> str:
    """Return the slug of a model name, or raise `UsageError` when the name has none."""
    # Lowercased last: before, some letters outside ASCII would turn into letters inside it.
    result = _OTHER_CHARACTERS.sub("-", name).strip("-").lower()
    if not result:
        raise UsageError(f"the model name {name!r} has no letter a-z or digit to make a slug of")
    if len(result) > MAX_LENGTH:
        raise UsageError(
            f"the slug of {name!r} has {len(result)} characters; "
            f"at most {MAX_LENGTH} are allowed, so choose a shorter name"
        )
    return result

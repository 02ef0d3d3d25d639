"""Decides which texts the student is never trained on.

The decision is made for groups, so that texts which belong together (a synopsis and its
description, a definition and its example sentences, the paragraphs of an article) fall on the same
side, and by a digest of the group's key, so that it depends on nothing but the text itself.

It stands beside both packages that go by it: `distill`, which trains, and `corpus`, which chooses
what to validate with.
"""

import hashlib

# One group in ten. Changing either value moves texts across the split, so that figures measured on
# what was held out before no longer count: retrain then.
SALT = "akidb-embed held-out 1"
HELD_OUT_BELOW = 26  # of the 256 values of the digest's first byte


def normalise(text: str) -> str:
    """Return the form in which two texts count as the same: one space, no upper case."""
    return " ".join(text.split()).casefold()


def is_held_out(key: str) -> bool:
    """Tell whether the group of this key is kept out of training.

    The key is, before normalisation: for a synset of WordNet its whole gloss (what stands behind
    the `|`), for a Debian package the first paragraph of its long description, for any other
    document what it says first.
    """
    digest = hashlib.sha256(f"{SALT}\n{normalise(key)}".encode()).digest()
    return digest[0] < HELD_OUT_BELOW


def debian_paragraphs(description: str) -> list[str]:
    """Return the paragraphs of a long description, of which the first is the group's key.

    An empty one at the beginning leaves its full stop in the first: to change that would move
    packages across the split.
    """
    paragraphs = description.rstrip().split("\n .\n")
    return [" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()]

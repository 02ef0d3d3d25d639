"""Tells which licences leave what is made of a text free: they ask for a notice at most.

Expressions are those of SPDX, with the `/` that older crates write for OR.
"""

import re

# Those that occur among the packages that are read. Not among them: copyleft of any kind (GPL,
# LGPL, MPL, CC BY-SA, GFDL), and PSF-2.0, under which is what the student is tested on.
PERMISSIVE = frozenset(
    {
        "0BSD",
        "APACHE-2.0",
        "APACHE-2.0 WITH LLVM-EXCEPTION",
        "BSD-2-CLAUSE",
        "BSD-3-CLAUSE",
        "BSL-1.0",
        "CC0-1.0",
        "CDLA-PERMISSIVE-2.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "POSTGRESQL",
        "TCL",
        "UNICODE-3.0",
        "UNLICENSE",
        "ZLIB",
    }
)

# What Python packages without an expression say, as a classifier or in words.
_IN_WORDS = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license v2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "the mit license": "MIT",
}

_TOKEN = re.compile(r"\(|\)|[^\s()]+")


def spdx(words: str) -> str:
    """Return the expression for a licence that is named in words, or the words."""
    return _IN_WORDS.get(words.strip().lower(), words.strip())


def is_permissive(expression: str) -> bool:
    """Tell whether a choice that the expression leaves asks for no more than a notice."""
    tokens = _TOKEN.findall(expression.replace("/", " OR "))
    if not tokens:
        return False
    value, rest = _either(tokens)
    return value and not rest


def _either(tokens: list[str]) -> tuple[bool, list[str]]:
    value, rest = _both(tokens)
    while rest and rest[0].upper() == "OR":
        other, rest = _both(rest[1:])
        value = value or other
    return value, rest


def _both(tokens: list[str]) -> tuple[bool, list[str]]:
    value, rest = _one(tokens)
    while rest and rest[0].upper() == "AND":
        other, rest = _one(rest[1:])
        value = value and other
    return value, rest


def _one(tokens: list[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, []
    if tokens[0] == "(":
        value, rest = _either(tokens[1:])
        return (value, rest[1:]) if rest[:1] == [")"] else (False, tokens)
    name, rest = tokens[0].upper(), tokens[1:]
    if rest and rest[0].upper() == "WITH":
        name, rest = f"{name} WITH {' '.join(rest[1:2]).upper()}", rest[2:]
    return name in PERMISSIVE, rest

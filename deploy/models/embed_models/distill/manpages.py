"""Reads manual pages: their line of name and summary, and the paragraphs of their description."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from embed_models.distill.entries import entry
from embed_models.distill.texts import Group

# Files among permissive ones that ask for more than a notice: in advertising, or of copyleft.
_ASKS_FOR_MORE = re.compile(r"advertising materials|CDDL|Common Development|General Public")
_PERMISSIVE = re.compile(r"Redistribution and use|Permission to use|SPDX|public domain", re.I)
_SECTION = re.compile(r"^\.\s*S[hH]\s+(.*)$", re.M)
_DEFINITION = re.compile(r"^\.\s*(?:de|ig)\b.*?^\.\.\s*$", re.M | re.S)
# What is shown as it stands: synopses, examples and tables.
_LITERAL = re.compile(
    r"^\.\s*(?:nf|EX|CS|TS|Bd -(?:literal|unfilled))\b.*?^\.\s*(?:fi|EE|CE|TE|Ed)\b.*?$",
    re.M | re.S,
)
_BREAKS = frozenset({"PP", "P", "LP", "Pp", "sp", "IP", "TP", "HP", "It", "RS", "RE", "SS", "Ss"})
# Macros of fonts: man's, and those of mdoc, which may stand among the words of a line.
_FONTS = re.compile(r"[BIR]{1,2}|S[MB]")
_INLINE = re.compile(
    r"A[nqrt]|B[qx]|Bsx|C[dm]|D[1lqvx]|E[mrv]|F[alntx]|Ic|L[ik]|Ms|N[mosx]|O[px]|P[aq]|Q[lq]|Rs"
    r"|S[qty]|Tn|Ux|V[at]|X[cor]"
)
_SYSTEMS = {"Fx": "FreeBSD", "Nx": "NetBSD", "Ox": "OpenBSD", "Bx": "BSD", "Ux": "UNIX"}
_CHARACTERS = {
    "aq": "'",
    "bu": "*",
    "co": "(C)",
    "cq": "'",
    "dq": '"',
    "em": "-",
    "en": "-",
    "lq": '"',
    "oq": "'",
    "rq": '"',
    "tm": "",
}
_ESCAPE = re.compile(
    r"\\(?:f(?:\(..|\[\w*\]|.)|s[+-]?\d+|\((?P<two>..)|\[(?P<long>\w+)\]|\*\((?P<string>..)"
    r"|\*(?:\[\w*\]|.)|[hvw]'[^']*'|(?P<one>.))"
)


def read_manual_page(path: Path) -> Iterator[Group]:
    """Yield a page of man or mdoc as one group."""
    page = _content(path)
    if not _ASKS_FOR_MORE.search(page):
        yield from _page(page)


def read_licensed_manual_page(path: Path) -> Iterator[Group]:
    """Yield a page like `read_manual_page`, if it says itself that it is permissive.

    For collections of many licences.
    """
    if _PERMISSIVE.search(_content(path)):
        yield from read_manual_page(path)


def _content(path: Path) -> str:
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    return content.decode("utf-8", errors="replace")


def _page(page: str) -> Iterator[Group]:
    parts = _SECTION.split(_LITERAL.sub("", _DEFINITION.sub("", page)))
    sections = {
        heading.strip('" ').upper(): body
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    name, summary = _name(sections.get("NAME", ""))
    if not summary:
        return
    texts = tuple(entry(name, summary, _paragraphs(sections.get("DESCRIPTION", ""), name)))
    if texts:
        yield Group(f"{name} {summary}", texts)


def _name(section: str) -> tuple[str, str]:
    """Return the first name and the summary of a page."""
    if found := re.search(r"^\.\s*Nd\s+(.*)$", section, re.M):
        names = re.findall(r"^\.\s*Nm\s+(\S+)", section, re.M)
        return (names[0] if names else ""), _unescape(found[1]).strip('" ')
    line = " ".join(_paragraphs(section, ""))
    before, _, summary = " ".join(line.split()).partition(" - ")
    return before.split(",")[0].strip(), summary.strip()


def _paragraphs(section: str, name: str) -> list[str]:
    """Return the running text of a section in paragraphs."""
    paragraphs = [""]
    for line in section.splitlines():
        if not line.strip():
            paragraphs.append("")
        elif line[0] not in ".'":
            paragraphs[-1] += " " + _unescape(line)
        elif found := re.match(r"[.']\s*([A-Za-z]\w?\w?)\b\s*(.*)", line):
            macro, rest = found.groups()
            if macro in _BREAKS:
                paragraphs.append("")
            if _FONTS.fullmatch(macro) or macro == "IP":
                paragraphs[-1] += " " + _words_of_man(macro, rest)
            elif macro == "It" or _INLINE.fullmatch(macro):
                paragraphs[-1] += " " + _words_of_mdoc(f"{macro} {rest}", name)
    return [re.sub(r"\s+([.,;:)])", r"\1", text).strip() for text in paragraphs]


def _words_of_man(macro: str, rest: str) -> str:
    """Return what a line with a macro of man shows."""
    words = _arguments(rest)
    if macro == "IP":
        return _unescape(words[0]) if words else ""
    # Fonts in turn leave no space; one font does.
    return _unescape((" " if len(macro) == 1 else "").join(words))


def _words_of_mdoc(line: str, name: str) -> str:
    """Return what a line with macros of mdoc shows."""
    words = _arguments(line)
    shown: list[str] = []
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        if word == "Nm" and (not following or not following[0].isalnum()):
            shown.append(name)
        elif word in _SYSTEMS:
            shown.append(_SYSTEMS[word])
        elif number and words[number - 2 : number - 1] == ["Xr"] and word[0].isdigit():
            shown[-1] += f"({word})"
        elif word == "Fl":
            shown.append("-" + following)
        elif number and words[number - 1] == "Fl":
            continue
        elif word != "It" and not _INLINE.fullmatch(word):
            shown.append(word)
    return _unescape(" ".join(shown))


def _arguments(line: str) -> list[str]:
    return [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)]


def _unescape(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        one = found["one"]
        if one:
            return one if one in "-'`." else " " if one in "~0 " else "\\" if one == "e" else ""
        return _CHARACTERS.get(found["two"] or found["long"] or found["string"] or "", "")

    return _ESCAPE.sub(character, text)

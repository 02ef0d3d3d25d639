"""Makes the texts that everything on a GPU is measured with, once, so that all read the same.

Two files of JSON lines with a `text`: `mixed.jsonl`, of lognormal lengths (41 tokens on average, at
most 256), and `full.jsonl`, of exactly 128 tokens each. They are made of words of the repository's
sample, chosen by the seed, so that they are tokenized as real text is.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

SAMPLE = Path(__file__).parents[2] / "deploy/samples/wordnet/sentences.jsonl"
# The two special tokens of a text.
SPECIAL = 2
FULL = 128
# As those of `embed-loadtest bench --mix mixed`: after the cuts, 41 tokens on average.
MU, SIGMA, SHORTEST, LONGEST = 3.25, 1.0, 3, 256
ORDERS = 8
TRIES = 20


def words_with_tokens(tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Return the sample's words in their order, each with its number of tokens."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    words = [word for line in lines for word in json.loads(line)["text"].split()]
    known = {word: len(tokenizer.encode(word, add_special_tokens=False).ids) for word in set(words)}
    return [(word, known[word]) for word in words if known[word]]


def text_of(words: list[tuple[str, int]], tokens: int, start: int) -> str:
    """Join words from `start` on to exactly this many tokens, the special ones included."""
    left, taken, place = tokens - SPECIAL, [], start
    while left > 0:
        word, size = words[place % len(words)]
        place += 1
        # A word that is too long is passed over; there is always one of a single token ahead.
        if size <= left:
            taken.append(word)
            left -= size
    return " ".join(taken)


def distinct(
    words: list[tuple[str, int]], wanted: list[int], chance: random.Random
) -> Iterator[str]:
    """Yield a text of each length, none twice: equal texts that wait together are computed once.

    Of the shortest there are only so many; those may come again.
    """
    # In one order there are no more texts of a length than words to begin with.
    orders = [words, *(chance.sample(words, len(words)) for _ in range(ORDERS - 1))]
    seen: set[str] = set()
    for tokens in wanted:
        for _ in range(TRIES):
            text = text_of(chance.choice(orders), tokens, chance.randrange(len(words)))
            if text not in seen:
                break
        seen.add(text)
        yield text


def lengths(count: int, chance: random.Random) -> list[int]:
    """Return lengths in tokens, lognormal and cut to the bounds."""
    return [
        min(max(round(chance.lognormvariate(MU, SIGMA)), SHORTEST), LONGEST) for _ in range(count)
    ]


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=100_000, help="texts of mixed lengths")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    # As it comes with a checkpoint, it may pad every word to the model's length.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = words_with_tokens(tokenizer)
    chance = random.Random(options.seed)  # noqa: S311 - for texts, not for secrets
    options.out.mkdir(parents=True, exist_ok=True)
    mixed = lengths(options.count, chance)
    for name, wanted in (("mixed", mixed), ("full", [FULL] * (options.count // 4))):
        with (options.out / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            for number, text in enumerate(distinct(words, wanted, chance)):
                out.write(json.dumps({"id": number, "text": text}) + "\n")
        mean = sum(wanted) / len(wanted)
        print(f"{name}.jsonl: {len(wanted)} texts, {mean:.1f} tokens on average")


if __name__ == "__main__":
    main()

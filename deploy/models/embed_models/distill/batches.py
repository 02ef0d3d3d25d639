"""Draws training batches from the corpus, on the GPU.

The corpus lies there as one row of token ids, and every batch is put together from it anew: whole
texts (neighbours of the corpus side by side, so that a batch holds things that are hard to tell
apart), pieces of texts, and texts joined together, all of similar length. Or it is of pairs: what
sums up, and what it sums up, which is longer. Every batch has about the same number of tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from embed_models.errors import CheckpointError

# Lengths in tokens, with the share of the batches; the longest is the teacher's max_seq_length.
BUCKETS = {16: 0.16, 32: 0.26, 64: 0.28, 128: 0.18, 256: 0.12}

# Where texts of pairs are cut, in tokens.
QUERY, DOCUMENT = 32, 128

_NEIGHBOURS = 4
_PIECES, _JOINED = 0.22, 0.18  # shares of the sequences; the others are whole texts
_SEGMENTS = 3
_NOISY, _NOISE = 0.06, 0.15  # share of the sequences with noise, and of the tokens replaced there
_SPECIAL = 2  # [CLS] and [SEP]


@dataclass(frozen=True)
class Corpus:
    """Token ids of all texts without special tokens, and where each text begins."""

    ids: Tensor  # int32 [tokens]
    starts: Tensor  # int64 [texts]
    lengths: Tensor  # int64 [texts]
    next_word: Tensor  # int64 [tokens]: the nearest token from here on that begins a word
    pairs: Tensor  # int64 [pairs, 2]: a text that sums up, and the text that it sums up
    cls: int
    sep: int
    pad: int

    @property
    def device(self) -> torch.device:
        return self.ids.device

    @property
    def has_pairs(self) -> bool:
        """Whether there are as many as a batch of pairs is drawn from."""
        return len(self.pairs) > _NEIGHBOURS


def tokenize(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return token ids without special tokens, whole."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def build_corpus(
    texts: list[str],
    tokenizer: Tokenizer,
    device: torch.device,
    pairs: Iterable[tuple[int, int]] = (),
) -> Corpus:
    """Return the corpus of texts; `pairs` are numbers of texts that belong together."""
    everything = tokenize(texts, tokenizer)
    rows = [ids for ids in everything if ids]
    place = np.cumsum([bool(ids) for ids in everything]) - 1
    known = [
        (place[query], place[document])
        for query, document in pairs
        if everything[query] and everything[document]
    ]
    lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
    flat = np.concatenate([np.array(ids, dtype=np.int32) for ids in rows])
    inside = np.zeros(tokenizer.get_vocab_size(), dtype=bool)
    for token, number in tokenizer.get_vocab().items():
        inside[number] = token.startswith("##")
    # Positions of word beginnings, with the end as the last one, looked up from every position.
    beginnings = np.append(np.flatnonzero(~inside[flat]), len(flat))
    next_word = beginnings[np.searchsorted(beginnings, np.arange(len(flat)))]
    return Corpus(
        ids=torch.from_numpy(flat).to(device),
        starts=torch.from_numpy(np.cumsum(lengths) - lengths).to(device),
        lengths=torch.from_numpy(lengths).to(device),
        next_word=torch.from_numpy(next_word).to(device),
        pairs=torch.tensor(known, dtype=torch.long).reshape(-1, 2).to(device),
        cls=special_token(tokenizer, "[CLS]"),
        sep=special_token(tokenizer, "[SEP]"),
        pad=special_token(tokenizer, "[PAD]"),
    )


def special_token(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise CheckpointError(f"tokenizer.json has no {token}; the teacher has to be a BERT model")
    return number


class Sampler:
    """Draws batches of about `tokens` tokens; the same seed gives the same batches."""

    def __init__(self, corpus: Corpus, tokens: int, seed: int) -> None:
        self._corpus = corpus
        self._tokens = tokens
        self._random = torch.Generator(device=corpus.device).manual_seed(seed)
        self._buckets = np.random.default_rng(seed)
        limits = [0, *BUCKETS]
        whole: dict[int, Tensor] = {}
        longer: dict[int, Tensor] = {}
        shorter: dict[int, Tensor] = {}
        for below, bucket in zip(limits, BUCKETS, strict=False):
            size = corpus.lengths + _SPECIAL
            last = bucket == limits[-1]
            fits = (size > below) & (
                torch.ones_like(size, dtype=torch.bool) if last else size <= bucket
            )
            for chosen, where in (
                (whole, fits),
                (longer, size > bucket // 2),
                (shorter, size <= bucket // 2 + _SPECIAL),
            ):
                chosen[bucket] = torch.nonzero(where).squeeze(1)
        self._whole, self._longer, self._shorter = whole, longer, shorter
        usable = [
            b for b in BUCKETS if all(len(c[b]) > _NEIGHBOURS for c in (whole, longer, shorter))
        ]
        share = np.array([BUCKETS[bucket] for bucket in usable])
        self._usable, self._share = usable, share / share.sum()

    @property
    def device(self) -> torch.device:
        return self._corpus.device

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return (ids [batch, length], mask [batch, length])."""
        length = int(self._buckets.choice(self._usable, p=self._share))
        size = self._tokens // length
        pieces, joined = int(size * _PIECES), int(size * _JOINED)
        parts = (
            self._whole_texts(length, size - pieces - joined),
            self._pieces_of_texts(length, pieces),
            self._joined_texts(length, joined),
        )
        starts = torch.cat([part[0] for part in parts])
        lengths = torch.cat([part[1] for part in parts])
        return self._gather(length, starts, lengths)

    def pairs(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return (ids, mask) of queries and of their documents, [pairs, length] each."""
        corpus = self._corpus
        count = self._tokens // (QUERY + DOCUMENT)
        chosen = self._neighbours(corpus.pairs, count)
        queries, documents = (
            self._gather(length, *self._single(corpus.starts[texts], corpus.lengths[texts]))
            for texts, length in ((chosen[:, 0], QUERY), (chosen[:, 1], DOCUMENT))
        )
        return queries, documents

    def is_pairs(self, share: float) -> bool:
        """Draw whether the next batch is one of pairs, of which there are this share."""
        # Nothing is drawn where there are none: the seed gives the same batches as without them.
        return share > 0 and bool(self._buckets.random() < share)

    def _whole_texts(self, length: int, count: int) -> tuple[Tensor, Tensor]:
        chosen = self._neighbours(self._whole[length], count)
        return self._single(self._corpus.starts[chosen], self._corpus.lengths[chosen])

    def _neighbours(self, rows: Tensor, count: int) -> Tensor:
        first = self._below(len(rows) - _NEIGHBOURS, (count + _NEIGHBOURS - 1) // _NEIGHBOURS)
        steps = torch.arange(_NEIGHBOURS, device=rows.device)
        return rows[(first[:, None] + steps).flatten()[:count]]

    def _pieces_of_texts(self, length: int, count: int) -> tuple[Tensor, Tensor]:
        corpus, texts = self._corpus, self._longer[length]
        # Two pieces of each text: they are alike, and the vectors have to tell them apart.
        chosen = texts[self._below(len(texts), (count + 1) // 2)].repeat_interleave(2)[:count]
        begin, end = corpus.starts[chosen], corpus.starts[chosen] + corpus.lengths[chosen]
        least = max(1, length // 2 - _SPECIAL)
        wanted = least + self._below(length - _SPECIAL - least + 1, count)
        wanted = torch.minimum(wanted, corpus.lengths[chosen])
        room = corpus.lengths[chosen] - wanted
        start = begin + (self._uniform(count) * (room + 1)).long().clamp(max=room)
        start = corpus.next_word[start]
        start = torch.where(start < end, start, begin)
        return self._single(start, torch.minimum(wanted, end - start))

    def _joined_texts(self, length: int, count: int) -> tuple[Tensor, Tensor]:
        texts = self._shorter[length]
        chosen = texts[self._below(len(texts), count * _SEGMENTS)].view(count, _SEGMENTS)
        lengths = self._corpus.lengths[chosen]
        lengths[:, 2] *= self._uniform(count) < 0.5
        return self._corpus.starts[chosen], lengths

    def _gather(self, length: int, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        corpus = self._corpus
        position = torch.arange(length, device=corpus.device) - 1
        ends = lengths.cumsum(1)
        total = ends[:, -1:].clamp(max=length - _SPECIAL)
        source = torch.zeros((len(starts), length), dtype=torch.long, device=corpus.device)
        for segment in range(_SEGMENTS):
            before = ends[:, segment : segment + 1] - lengths[:, segment : segment + 1]
            inside = (position >= before) & (position < ends[:, segment : segment + 1])
            source = torch.where(
                inside, starts[:, segment : segment + 1] + position - before, source
            )
        noisy = self._uniform(len(starts), 1) < _NOISY
        noisy = noisy & (self._uniform(len(starts), length) < _NOISE)
        other = self._below(len(corpus.ids), len(starts) * length).view(source.shape)
        ids = corpus.ids[torch.where(noisy, other, source)].long()
        ids = torch.where(position < total, ids, corpus.pad)
        ids = torch.where(position == total, corpus.sep, ids)
        ids[:, 0] = corpus.cls
        return ids, position <= total

    def _single(self, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros((len(starts), _SEGMENTS - 1), dtype=torch.long, device=starts.device)
        return (
            torch.cat([starts[:, None], nothing], 1),
            torch.cat([lengths[:, None], nothing], 1),
        )

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._random, device=self._corpus.device)

    def _below(self, limit: int, count: int) -> Tensor:
        device = self._corpus.device
        return torch.randint(limit, (count,), generator=self._random, device=device)

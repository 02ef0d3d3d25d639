"""Correlation with human judgement: Lee's 50 news summaries and how similar people found them.

Michael D. Lee, Brandon Pincombe, Matthew Welsh, "An empirical evaluation of models of text
document similarity", 2005. The data is part of the package gensim, whose files are read without
importing it; it is not ours to carry.
"""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "gensim"
_DOCUMENTS = "test_data/lee.cor"
_RATINGS = "test_data/similarities0-1.txt"


@dataclass(frozen=True)
class LeeDocuments:
    """The documents, and the mean human rating of each pair, from 0 to 1."""

    documents: tuple[str, ...]
    ratings: NDArray[np.float64]

    def correlation(self, vectors: NDArray[np.float32]) -> float:
        """Return Pearson's correlation of the cosines with the ratings, over all pairs."""
        pairs = np.triu_indices(len(self.documents), k=1)
        similarity = vectors @ vectors.T
        return float(np.corrcoef(similarity[pairs], self.ratings[pairs])[0, 1])


def lee_documents() -> LeeDocuments | None:
    """Return the data set, or None when gensim is not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = {
        name: Path(str(file.locate()))
        for file in files
        for name in (_DOCUMENTS, _RATINGS)
        if str(file).endswith(name)
    }
    if len(found) != 2:
        return None
    documents = found[_DOCUMENTS].read_text(encoding="latin-1").splitlines()
    return LeeDocuments(
        documents=tuple(line for line in documents if line.strip()),
        ratings=np.loadtxt(found[_RATINGS]),
    )

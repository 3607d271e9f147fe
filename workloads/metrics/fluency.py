"""How varied a text is. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORDS = re.compile(r"\w+|[^\w\s]")
# Of two- and three-word sequences, as in ROME (Meng et al., 2022).
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def n_gram_entropy(text: str) -> float:
    """Weighted mean of the entropies, in bits, of the text's bigrams (2/3) and trigrams (4/3).

    Words are runs of letters and digits, or single other marks. A text that repeats itself scores low.
    """
    words = _WORDS.findall(text)
    return sum(weight * _entropy(words, n) for n, weight in _WEIGHTS.items()) / len(_WEIGHTS)


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = counts.total()
    return -math.fsum(count / total * math.log2(count / total) for count in counts.values())

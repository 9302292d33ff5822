"""What a text is compared by: its words, hashed.

Case, spaces, punctuation and the marks around formulas mean nothing; words, numbers, operators and the names of
LaTeX commands do.  All hashes are the same on every machine and in every process.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import xxhash
from datasketch import MinHash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

SHINGLES = (1, 2)  # words
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# Commands that only space or style a formula.
SILENT = re.compile(
    r"\\(?:(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|quad|qquad|text|mathrm|mathbf|operatorname)(?![A-Za-z])"
    r"|[,;:! ()\[\]\\])"
)
SAME = {"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\leq": "\\le", "\\geq": "\\ge", "\\cdot": "\\times"}
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"  # 1,000 is one number, (3,4) are two
WORD = re.compile(
    rf"\\[A-Za-z]+|{NUMBER}|[{CJK}]|[^\W\d_{CJK}]+|[-+*/=<>^%!|]"
    # Brackets between operators: without them (2+3)*4 is 2+(3*4).
    r"|\((?<=[-+*/^]\()|\((?<=[-+*/^] \()|\)(?=\s?[-+*/^])"
)


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    found = WORD.findall(SILENT.sub(" ", text))
    return [SAME.get(word, word.lower().replace(",", "")) for word in found]


def numbers(of: list[str]) -> list[str]:
    """The numbers among words, in their order: two problems from one template differ in them."""
    return [word for word in of if word[0].isdigit()]


def text_hash(text: str) -> int:
    """64 bits of a text."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


_word_hash = lru_cache(maxsize=2**16)(text_hash)


def word_hashes(of: list[str]) -> Hashes:
    """A hash for each word."""
    return np.fromiter((_word_hash(word) for word in of), np.uint64, len(of))


def windows(hashes: Hashes, size: int) -> Hashes:
    """A hash for each `size` words in a row; none where there are fewer."""
    count = len(hashes) - size + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    found = np.zeros(count, np.uint64)
    for offset in range(size):  # modulo 2^64, as unsigned integers are
        found = found * FACTOR + hashes[offset : offset + count]
    return mixed(found)


def mixed(values: Hashes) -> Hashes:
    """Spread what differs over all bits."""
    values = values ^ (values >> np.uint64(32))
    values = values * FACTOR
    return values ^ (values >> np.uint64(29))


def signature(hashes: Hashes, permutations: int) -> NDArray[np.uint32]:
    """The MinHash of the words and the pairs of neighbouring words.

    Pairs tell texts of the same words apart; words alone forgive small changes in a short text, each of which
    costs two pairs.

    Args:
        hashes: of the words, in order.
        permutations: length of the signature.
    """
    shingles = np.concatenate([windows(hashes, size) for size in SHINGLES])
    minhash = _empty(permutations).copy()
    minhash.update_batch(np.unique(shingles >> np.uint64(32)).tolist())
    return np.asarray(minhash.hashvalues, np.uint32)


@lru_cache(maxsize=4)
def _empty(permutations: int) -> MinHash:
    return MinHash(num_perm=permutations, scheme="affine32", hashfunc=int)

"""Prompts as 64-bit numbers, and random numbers that belong to a prompt.

The order of an epoch and every chance decision about a prompt are functions of (seed, source, epoch, prompt id)
and of nothing else.  So they do not depend on which other prompts there are: prompts that are added to a data set
or taken out of it leave the order of the rest as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
# Prompt ids: any sequence of str, or arrow strings.
Ids: TypeAlias = "Sequence[str] | pa.Array | pa.ChunkedArray"

# Prompts that are worked on at once, so that the temporaries stay in the processor's cache.
_CHUNK = 1 << 16


def prompt_keys(ids: Ids) -> Keys:
    """The 64-bit hash of every id's UTF-8, [ids] uint64."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, _encoded(ids)), np.uint64, len(ids))


def prompt_key(prompt_id: str) -> np.uint64:
    """The 64-bit hash of one id."""
    return np.uint64(xxhash.xxh3_64_intdigest(prompt_id.encode()))


def _encoded(ids: Ids) -> Iterable[bytes]:
    """The ids as bytes; those of an arrow array part by part, for as Python objects they take far more room."""
    if not isinstance(ids, pa.Array | pa.ChunkedArray):
        return map(str.encode, ids)
    parts = (ids.slice(start, _CHUNK).cast(pa.large_binary()) for start in range(0, len(ids), _CHUNK))
    return chain.from_iterable(part.to_pylist() for part in parts)


def argsort(values: Keys) -> NDArray[np.int32]:
    """np.argsort of fewer than 2^31 different numbers, in half the time: it sorts numbers, not indices.

    The low bits of every number make room for its index; the few that are alike without them are sorted again.
    """
    bits = np.uint64(len(values).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    packed, order, alike = np.empty_like(values), np.empty(len(values), np.int32), []
    for start in range(0, len(values), _CHUNK):
        part = packed[start : start + _CHUNK]
        np.bitwise_and(values[start : start + _CHUNK], ~low, out=part)
        part |= np.arange(start, start + len(part), dtype=np.uint64)
    packed.sort()
    for start in range(0, len(values), _CHUNK):
        part, behind = packed[start : start + _CHUNK], packed[start + 1 : start + _CHUNK + 1]
        order[start : start + _CHUNK] = part & low
        alike.append(start + np.flatnonzero((part[: len(behind)] ^ behind) <= low))
    first = np.concatenate(alike) if alike else np.empty(0, np.intp)
    places = np.union1d(first, first + 1)
    again = order[places]
    order[places] = again[np.argsort(values[again])]
    return order


def mixed(keys: Keys, *salt: object) -> Keys:
    """A permutation of the 64-bit numbers that depends on `salt`: distinct keys stay distinct.

    This is the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) after adding a hash of the salt.
    """
    offset = np.uint64(xxhash.xxh3_64_intdigest("/".join(map(str, salt)).encode()))
    value = np.empty_like(keys)
    for start in range(0, len(value), _CHUNK):
        part = value[start : start + _CHUNK]
        np.add(keys[start : start + _CHUNK], offset, out=part)  # wraps, as meant
        part ^= part >> np.uint64(30)
        part *= np.uint64(0xBF58476D1CE4E5B9)
        part ^= part >> np.uint64(27)
        part *= np.uint64(0x94D049BB133111EB)
        part ^= part >> np.uint64(31)
    return value


def uniforms(keys: Keys, *salt: object) -> NDArray[np.float64]:
    """A number in [0, 1) for every key, [keys] float64."""
    return (mixed(keys, *salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53

"""Which tokens a context rank has, and what it knows of their responses."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.actor.batch import Packing, TrainingSample, build_microbatch
from megatron_srpo.platform.select import Platform

CPU = Platform(torch.device("cpu"), "gloo", "local")


def samples_of(shapes: list[tuple[int, int]]) -> list[TrainingSample]:
    """Tokens that are all different and not 0; every response has an advantage of its own."""
    found, token = [], 1
    for number, (prompt, response) in enumerate(shapes):
        size = prompt + response
        tokens = np.arange(token, token + size)
        token += size
        found.append(TrainingSample(tokens, -tokens[prompt:].astype(np.float32), float(number + 1)))
    return found


SHAPES = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=5)


@given(SHAPES, st.integers(1, 4), st.sampled_from([1, 2, 3, 8]))
def test_context_ranks_share_out_every_token(shapes: list[tuple[int, int]], ranks: int, multiple: int) -> None:
    samples = samples_of(shapes)
    parts = [build_microbatch(samples, CPU, Packing(multiple, rank, ranks)) for rank in range(ranks)]
    assert len({part.tokens.shape for part in parts}) == 1
    assert parts[0].tokens.shape[1] % multiple == 0 and parts[0].tokens.shape[1] > 0
    have = sorted(token for part in parts for token in part.tokens[0].tolist() if token)
    assert have == sorted(token for sample in samples for token in sample.tokens.tolist())
    bounds = parts[0].sequences.cu_seqlens_q
    assert int(bounds[-1]) == ranks * parts[0].tokens.shape[1]
    assert sum(part.samples for part in parts) == len(samples)


@given(SHAPES, st.integers(1, 4))
def test_every_response_token_is_predicted_once_from_the_one_before(
    shapes: list[tuple[int, int]], ranks: int
) -> None:
    samples = samples_of(shapes)
    predicted = []
    for rank in range(ranks):
        part = build_microbatch(samples, CPU, Packing(1, rank, ranks))
        for i, source in enumerate(part.sources.tolist()):
            target = int(part.targets[i])
            predicted.append(target)
            assert int(part.tokens[0, source]) == target - 1
            [sample] = [s for s in samples if target in s.tokens.tolist()]
            assert float(part.advantages[i]) == sample.advantage
            assert float(part.engine_log_probs[i]) == -target
            assert float(part.lengths[i]) == sample.response_length
            assert int(part.positions[0, source]) == sample.tokens.tolist().index(target - 1)
    want = [token for s in samples for token in s.tokens[len(s.tokens) - s.response_length :].tolist()]
    assert sorted(predicted) == sorted(want)


def test_pieces_from_both_ends_cost_all_ranks_the_same() -> None:
    """Causal attention of 8 tokens over two ranks: 0, 1, 6, 7 and 2, 3, 4, 5 see 18 keys each."""
    assert Packing(1, 0, 2).mine([8]).tolist() == [0, 1, 6, 7]
    assert Packing(1, 1, 2).mine([8]).tolist() == [2, 3, 4, 5]
    assert Packing(1, 1, 2).mine([4, 8]).tolist() == [1, 2, 6, 7, 8, 9]

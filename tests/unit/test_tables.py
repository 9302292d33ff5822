"""Weight tables of every architecture, without a Megatron model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from megatron_srpo.bridge.tables import expand, hf_names, table_for
from megatron_srpo.plan.parameters import count_parameters
from megatron_srpo.recipe.architectures import ARCHITECTURES
from megatron_srpo.recipe.model_config import ModelConfig, read_model_config
from megatron_srpo.rollout.deterministic_model import DeterministicModel
from tests.architectures import TINY, read_tensors, write_tiny


@pytest.fixture(scope="module", params=TINY)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(request.param, tmp_path_factory.mktemp("tiny"), num_hidden_layers=3)


def names_by_rule(model: ModelConfig) -> list[str]:
    """What a converter does that knows the config alone."""
    experts = range(model.moe.experts) if model.moe is not None else range(1)
    return [
        name
        for rule in table_for(model)
        if rule.exported
        for layer in rule.layers
        for expert in (experts if rule.of_expert else range(1))
        for name in expand(rule, layer, expert)
    ]


def test_every_architecture_has_a_tiny_model() -> None:
    assert {f"{name}ForCausalLM" for name, _ in TINY.values()} == set(ARCHITECTURES)


def test_every_tensor_is_used_exactly_once(folder: Path) -> None:
    model = read_model_config(folder)
    tensors = read_tensors(folder)
    assert Counter(names_by_rule(model)) == Counter(list(tensors))
    assert hf_names(model) == set(tensors)
    assert count_parameters(model) == sum(tensor.numel() for tensor in tensors.values())


def test_tensors_of_a_rule_come_back_byte_equal(folder: Path) -> None:
    model, tensors = read_model_config(folder), read_tensors(folder)
    for rule in table_for(model):
        sources = [tensors[name] for name in expand(rule, rule.layers[-1], 1)]
        for ours, theirs in zip(rule.layout.merge([rule.layout.shard(sources, 0, 1)]), sources, strict=True):
            assert ours.equal(theirs)


def test_megatron_names_are_unique(folder: Path) -> None:
    names = Counter(name for rule in table_for(read_model_config(folder)) for name in rule.megatron)
    assert set(names.values()) == {1}


def test_the_deterministic_engine_speaks_the_published_names(folder: Path) -> None:
    model, tensors = DeterministicModel(folder), read_tensors(folder)
    checksums = model.checksums()
    assert set(checksums) == set(tensors)
    model.load({name: tensor + 1 for name, tensor in tensors.items()})
    changed = model.checksums()
    assert all(changed[name] != checksums[name] for name in tensors)
    model.load(tensors)
    assert model.checksums() == checksums
    with torch.no_grad():
        for name, parameter in model._weights.items():
            assert parameter.equal(tensors[name]), name

"""What of a trainer's section belongs together: refused with the keys, and accepted next to what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from megatron_srpo.recipe.trainer import TrainerSection

DELAYED = {"recipe": "delayed"}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"optimizer": {"schedule": "linear"}}, "schedule linear needs decay_updates"),
        ({"optimizer": {"schedule": "cosine"}}, "schedule cosine needs decay_updates"),
        (
            {"optimizer": {"decay_updates": 5, "warmup_updates": 5}},
            "decay_updates must be larger than warmup_updates",
        ),
        ({"recompute": {"granularity": "selective", "layers": 2}}, "is for granularity full, not selective"),
        ({"fp8": DELAYED | {"last_layers_bf16": 1}}, "fp8 delayed cannot keep first or last layers in bfloat16"),
        (
            {"fp8": DELAYED, "recompute": {"granularity": "selective", "modules": ["layernorm", "moe_act"]}},
            "fp8 delayed cannot recompute layernorm and moe_act; use tensorwise",
        ),
        (
            {"ranks": 2, "pipeline_parallel": 2, "virtual_pipeline_parallel": 2, "pipeline_layers": [1, 1]},
            "pipeline_layers has 2 entries, but pipeline_parallel 2 x virtual_pipeline_parallel 2 = 4 chunks",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TrainerSection.model_validate(section)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "section",
    [
        {"optimizer": {"schedule": "cosine", "decay_updates": 6, "warmup_updates": 5}},
        {"optimizer": {"schedule": "constant", "warmup_updates": 5}},
        {"recompute": {"granularity": "full", "layers": 2}},
        {"fp8": {"recipe": "tensorwise", "first_layers_bf16": 1, "last_layers_bf16": 1}},
        {"fp8": DELAYED, "recompute": {"granularity": "none", "modules": ["layernorm"]}},
        {"fp8": DELAYED, "recompute": {"granularity": "selective", "modules": ["mlp", "core_attn", "moe"]}},
        {"fp8": {"recipe": "blockwise"}, "recompute": {"granularity": "selective", "modules": ["layernorm"]}},
        {"recompute": {"granularity": "selective", "modules": ["layernorm"]}},
        {"overlap_gradient_reduce": True, "overlap_parameter_gather": True},
        {"ranks": 2, "pipeline_parallel": 2, "virtual_pipeline_parallel": 2, "pipeline_layers": [1, 2, 2, 1]},
        {"ranks": 8, "tensor_parallel": 2, "pipeline_parallel": 2, "data_parallel": 2, "expert_parallel": 4},
    ],
)
def test_their_neighbours_are_accepted(section: dict[str, Any]) -> None:
    assert TrainerSection.model_validate(section)

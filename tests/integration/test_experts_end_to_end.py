"""A whole run with experts on two ranks: the engines have the trainer's weights after every exchange."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.architectures import read_tensors, write_tiny
from tests.conftest import REPOSITORY
from tests.integration.runs import train

STEPS = 3
# Rewards of a random model are all the same: what changes its weights is their decay, by a third every step, and
# what changes a bias of its routers is the use of the experts.
RECIPE = """
base: {repository}/recipes/tiny_cpu.yaml
name: experts
steps: {steps}
checkpoint: {{every: 1, keep: 2}}
model: {{path: {model}}}
rollout: {{prompts_per_step: 2, samples_per_prompt: 2, max_response_tokens: 12}}
engine: {{backend: deterministic, tensor_parallel: 1}}
trainer:
  ranks: 2
  tensor_parallel: 2
  sequence_parallel: true
  expert_parallel: 2
  experts: {{replay_routing: true, balancing: {balancing}, bias_update_rate: 0.1}}
  optimizer: {{learning_rate: 1.0e-1, warmup_updates: 0, weight_decay: 3.0}}
sync: {{bucket_megabytes: 0.05}}
evaluation: {{samples_per_prompt: 1, max_prompts: 1}}
"""


@pytest.mark.parametrize(("architecture", "balancing"), [("qwen2_moe", "none"), ("glm4_moe", "bias")])
def test_engine_and_trainer_agree_after_every_exchange(tmp_path: Path, architecture: str, balancing: str) -> None:
    model = write_tiny(architecture, tmp_path / "model")
    before = read_tensors(model)
    has_extra = architecture == "glm4_moe"
    if has_extra:
        extra = {"model.layers.4.eh_proj.weight": torch.ones(2, 2)}
        save_file(before | extra, model / "model.safetensors", metadata={"format": "pt"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(repository=REPOSITORY, steps=STEPS, model=model, balancing=balancing))
    code, out, err = train(recipe, tmp_path / "run")
    assert code == 0, err
    assert out.count("1 tensors from layer 4 on, which predict further tokens (MTP)") == has_extra
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == list(range(STEPS))
    assert all(record["mismatch_mean"] < 1e-5 for record in metrics)
    # Both compute in float32: where they choose differently, two experts are as good as even.
    assert all(record["routing_agreement"] > 0.999 for record in metrics)
    recorded = sorted(path.name for path in (tmp_path / "run" / "rollouts").glob("*.experts"))
    assert recorded == [f"step-{STEPS - 1:06d}.experts"], "those before the oldest kept checkpoint are gone"
    after = read_tensors(tmp_path / "run" / "model")
    assert set(before) == set(after)
    for name, tensor in before.items():
        changed = (tensor - after[name]).abs().max() > 0.01
        moves = tensor.dim() > 1 or name.endswith("e_score_correction_bias")
        assert changed == moves, f"{name}: only matrices decay, and biases of routers move"

"""The recipe in Megatron-Core's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_srpo.actor import megatron_config
from megatron_srpo.actor import model as actor_model
from megatron_srpo.actor.experts import kept_in_float32
from megatron_srpo.actor.megatron_config import _fp8_arguments, transformer_config
from megatron_srpo.actor.model import _fuse_gradient_accumulation, wrap_for_training
from megatron_srpo.errors import SrpoError
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.model_config import ModelConfig, read_model_config
from megatron_srpo.recipe.trainer import Fp8Section, TrainerSection
from tests.architectures import write_tiny

CPU = Platform(torch.device("cpu"), "gloo", "local")


@pytest.fixture(scope="module")
def dense(tiny_hf: Callable[..., Path]) -> ModelConfig:
    return read_model_config(tiny_hf())


def config_of(model: ModelConfig, **trainer: Any) -> TransformerConfig:
    return transformer_config(model, TrainerSection.model_validate(trainer), CPU)


@pytest.mark.parametrize("key", ["trainer.fp8", "layernorm in trainer.recompute.modules"])
def test_what_only_gpus_have_is_refused_on_a_cpu(dense: ModelConfig, key: str) -> None:
    layernorm = {"recompute": {"granularity": "selective", "modules": ("layernorm",)}}
    trainer = {"fp8": {}} if key == "trainer.fp8" else layernorm
    with pytest.raises(SrpoError, match=rf"{key} needs GPUs, but trainer.device auto is the CPU here"):
        config_of(dense, **trainer)


def test_recomputation(dense: ModelConfig) -> None:
    plain = config_of(dense)
    assert plain.recompute_granularity is None
    some = config_of(dense, recompute={"granularity": "selective", "modules": ("mlp", "core_attn")})
    assert (some.recompute_granularity, some.recompute_modules) == ("selective", ["mlp", "core_attn"])
    every = config_of(dense, recompute={"granularity": "full"})
    assert (every.recompute_granularity, every.recompute_method, every.recompute_num_layers) == (
        "full",
        "uniform",
        1,
    )
    two = config_of(dense, recompute={"granularity": "full", "layers": 2})
    assert (two.recompute_method, two.recompute_num_layers) == ("block", 2)


def test_fp8(dense: ModelConfig) -> None:
    """Megatron takes the combinations; the rest of a GPU's configuration needs Transformer Engine."""

    def of(**section: Any) -> TransformerConfig:
        arguments = _fp8_arguments(Fp8Section.model_validate(section))
        return TransformerConfig(num_layers=4, hidden_size=64, num_attention_heads=4, **arguments)

    assert config_of(dense).fp8 is None
    config = of(recipe="tensorwise", format="hybrid", first_layers_bf16=1)
    assert (config.fp8, config.fp8_recipe) == ("hybrid", "tensorwise")
    assert config.first_last_layers_bf16
    assert (config.num_layers_at_start_in_bf16, config.num_layers_at_end_in_bf16) == (1, 0)
    last = of(last_layers_bf16=2)
    assert (last.fp8, last.fp8_recipe, last.first_last_layers_bf16) == ("e4m3", "blockwise", True)
    assert (last.num_layers_at_start_in_bf16, last.num_layers_at_end_in_bf16) == (0, 2)
    assert not config.fp8_param and of(parameters=True).fp8_param
    delayed = of(recipe="delayed", amax_history=16)
    assert (delayed.fp8_recipe, delayed.fp8_amax_history_len) == ("delayed", 16)
    assert delayed.fp8_amax_compute_algo == "max" and not delayed.first_last_layers_bf16


def test_what_only_gpus_have_reaches_megatron_on_a_gpu(
    dense: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(megatron_config, "_build", lambda **arguments: arguments)
    modules = {"granularity": "selective", "modules": ("layernorm",)}
    trainer = TrainerSection.model_validate({"fp8": {"recipe": "tensorwise"}, "recompute": modules})
    gpu = Platform(torch.device("cuda"), "nccl", "transformer_engine")
    arguments: Any = transformer_config(dense, trainer, gpu)
    assert (arguments["fp8"], arguments["fp8_recipe"]) == ("e4m3", "tensorwise")
    assert arguments["recompute_modules"] == ["layernorm"]


def test_modules_that_nobody_recomputes_are_no_matter(dense: ModelConfig) -> None:
    assert config_of(dense, recompute={"modules": ("layernorm",)}).recompute_granularity is None


@pytest.mark.parametrize("fp8", [None, {}, {"parameters": True}])
def test_weights_in_8_bits_are_gathered_so(fp8: dict[str, bool] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self, config: Any, ddp_config: DistributedDataParallelConfig, module: Any) -> None:
            super().__init__()
            self.ddp_config = ddp_config

    monkeypatch.setattr(actor_model, "DistributedDataParallel", Wrapped)
    chunk: Any = SimpleNamespace(config=SimpleNamespace(bf16=False))
    wrapped: Any = wrap_for_training([chunk], TrainerSection.model_validate({"fp8": fp8}))[0]
    assert wrapped.ddp_config.fp8_param_gather == bool(fp8)


def test_what_megatron_refuses_is_one_sentence(dense: ModelConfig) -> None:
    with pytest.raises(SrpoError, match=r"Megatron-Core does not take this configuration \(.*moe_grouped_gemm"):
        config_of(dense, recompute={"granularity": "selective", "modules": ("moe_act",)})


def test_balancing_of_experts(tmp_path: Path) -> None:
    model = read_model_config(write_tiny("qwen3_moe", tmp_path / "model"))
    assert config_of(model).moe_router_load_balancing_type == "none"
    config = config_of(model, experts={"balancing": "aux_loss", "aux_loss_coefficient": 0.02})
    assert (config.moe_router_load_balancing_type, config.moe_aux_loss_coeff) == ("aux_loss", 0.02)


def test_layers_without_experts_and_a_biased_router(tmp_path: Path) -> None:
    model = read_model_config(write_tiny("glm4_moe", tmp_path / "model"))
    config = config_of(model, experts={"balancing": "bias", "bias_update_rate": 0.02})
    assert config.moe_layer_freq == [0, 1, 1, 1]
    assert (config.moe_router_score_function, config.moe_router_topk_scaling_factor) == ("sigmoid", 2.5)
    assert (config.moe_router_enable_expert_bias, config.moe_router_bias_update_rate) == (True, 0.02)
    assert (config.moe_router_load_balancing_type, config.moe_aux_loss_coeff) == ("none", 0.0)
    assert (config.moe_shared_expert_intermediate_size, config.moe_shared_expert_gate) == (32, False)
    every = config_of(read_model_config(write_tiny("qwen2_moe", tmp_path / "other")))
    assert every.moe_layer_freq == 1 and every.moe_shared_expert_gate
    assert not every.moe_router_enable_expert_bias


def test_what_routers_choose_and_count_by_stays_float32() -> None:
    router = TopKRouter.__new__(TopKRouter)
    torch.nn.Module.__init__(router)
    router.weight = torch.nn.Parameter(torch.ones(3))
    router.register_buffer("expert_bias", torch.tensor([0.1, 1.001, -0.3]))
    router.register_buffer("local_tokens_per_expert", torch.tensor([257.0, 1.0, 0.0]), persistent=False)
    bias, counts = router.expert_bias.clone(), router.local_tokens_per_expert.clone()
    model: Any = torch.nn.Sequential(router)
    with kept_in_float32(model):
        model.bfloat16()
    assert router.weight.dtype == torch.bfloat16
    for now, before in ((router.expert_bias, bias), (router.local_tokens_per_expert, counts)):
        assert now.dtype == torch.float32 and now.equal(before)


def test_linears_that_can_add_gradients_to_the_buffer_are_told_to() -> None:
    able, unable = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    able.fuse_wgrad_accumulation = False
    _fuse_gradient_accumulation(torch.nn.Sequential(able, unable))
    assert able.fuse_wgrad_accumulation
    assert not hasattr(unable, "fuse_wgrad_accumulation")

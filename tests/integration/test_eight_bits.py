"""Weights in 8 bits, in Megatron's own buffers and optimizer, by a stand-in for Transformer Engine's tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.architectures import write_tiny
from tests.integration.eight_bits import FP8, rounded, scale_of
from tests.integration.ranks import Layout, recipe_values, record_steps, run_ranks
from tests.integration.test_checkpoint import contents

State = dict[str, torch.Tensor]
# Two data-parallel ranks, in several buckets; other jobs change it.
OVERLAP = {"overlap_gradient_reduce": True, "overlap_parameter_gather": True, "bucket_parameters": 20_000}
APART = {"overlap_parameter_gather": False}
EXPERTS = {"overlap_parameter_gather": True, "expert_parallel": 2}
SPLIT = {"tensor_parallel": 2, "expert_parallel": 1}
KL = {"kl_coefficient": 0.1}
VERSIONS = dict.fromkeys(("straight", "resumed", "apart", "offloaded"), 4) | dict.fromkeys(
    ("saved", "switched off", "switched on"), 2
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> dict[str, Any]:
    """What two ranks found, by job, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("eight bits")
    steps = [str(path) for path in record_steps(folder / "rollouts", 4)]
    dense = write_tiny("qwen2", folder / "model", vocab_size=512)
    experts = write_tiny("qwen2_moe", folder / "experts", num_hidden_layers=2)

    def job(which: slice, name: str, source: str | None = None, **changes: Any) -> dict[str, Any]:
        common = {"kind": "train", "model": str(dense), "eight_bits": True, "steps": steps[which]}
        load = {"load": str(folder / source), "version": 2} if source else {}
        return common | {"save": str(folder / name)} | load | changes

    recipe = recipe_values(dense, Layout(data=2), dtype="bfloat16", **OVERLAP)
    optimizer = recipe["trainer"]["optimizer"]
    none, first, last = slice(0), slice(2), slice(2, 4)
    whole = {"kind": "checkpoint", "to": str(folder)}
    jobs = {
        "start": job(none, "start", algorithm=KL),
        "plain start": job(none, "plain start", eight_bits=False),
        "straight": job(slice(4), "straight"),
        "saved": job(first, "saved"),
        "resumed": job(last, "resumed", "saved"),
        "switched off": job(none, "switched off", "saved", eight_bits=False),
        "switched on": job(none, "switched on", "switched off"),
        "exported": job(none, "", kind="export", to=str(folder / "exported")),
        "read": job(none, "read", eight_bits=False, model=str(folder / "exported")),
        "checkpoint": job(first, "", **whole),
        "apart": job(slice(4), "apart", trainer=APART),
        "offloaded": job(slice(4), "offloaded", trainer={"optimizer": optimizer | {"offload": True}}),
        "experts straight": job(
            slice(4), "experts straight", trainer=EXPERTS | {"optimizer": optimizer}, model=str(experts)
        ),
        "experts saved": job(first, "experts saved", model=str(experts)),
        "experts resumed": job(last, "experts resumed", "experts saved", model=str(experts)),
        "split straight": job(slice(4), "split straight", trainer=SPLIT),
        "split saved": job(first, "split saved"),
        "split resumed": job(last, "split resumed", "split saved"),
    }
    ranks = run_ranks(folder / "ranks", recipe, list(jobs.values()))
    return {"folder": folder} | {name: [rank["results"][i] for rank in ranks] for i, name in enumerate(jobs)}


def saved(run: dict[str, Any], name: str) -> State:
    return contents(run["folder"] / name / f"step-{VERSIONS.get(name, 0):06d}")


def is_in_8_bits(key: str) -> bool:
    return key.startswith("decoder.layers.") and ".linear_" in key and key.endswith(".weight")


def quantized(master: torch.Tensor) -> torch.Tensor:
    """The values of a weight in 8 bits whose master is `master`."""
    narrow = master.bfloat16()
    scale = scale_of(narrow.abs().max())
    return (rounded(narrow, scale).view(FP8).float() * scale).bfloat16()


def weights(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith("optimizer.")}


def masters(state: State) -> State:
    """And moments, if there are any."""
    return {key: tensor for key, tensor in state.items() if key.startswith("optimizer.")}


def check_weights_follow_masters(state: State, eight_bits: bool) -> None:
    assert sum(map(is_in_8_bits, weights(state))) == 4
    for key, weight in weights(state).items():
        master = state[f"optimizer.state.param.{key}"]
        assert master.dtype == torch.float32 and weight.dtype == torch.bfloat16
        in_8_bits = eight_bits and is_in_8_bits(key)
        expected = torch.stack([quantized(layer) for layer in master]) if in_8_bits else master.bfloat16()
        assert torch.equal(weight, expected), key


def check_equal(ours: State, theirs: State) -> None:
    assert ours.keys() == theirs.keys() and ours
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


def test_masters_begin_with_what_was_read(run: dict[str, Any]) -> None:
    eight, plain = saved(run, "start"), saved(run, "plain start")
    check_equal(masters(eight), masters(plain))
    check_weights_follow_masters(plain, False)


@pytest.mark.parametrize("name", ["start", "saved", "straight", "resumed", "switched on"])
def test_weights_are_a_function_of_the_masters(run: dict[str, Any], name: str) -> None:
    """From the beginning, behind updates and behind loading."""
    check_weights_follow_masters(saved(run, name), True)


def test_updates_reach_the_weights(run: dict[str, Any]) -> None:
    start, end = weights(saved(run, "start")), weights(saved(run, "straight"))
    assert all(not torch.equal(start[key], end[key]) for key in start if is_in_8_bits(key))


def test_nothing_remembers_what_it_was_made_of(run: dict[str, Any]) -> None:
    """Neither the policy, of which a rank's optimizer asks only some parameters, nor the reference."""
    assert [found["remembered"] for found in run["start"]] == [0, 0]


@pytest.mark.parametrize("kind", ["", "experts ", "split "])
def test_resume_is_bit_identical(run: dict[str, Any], kind: str) -> None:
    for resumed, straight in zip(run[f"{kind}resumed"], run[f"{kind}straight"], strict=True):
        assert resumed["weights"] == straight["weights"]
        for ours, theirs in zip(resumed["metrics"], straight["metrics"][2:], strict=True):
            for name in ("loss", "grad_norm", "entropy", "mismatch_mean"):
                assert ours[name] == theirs[name]


def test_a_resumed_run_has_the_same_state(run: dict[str, Any]) -> None:
    check_equal(saved(run, "resumed"), saved(run, "straight"))


def test_overlapped_gathers_change_no_bit(run: dict[str, Any]) -> None:
    """Gradients read columns, which somebody has to make whenever rows have been gathered."""
    check_equal(saved(run, "apart"), saved(run, "straight"))


def test_offloaded_masters_change_no_bit(run: dict[str, Any]) -> None:
    check_equal(saved(run, "offloaded"), saved(run, "straight"))


def test_a_run_may_be_switched_off_and_on(run: dict[str, Any]) -> None:
    on, off = saved(run, "saved"), saved(run, "switched off")
    check_equal(masters(off), masters(on))
    check_weights_follow_masters(off, False)
    check_equal(saved(run, "switched on"), on)


def test_what_is_exported_is_what_the_trainer_multiplies_with(run: dict[str, Any]) -> None:
    check_equal(weights(saved(run, "read")), weights(saved(run, "start")))


def test_what_is_saved_is_what_megatron_would_save(run: dict[str, Any]) -> None:
    """And the same beside a step: no update changes what is being written."""
    ours = contents(run["folder"] / "ours" / "step-000002")
    check_equal(ours, contents(run["folder"] / "stock"))
    check_equal(ours, contents(run["folder"] / "beside" / "step-000002"))
    check_equal(ours, saved(run, "saved"))

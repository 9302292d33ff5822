"""Replayed experts: gradients equal transformers' with the same choices, on layouts of four ranks.

The choices are drawn, so that no router would make them by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from megatron_srpo.rollout.deterministic_model import published
from megatron_srpo.rollout.journal import Journal
from megatron_srpo.rollout.routed_experts import checksum_of
from tests.architectures import read_tensors, write_tiny
from tests.integration.ranks import PLAIN, Layout, recipe_values, run_ranks
from tests.support import journal_row

pytestmark = pytest.mark.timeout(600)

EXPERTS, CHOSEN, LAYERS = 8, 3, 4
# Two groups; lengths that leave every layout something to pad.
LENGTHS = ((5, 13, 21, 3), (27, 11, 6, 18))
# The chosen experts' weights out of the router's logits.
WEIGHTS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "qwen3_moe": lambda logits, chosen: logits.gather(1, chosen).softmax(-1),
    "qwen2_moe": lambda logits, chosen: logits.softmax(-1).gather(1, chosen),
    # Its first layer has no experts.
    "glm4_moe": lambda logits, chosen: (
        2.5 * torch.nn.functional.normalize(logits.sigmoid().gather(1, chosen), p=1)
    ),
}
MODELS = tuple(WEIGHTS)
REPLAYED = {"experts": {"replay_routing": True}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2-cp2": {"tensor_parallel": 2, "sequence_parallel": True, "context_parallel": 2},
    "pp2-virtual2-recompute": {
        "pipeline_parallel": 2,
        "virtual_pipeline_parallel": 2,
        "recompute": {"granularity": "full"},
    },
    "pp2-ep2-recompute": {
        "pipeline_parallel": 2,
        "expert_parallel": 2,
        "recompute": {"granularity": "selective", "modules": ("moe",)},
    },
    "dp4-not-replayed": {"experts": {}},
}


def record(root: Path) -> tuple[Path, list[tuple[list[int], int, float, NDArray[Any]]]]:
    """A step, and of each sample its tokens, the length of its prompt, its advantage and its choices."""
    rng, journal = np.random.default_rng(0), Journal(root)
    samples = []
    for group, lengths in enumerate(LENGTHS):
        prompt = rng.integers(0, 511, size=4).tolist()
        rewards = rng.normal(size=len(lengths))
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        rows, choices = [], []
        for sample, length in enumerate(lengths):
            tokens = rng.integers(0, 511, size=length).tolist()
            shape = (len(prompt) + length - 1, LAYERS, EXPERTS)
            choices.append(rng.random(shape).argsort(-1)[..., :CHOSEN].astype(np.uint8))
            changes = {
                "prompt_tokens": prompt,
                "tokens": tokens,
                "log_probs": [-6.0] * length,
                "experts_checksum": checksum_of(choices[-1]),
            }
            reward = float(rewards[sample])
            rows.append(journal_row(group, sample, response_length=length, reward=reward, accuracy=0.0, **changes))
            samples.append((prompt + tokens, len(prompt), float(advantages[sample]), choices[-1]))
        journal.append(rows, choices)
    journal.close(0, len(LENGTHS), range(len(LENGTHS)))
    return journal.step_path(0), samples


@contextmanager
def told(model: torch.nn.Module, choices: NDArray[Any], kind: str) -> Iterator[None]:
    """transformers' routers choose what they are told; for the last token, whatever they like."""
    routers = [module for module in model.modules() if type(module).__name__.lower().endswith("topkrouter")]
    assert len(routers) == (LAYERS - 1 if kind == "glm4_moe" else LAYERS)

    def hook(layer: int) -> Any:
        def replace(_module: Any, _input: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            logits, _, own = output
            chosen = torch.cat([torch.from_numpy(choices[:, layer].astype(np.int64)), own[-1:]])
            return logits, WEIGHTS[kind](logits, chosen), chosen

        return replace

    first = LAYERS - len(routers)
    handles = [router.register_forward_hook(hook(first + at)) for at, router in enumerate(routers)]
    yield
    for handle in handles:
        handle.remove()


def written_out(folder: Path, kind: str, samples: list[tuple[list[int], int, float, Any]]) -> dict[str, Any]:
    """Gradients of minus the mean over response tokens of advantage x log-prob."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    count = sum(len(tokens) - prompt for tokens, prompt, _, _ in samples)
    for tokens, prompt, advantage, choices in samples:
        with told(model, choices, kind):
            log_probs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        drawn = log_probs[prompt - 1 : -1].gather(1, torch.tensor(tokens[prompt:])[:, None])
        (-advantage * drawn.sum() / count).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return published(gradients, model.config.model_type)


@pytest.fixture(scope="module")
def found(tmp_path_factory: Any) -> Mapping[str, Any]:
    """Gradients by "layout model", and by model alone those written out; metrics of a step by "layout model"."""
    root = tmp_path_factory.mktemp("replay")
    step, samples = record(root / "rollouts")
    folders = {kind: write_tiny(kind, root / kind) for kind in MODELS}
    results: dict[str, Any] = {kind: written_out(folders[kind], kind, samples) for kind in MODELS}
    values = {"max_tokens_per_microbatch": 40, "updates_per_step": 1}
    recipe = recipe_values(folders["qwen3_moe"], Layout(data=4), **values)
    recipe["rollout"]["prompts_per_step"] = len(LENGTHS)
    jobs: list[dict[str, Any]] = []
    names = []
    for layout, changes in LAYOUTS.items():
        jobs.append({"kind": "rearrange", "trainer": PLAIN | REPLAYED | changes})
        names.append("")
        for kind in MODELS:
            to = root / f"{layout} {kind}"
            shared = {"model": str(folders[kind])}
            jobs.append(shared | {"kind": "gradients", "step": str(step), "to": str(to)})
            jobs.append(shared | {"kind": "train", "steps": [str(step)]})
            names += ["", f"metrics {layout} {kind}"]
    ranks = run_ranks(root / "ranks", recipe, jobs, timeout=500)
    for at, name in enumerate(names):
        if name:
            results[name] = [rank["results"][at]["metrics"][0] for rank in ranks]
    pairs = [f"{layout} {kind}" for layout in LAYOUTS for kind in MODELS]
    return results | {pair: read_tensors(root / pair) for pair in pairs}


def distance(want: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any tensor, by its largest entry."""
    largest = 0.0
    for name, tensor in got.items():
        if name.endswith("e_score_correction_bias"):  # no parameter
            continue
        scale = float(want[name].abs().max())
        assert scale > 0, name
        largest = max(largest, float((tensor - want[name]).abs().max()) / scale)
    return largest


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_the_engines_choices(found: Mapping[str, Any], layout: str, kind: str) -> None:
    difference = distance(found[kind], found[f"{layout} {kind}"])
    assert difference > 0.1 if layout == "dp4-not-replayed" else difference < 1e-5


@pytest.mark.parametrize("kind", MODELS)
def test_agreement_counts_every_choice_once(found: Mapping[str, Any], kind: str) -> None:
    told = {
        layout: {metrics.get("routing_agreement") for metrics in found[f"metrics {layout} {kind}"]}
        for layout in LAYOUTS
    }
    assert told.pop("dp4-not-replayed") == {None}
    (whole,) = told["dp4"]
    # Three of eight drawn: a router would have chosen about three of eight of them.
    assert 0.3 < whole < 0.45
    assert all(len(one) == 1 and one.pop() == pytest.approx(whole, abs=2e-3) for one in told.values())

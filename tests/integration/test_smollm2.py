"""A real model: SmolLM2-135M-Instruct to Megatron and back, and served by SGLang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from megatron_srpo.convert import compare
from megatron_srpo.recipe.model_folder import load_tokenizer
from megatron_srpo.rollout.client import EngineClient, Sampling
from megatron_srpo.rollout.engine import start_engines
from tests.integration.test_sglang import section
from tests.unit.test_convert import sums, to_hf, to_mg
from tools.make_smollm2 import make, missing_modules

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "To make tea, first boil the water. Then",
)
GREEDY = Sampling(max_new_tokens=24, temperature=0.0, stop_token_ids=(2,))


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """HF folder, Megatron checkpoint made of it, HF folder made of that."""
    missing = missing_modules()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; see tools/setup/real-model.txt")
    root = tmp_path_factory.mktemp("smollm2")
    make(root / "hf", shard_gb=0.1)
    to_mg(root / "hf", root / "megatron")
    return root / "hf", root / "megatron", to_hf(root / "megatron", root / "back")


def test_there_and_back_is_file_by_file_the_same(smollm2: tuple[Path, Path, Path]) -> None:
    hf, _, back = smollm2
    assert len(list(hf.glob("*.safetensors"))) == 3
    assert sums(back) == sums(hf)


def test_log_probs_agree(smollm2: tuple[Path, Path, Path], capsys: Any) -> None:
    hf, megatron, _ = smollm2
    with capsys.disabled():
        print()
        assert compare.check(hf, megatron, None, 1e-4, Console())


@pytest.mark.sglang
async def test_sglang_serves_it(smollm2: tuple[Path, Path, Path], engine_python: Path, tmp_path: Path) -> None:
    folder = smollm2[2]
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    expected = greedy(folder, prompts)
    async with (
        await start_engines(section(engine_python), folder, tmp_path) as engines,
        EngineClient(engines.urls[0], retries=0, control_timeout=60.0) as client,
    ):
        for number, (prompt, tokens) in enumerate(zip(prompts, expected, strict=True)):
            found = await client.generate(rid=f"p{number}", input_ids=prompt, sampling=GREEDY)
            assert tokenizer.decode(found.tokens) == tokenizer.decode(tokens)
    assert "Paris" in tokenizer.decode(expected[0])


def greedy(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers would say in float32."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=torch.float32)
    found = []
    for prompt in prompts:
        out = model.generate(torch.tensor([prompt]), max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
        found.append(out[0, len(prompt) :].tolist())
    return found

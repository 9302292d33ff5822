"""`srpo plan` as it is read: the answer first, from a config.json alone, and beside what a run measured."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo import cli
from megatron_srpo.plan.checks import check_what_is_there
from megatron_srpo.plan.gpus import GPUS
from megatron_srpo.recipe.load import load_recipe, resolved_yaml
from tests.conftest import REPOSITORY
from tests.unit.folders import write_problems, write_recipe
from tests.unit.plan.shapes import CONFIGS

MODEL = f"model.path={CONFIGS / 'qwen2.5-7b'}"
RECIPE = REPOSITORY / "recipes" / "srpo_qwen2.5_7b.yaml"
SNAPSHOT = Path(__file__).with_name("srpo_qwen2.5_7b.txt")


def plan(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["srpo", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def shape_alone(tmp_path: Path) -> Path:
    """A recipe whose model folder has a config.json and nothing else."""
    recipe = write_recipe(tmp_path)
    for file in (tmp_path / "model").iterdir():
        if file.name != "config.json":
            file.unlink()
    return recipe


def test_the_answer_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIGS / "qwen2.5-7b", tmp_path / "model")
    assert plan(monkeypatch, RECIPE, "model.path=model", "--layouts", "2") == 0
    shown = lines(capsys.readouterr().out)
    assert shown == lines(SNAPSHOT.read_text(encoding="utf-8"))


def test_what_does_not_fit_is_said_first_with_the_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(monkeypatch, RECIPE, MODEL, "trainer.tensor_parallel=1", "trainer.sequence_parallel=false") == 2
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("srpo_qwen2.5_7b: does not fit on 8 x H100 SXM 80 GB")
    assert "a trainer rank needs 1" in first and "of 79 GiB: activations" in first
    assert first.endswith("recompute or trainer.context_parallel; --layouts 10 tries all layouts")
    small = ("trainer.max_tokens_per_microbatch=9300", "trainer.ranks=1", "trainer.recompute.granularity=full")
    split = ("trainer.tensor_parallel=1", "trainer.sequence_parallel=false")
    assert plan(monkeypatch, RECIPE, MODEL, *split, *small, "--json") == 2
    problem = json.loads(capsys.readouterr().out)["problem"]
    assert "GiB: optimizer" in problem and "; raise trainer.tensor_parallel" in problem
    assert ", or set trainer.optimizer.offload to true; " in problem
    assert plan(monkeypatch, RECIPE, MODEL, *split, *small, "trainer.optimizer.offload=true", "--json") == 2
    problem = json.loads(capsys.readouterr().out)["problem"]
    assert "GiB: optimizer" in problem and "offload" not in problem


def test_offload_is_told_with_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for offload in ("false", "true"):
        assert plan(monkeypatch, RECIPE, MODEL, f"trainer.optimizer.offload={offload}") == 0
        shown.append(capsys.readouterr().out)
    plain, offloaded = shown
    assert not re.search("offload:? [0-9]", plain) and "needs 55.2 of 79 GiB" in plain
    assert "needs 35.9 of 79 GiB" in offloaded, "less activations and logits: the update is the fuller phase"
    assert "offload: 32.0 GiB of the optimizer's state a rank in the host's memory; " in offloaded
    assert re.search(r"train .* optimizer 0\.0974, offload 3\.63", offloaded)


def test_an_engine_too_small_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(monkeypatch, RECIPE, MODEL, "engine.mem_fraction_static=0.181", "--json") == 2
    shown = json.loads(capsys.readouterr().out)
    assert not shown["fits"]
    assert shown["problem"].startswith("an engine's cache has room for")
    assert shown["problem"].endswith(
        "a sample can have 9218; raise engine.mem_fraction_static or engine.tensor_parallel"
    )


def test_8_bits_need_a_gpu_that_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(monkeypatch, RECIPE, MODEL, "trainer.fp8={}") == 0
    assert " fits on " in capsys.readouterr().out
    assert plan(monkeypatch, RECIPE, MODEL, "trainer.fp8={}", "--gpu", "a100") == 2
    assert "trainer.fp8 needs a GPU that multiplies in 8 bits" in capsys.readouterr().out.splitlines()[0]


def test_more_than_a_machine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(monkeypatch, RECIPE, MODEL, "trainer.ranks=8", "engine.count=9") == 0
    assert capsys.readouterr().out.startswith(
        "srpo_qwen2.5_7b: fits on 17 x H100 SXM 80 GB (8 GPUs train, 9 serve 9 engines) on 3 machines of 8 GPUs "
        "(`srpo train` starts one machine today); the fullest"
    )
    assert plan(monkeypatch, RECIPE, MODEL) == 0
    assert "machine" not in capsys.readouterr().out.splitlines()[0]


def test_a_dynamic_strategy_may_draw_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamic = ("curriculum.strategy=dynamic", "curriculum.dynamic.max_draws=3")
    assert plan(monkeypatch, RECIPE, MODEL, *dynamic) == 0
    out = capsys.readouterr().out
    assert "a step 18,874,368, up to 56,623,104 with max_draws" in out
    assert "samples an engine at one time, each prompt drawn once" in out
    assert plan(monkeypatch, RECIPE, MODEL) == 0
    out = capsys.readouterr().out
    assert "max_draws" not in out and "drawn once" not in out


def test_what_all_steps_take(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(monkeypatch, RECIPE, MODEL, "steps=60", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["checkpoint_bytes"] == 14 * 7_615_616_512
    hours = 60 * shown["step_seconds"] / 3600
    assert plan(monkeypatch, RECIPE, MODEL, "steps=60") == 0
    assert (
        f"60 steps: {hours:.1f} hours, {8 * hours:.0f} GPU-hours (without evaluation and checkpoints); "
        "a checkpoint is 107 GB\n"
    ) in capsys.readouterr().out


def test_layouts_are_for_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert plan(monkeypatch, recipe, "--layouts", "3") == 0
    assert capsys.readouterr().out.endswith("\nLayouts are planned for GPUs only; name one with --gpu.\n")


def test_tight_layouts_are_marked_and_reasons_merged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = ("trainer.ranks=8", "--layouts", "50")
    assert plan(monkeypatch, RECIPE, MODEL, *ranks) == 0
    out = capsys.readouterr().out
    assert "  4: tensor_parallel 3, 5, 6, 7 does not divide the 8 ranks\n" in out
    start, end = out.index("Layouts that fit"), out.index("Layouts that do not fit")
    rows = [(line, re.search(r"  +(\d+\.\d)  ", line)) for line in out[start:end].splitlines()]
    sizes = [(", tight " in line, float(found[1])) for line, found in rows if found]
    assert {tight for tight, _ in sizes} == {True, False}
    assert all(tight == (size > 0.9 * 79) for tight, size in sizes)


def test_the_gpu_is_chosen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert {name.value for name in cli.GpuName} == set(GPUS)
    found = {}
    for name in GPUS:
        assert plan(monkeypatch, RECIPE, MODEL, "--gpu", name, "--json") == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["h200"]["engines"][0]["memory"]["cache"] > found["h100"]["engines"][0]["memory"]["cache"]
    assert found["a100"]["training"]["total"] > found["h100"]["training"]["total"]
    assert found["a100"]["trainer"] == found["h100"]["trainer"]


def test_a_recipe_on_cpus_is_planned_for_gpus_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert plan(monkeypatch, recipe, "--gpu", "h100") == 0
    assert capsys.readouterr().out.startswith("small: fits on 5 x H100")


def test_json_has_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where the recipe's relative paths lead nowhere
    assert plan(monkeypatch, RECIPE, MODEL, "--json", "--layouts", "1", "--response-tokens", "500") == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["fits"] is True
    assert shown["model"]["parameters"] == 7_615_616_512
    assert shown["workload"]["response_tokens"] == pytest.approx(2048 * 500)
    rank = shown["trainer"][3]
    assert rank["tensor"] == 3
    assert rank["memory"]["total"] == sum(size for part, size in rank["memory"].items() if part != "total")
    layouts = shown["layouts"]
    assert layouts["own"] in [one["layout"] for one in layouts["fitting"]]
    assert all(one["reason"] for one in layouts["excluded"])
    assert len(shown["not_checked"]) == 4


def test_the_recipe_is_printed_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert plan(monkeypatch, recipe) == 0
    short = capsys.readouterr().out
    assert "prompts_per_step" not in short
    assert plan(monkeypatch, recipe, "--recipe") == 0
    assert capsys.readouterr().out == f"{short}\n{resolved_yaml(load_recipe(recipe))}"


def test_a_config_is_enough_and_what_is_missing_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = shape_alone(tmp_path)
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "python").unlink()
    assert plan(monkeypatch, recipe) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not checked: ")]
    assert len(told) == 1
    for what in ("weights (none in", "tokenizer (no", "engine.python (no", "data (no"):
        assert what in told[0]


def test_what_is_there_is_checked(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert check_what_is_there(load_recipe(recipe))[1] == []
    (tmp_path / "model" / "tokenizer.json").unlink()
    (missing,) = check_what_is_there(load_recipe(recipe))[1]
    assert missing.what == "tokenizer"


def long_prompt(folder: Path) -> None:
    write_problems(folder / "train.parquet", ["What is " + "1 + " * 20 + "0?"])


def cut_weights(folder: Path) -> None:
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def no_config(folder: Path) -> None:
    (folder / "model" / "config.json").unlink()


def pickled(folder: Path) -> None:
    (folder / "model" / "model.safetensors").rename(folder / "model" / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (long_prompt, [], "its prompt has 96 tokens"),
        (cut_weights, [], "model.safetensors: truncated"),
        (no_config, [], "config.json: cannot read it"),
        (pickled, [], "pickled weights"),
        (None, ["--response-tokens", "65"], "--response-tokens 65 must be between 1 and"),
        (None, ["--measured", "nowhere"], "--measured nowhere: there is no nowhere/recipe.yaml"),
        (None, ["trainer.tensor_parallel=4"], "tensor_parallel 4 does not divide"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Any,
    arguments: list[str],
    said: str,
) -> None:
    recipe = write_recipe(tmp_path)
    if spoil:
        spoil(tmp_path)
    assert plan(monkeypatch, recipe, *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def measured(folder: Path, *rows: dict[str, object], device: str = "cuda", changes: Sequence[str] = ()) -> Path:
    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "recipe.yaml").write_text(
        resolved_yaml(load_recipe(RECIPE, [MODEL, f"trainer.device={device}", *changes]))
    )
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_run_is_compared_without_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = {"tokens": 4_000_000.0, "response_tokens": 3_000_000.0, "seconds_rollout": 90.0}
    run = measured(tmp_path, *(step | {"seconds_train": seconds} for seconds in (900.0, 100.0, 200.0, 400.0)))
    assert plan(monkeypatch, RECIPE, MODEL, "--measured", run, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    found, expected = shown["measured"], shown["training"]
    assert (found["steps"], found["seconds_train"], found["seconds_rollout"]) == (3, 200.0, 90.0)
    assert found["tokens_per_second_and_gpu"] == 4_000_000 / 200 / 4
    # As many operations a token as the plan has, but for the share of responses.
    per_token = expected["mfu"] / expected["tokens_per_second_and_gpu"]
    assert found["mfu"] == pytest.approx(per_token * 5000, rel=0.03)
    assert plan(monkeypatch, RECIPE, MODEL, "--measured", run) == 0
    text = capsys.readouterr().out
    assert "Measured, medians of 3 steps" in text
    assert "5,000" in text


STEP: dict[str, object] = {"tokens": 4e6, "response_tokens": 3e6, "seconds_train": 100.0}


@pytest.mark.parametrize(
    ("metrics", "device", "mfu", "missing"),
    [
        ({"mfu": 0.25, "peak_memory_gib": 50.0}, "auto", 0.25, ()),
        ({"mfu": 0.25}, "auto", 0.25, ()),
        ({}, "auto", None, ("the run does not tell whether it was on GPUs, so there is no MFU",)),
        ({"peak_memory_gib": 50.0}, "auto", "estimated", ()),
        ({}, "cuda", "estimated", ()),
        ({}, "cpu", None, ("the run was on CPUs, so there is no MFU",)),
    ],
)
def test_mfu_is_the_runs_own_or_that_of_a_gpu_that_it_had(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    metrics: dict[str, object],
    device: str,
    mfu: float | str | None,
    missing: tuple[str, ...],
) -> None:
    run = measured(tmp_path, *[STEP | metrics] * 2, device=device)
    assert plan(monkeypatch, RECIPE, MODEL, "--measured", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)["measured"]
    assert tuple(found["missing"]) == missing
    assert (found["mfu"] == mfu) if mfu != "estimated" else (0.1 < found["mfu"] < 1 and found["mfu"] != 0.25)
    assert found["peak_memory_gib"] == metrics.get("peak_memory_gib")


def test_peak_memory_is_beside_the_fullest_rank_and_another_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = STEP | {"peak_memory_gib": 51.26}
    assert plan(monkeypatch, RECIPE, MODEL, "--measured", measured(tmp_path, step)) == 0
    out = capsys.readouterr().out
    assert re.search(r" GiB of tensors, fullest rank +51\.2 +51\.3 ", out)
    assert "not of this plan" not in out
    other = (
        f"model.path={CONFIGS / 'qwen2.5-1.5b'}",
        "trainer.tensor_parallel=2",
        "trainer.ranks=2",
        "rollout.prompts_per_step=64",
    )
    run = measured(tmp_path, step, changes=other)
    assert plan(monkeypatch, RECIPE, MODEL, "--measured", run) == 0
    assert (
        "measured: the run is not of this plan, it has a model of 1,543,714,304 parameters in 28 layers, "
        "2 ranks with tp 2 sp, pp 1, recompute none, 1,024 samples a step\n"
    ) in capsys.readouterr().out


def test_metrics_without_the_keys_and_runs_on_cpus_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = measured(tmp_path, {"tokens": 10.0})
    assert plan(monkeypatch, RECIPE, MODEL, "--measured", run) == 0
    assert "metrics.jsonl has no step with seconds_train" in capsys.readouterr().out
    run = measured(tmp_path, {"tokens": 10.0, "seconds_train": 1.0}, device="cpu")
    assert plan(monkeypatch, RECIPE, MODEL, "--measured", run) == 0
    text = capsys.readouterr().out
    assert "the run was on CPUs, so there is no MFU" in text
    assert "response_tokens is not in the metrics" in text

"""Ablations: what is planned, what is read off the runs, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from megatron_srpo.ablation.config import load_ablation, plan_runs
from megatron_srpo.ablation.curves import RunCurve, read_curve
from megatron_srpo.ablation.report import write_report
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import write_table
from megatron_srpo.recipe.load import resolved_yaml
from megatron_srpo.rollout.journal import SCHEMA, Journal
from tests.conftest import REPOSITORY
from tests.support import journal_row

CONFIG = """
recipe: recipe.yaml
out: {out}
seeds: [0, 1]
baseline: plain
threshold: {{accuracy: 0.5}}
arms:
  plain: {{label: plain}}
  fancy: {{label: fancy, set: {{curriculum: {{strategy: history}}}}}}
"""
RECIPE = "steps: 3\nmodel: {path: m}\ndata: {train: {math: t.parquet}, heldout: {math: h.parquet}}\nname: base\n"


def written(folder: Path, config: str = CONFIG) -> Path:
    (folder / "recipe.yaml").write_text(RECIPE)
    path = folder / "ablation.yaml"
    path.write_text(config.format(out=folder / "out"))
    return path


def record_run(
    run: Path,
    groups: list[list[list[float]]],
    evaluations: dict[int, list[float]],
    trained: Sequence[int] = (0, 1, 2),
) -> None:
    """A finished run: for every step, the accuracies of its groups, each response ten tokens."""
    journal = Journal(run / "rollouts")
    for step, of_step in enumerate(groups):
        for group, accuracies in enumerate(of_step):
            rows = [
                journal_row(group, sample, step, response_length=10, accuracy=accuracy, reward=accuracy)
                for sample, accuracy in enumerate(accuracies)
            ]
            journal.append(rows)
        journal.close(step, len(of_step), trained)
    for version, values in evaluations.items():
        rows = [asdict(journal_row(i, 0, version, accuracy=a, source="math")) for i, a in enumerate(values)]
        write_table(pa.Table.from_pylist(rows, schema=SCHEMA), run / f"evaluation/version-{version:06d}.parquet")
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    steps = len(groups)
    record = {"weight_version": steps, "ended_by": "steps", "budget_tokens": None}
    (run / "finished.json").write_text(json.dumps(record))


MIXED, SAME = [0.0, 1.0], [1.0, 1.0]


def test_runs_are_planned_seed_by_seed(tmp_path: Path) -> None:
    path = written(tmp_path)
    runs = plan_runs(path, load_ablation(path))
    assert [(run.arm, run.seed) for run in runs] == [("plain", 0), ("fancy", 0), ("plain", 1), ("fancy", 1)]
    assert [run.recipe.curriculum.strategy for run in runs] == ["none", "history"] * 2
    assert [run.recipe.seed for run in runs] == [0, 0, 1, 1]
    assert len({run.directory for run in runs}) == 4


def test_a_run_is_read_off_its_journal(tmp_path: Path) -> None:
    record_run(
        tmp_path,
        [[MIXED, SAME], [MIXED, MIXED], [SAME, SAME, MIXED]],
        {0: [0, 0, 0, 0], 2: [1, 0, 0, 0], 3: [1, 1, 1, 0]},
    )
    curve = read_curve("plain", 0, tmp_path)
    assert curve.tokens.tolist() == [0, 40, 80, 140]
    assert curve.effective.tolist() == pytest.approx([1 / 2, 1, 1 / 3])
    assert curve.wasted_share() == pytest.approx((20 + 0 + 40) / 140)
    assert curve.last == {"accuracy": 0.75, "accuracy/math": 0.75}
    # Half way between version 2 (25 %, 80 tokens) and version 3 (75 %, 140 tokens).
    assert curve.reaches("accuracy", 0.5) == pytest.approx((110, 2.5))
    assert curve.reaches("accuracy", 0.9) is None


def test_a_group_that_is_dropped_moves_nothing(tmp_path: Path) -> None:
    """Rewards may differ in a group that `dynamic` drops, by a broken form for instance."""
    record_run(tmp_path, [[MIXED, MIXED, SAME]], {0: [0]}, trained=(0, 2))
    curve = read_curve("plain", 0, tmp_path)
    assert curve.effective.tolist() == pytest.approx([1 / 3])
    assert curve.wasted_share() == pytest.approx(2 / 3)


def test_a_run_of_another_recipe_is_no_result(tmp_path: Path) -> None:
    path = written(tmp_path)
    ablation = load_ablation(path)
    runs = plan_runs(path, ablation)
    record_run(runs[0].directory, [[MIXED, SAME]] * 3, {0: [0]})
    changed = runs[0].recipe.model_copy(update={"seed": 5})
    (runs[0].directory / "recipe.yaml").write_text(resolved_yaml(changed))
    with pytest.raises(SrpoError, match="the recipe has changed"):
        write_report(ablation, runs, Console())


def test_the_report_compares_with_the_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    ablation = load_ablation(path)
    runs = plan_runs(path, ablation)
    slow, fast = {0: [0, 0], 3: [1, 0]}, {0: [0, 0], 1: [1, 0], 3: [1, 1]}
    for run in runs[:3]:  # the last one is still missing
        record_run(run.directory, [[MIXED, SAME]] * 3, slow if run.arm == "plain" else fast)
        (run.directory / "recipe.yaml").write_text(resolved_yaml(run.recipe))
    write_report(ablation, runs, Console())
    report = json.loads((ablation.out / "report.json").read_text())
    assert report["arms"]["plain"]["to_accuracy"]["tokens"] == {"mean": 120.0, "sd": 0.0}
    assert report["arms"]["fancy"]["to_accuracy"]["tokens"] == {"mean": 40.0, "sd": None}
    assert report["arms"]["plain"]["wasted_share"]["mean"] == 0.5
    [line] = [line for line in (ablation.out / "report.md").read_text().splitlines() if "fancy" in line]
    assert " 0.33 |" in line, "a third of the baseline's tokens"
    assert "±" not in line, "one run has no spread"
    assert (ablation.out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "3 of 4 runs" in capsys.readouterr().out


def test_an_accuracy_that_is_there_from_the_start_costs_nothing() -> None:
    import numpy as np

    evaluations = {0: {"accuracy": 0.6}, 2: {"accuracy": 0.4}}
    curve = RunCurve("a", 0, np.array([0, 10, 20]), np.ones(2), np.zeros(2), evaluations, ())
    assert curve.reaches("accuracy", 0.5) == (0.0, 0.0)


def test_the_shipped_ablation_plans_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = REPOSITORY / "recipes" / "ablation_tiny.yaml"
    ablation = load_ablation(path)
    strategies = {run.arm: run.recipe.curriculum for run in plan_runs(path, ablation)}
    assert {name: (of.strategy, len(of.stages)) for name, of in strategies.items()} == {
        "grpo": ("none", 1),
        "dapo": ("dynamic", 1),
        "history": ("history", 1),
        "stages": ("none", 2),
        "srpo": ("history", 2),
        "predictive": ("predictive", 1),
    }
    assert len(ablation.seeds) == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("baseline: plain", "baseline: nobody", "baseline nobody is none of the arms plain, fancy"),
        ("strategy: history", "strategie: history", "strategie"),
        ("seeds: [0, 1]", "seeds: []", "seeds"),
        ("arms:", "arm:", "unknown key arm; did you mean arms"),
        (
            "{{accuracy: 0.5}}",
            "{{math: 0.5}}",
            "threshold math is not measured; there are accuracy, acc",
        ),
        ("seeds: [0, 1]", "seeds: [0, 0]", "name one twice"),
        ("label: plain}}", "label: plain, set: {{seed: 3}}}}", "set names seed"),
        ("label: plain}}", "label: plain, set: {{data: {{heldout: {{}}}}}}}}", "no data.heldout"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = written(tmp_path, CONFIG.replace(old, new))
    with pytest.raises(SrpoError, match=said):
        plan_runs(path, load_ablation(path))


def test_without_a_finished_baseline_there_is_no_report(tmp_path: Path) -> None:
    path = written(tmp_path)
    ablation = load_ablation(path)
    with pytest.raises(SrpoError, match="no run of plain is finished"):
        write_report(ablation, plan_runs(path, ablation), Console())

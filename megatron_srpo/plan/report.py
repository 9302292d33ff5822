"""The plan as a person reads it: the answer first, then what it is made of.  No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from megatron_srpo.plan.gpus import GIB, GPUS_PER_NODE
from megatron_srpo.plan.layouts import Layouts
from megatron_srpo.plan.measured import Measured
from megatron_srpo.plan.plan import Plan
from megatron_srpo.plan.time import TrainingTime

SIZE = re.compile(r"(?<=_parallel )(\d+)")  # of a layout, in a reason
UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (1, "bytes"))


def print_plan(plan: Plan, console: Console, layouts: int = 0) -> None:
    """Write the plan; of all layouts the first `layouts` that fit, and as many that do not."""
    _say(console, _answer(plan))
    _say(
        console,
        f"{plan.model.architecture}, {plan.parameters:,} parameters, {plan.model.num_layers} layers; "
        f"run directory {plan.recipe.directory}",
    )
    if plan.not_checked:
        _say(console, f"not checked: {'; '.join(plan.not_checked)}")
    _memory(plan, console)
    _step(plan, console)
    if plan.training is not None:
        _time(plan, plan.training, console)
    _say(console, _run(plan))
    if plan.measured is not None:
        _measured(plan, plan.measured, console)
    _stages(plan, console)
    if plan.layouts is not None:
        _layouts(plan.layouts, layouts, console)
    elif layouts:
        _say(console, "\nLayouts are planned for GPUs only; name one with --gpu.")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(*columns: str, left: int = 1) -> Table:
    """A table without lines, numbers to the right; the first `left` columns are words."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right")
    return table


def _answer(plan: Plan) -> str:
    """Whether it fits, in one line."""
    trainer, engine = plan.recipe.trainer, plan.recipe.engine
    served, engines = engine.count * engine.tensor_parallel, _count(engine.count, "engine")
    name = plan.recipe.name
    if plan.gpu is None:
        return (
            f"{name}: on CPUs, {_count(trainer.ranks, 'process', 'processes')} train, {served} serve {engines}; "
            "neither their activations nor their times are planned"
        )
    trained = _count(trainer.ranks, "GPU")
    parts = f"{trained} train, " + (
        f"{served} serve {engines}" if plan.engine else "engines are not planned for GPUs"
    )
    machines = -(-plan.gpus // GPUS_PER_NODE)
    where = f"{plan.gpus} x {plan.gpu.name} ({parts})"
    if machines > 1:
        where += f" on {machines} machines of {GPUS_PER_NODE} GPUs (`srpo train` starts one machine today)"
    if plan.problem is not None:
        return f"{name}: does not fit on {where}: {plan.problem}"
    needs = plan.fullest.memory.total / GIB
    left = f"the fullest rank needs {needs:.1f} of {plan.gpu.memory_gib:g} GiB, {1 - plan.used:.0%} is left"
    tight = "; that is little, as these are estimates" if plan.is_tight else ""
    return f"{name}: fits on {where}; {left}{tight}"


def _memory(plan: Plan, console: Console) -> None:
    """A line for each kind of rank, and one for the engines."""
    parts = [part for part in plan.fullest.memory.parts() if any(r.memory.parts()[part] for r, _ in plan.kinds)]
    _say(console, "\nGiB of a trainer rank (estimated)")
    table = _table("stage", "ranks", *parts, "total")
    rows = Counter[tuple[str, ...]]()
    stages: dict[tuple[str, ...], list[int]] = {}
    for rank, count in plan.kinds:
        row = (*(_gib(rank.memory.parts()[part]) for part in parts), _gib(rank.memory.total))
        rows[row] += count
        stages.setdefault(row, []).append(rank.pipeline)
    for row, count in rows.items():
        table.add_row(_numbers(stages[row]), str(count), *row)
    console.print(table)
    host = max(rank.host_bytes for rank in plan.ranks)
    if host and plan.gpu is not None:
        _say(
            console,
            f"offload: {_gib(host)} GiB of the optimizer's state a rank in the host's memory; the table has the "
            "fuller of two phases, either the optimizer's state or activations and logits",
        )
    if plan.engine is not None and plan.gpu is not None:
        _say(
            console,
            f"GPU of an engine: weights {_gib(plan.engine.weights)}, cache {_gib(plan.engine.cache)} of "
            f"{plan.gpu.memory_gib:g} GiB; an engine's cache holds {plan.engine.cache_tokens:,} tokens, "
            f"{plan.engine.full_length_samples} samples of the longest",
        )


def _step(plan: Plan, console: Console) -> None:
    """Arithmetic of a step."""
    batch, trainer = plan.batch, plan.recipe.trainer
    more = f", up to {batch.max_tokens_drawn:,} with max_draws" if _is_dynamic(plan) else ""
    virtual, experts = trainer.virtual_pipeline_parallel, trainer.expert_parallel
    sizes = [
        f"tp {trainer.tensor_parallel}" + (" with sequence parallelism" if trainer.sequence_parallel else ""),
        f"pp {trainer.pipeline_parallel}" + (f" x {virtual} chunks" if virtual > 1 else ""),
        f"cp {trainer.context_parallel}",
        f"dp {plan.recipe.data_parallel}",
        *([f"ep {experts}"] if experts > 1 else []),
    ]
    _say(console, f"\nranks: {', '.join(sizes)}; recompute {trainer.recompute.granularity}")
    _say(
        console,
        f"step: {batch.prompts_per_step} x {batch.samples_per_prompt} = {batch.samples_per_step:,} samples; "
        f"{_count(batch.updates_per_step, 'update')} of {batch.samples_per_update:,}, "
        f"{batch.samples_per_update_and_data_rank:g} a data-parallel rank; {batch.steps:,} steps",
    )
    _say(
        console,
        f"      a sample has at most {batch.longest_sequence:,} tokens, a microbatch "
        f"{batch.max_tokens_per_microbatch:,}, a step {batch.max_tokens_per_step:,}{more}",
    )


def _time(plan: Plan, time: TrainingTime, console: Console) -> None:
    """Seconds of a step, and what the training is worth."""
    work, rollout = plan.workload, plan.rollout
    mean = work.response_tokens / work.samples
    _say(console, f"\nSeconds of a step (estimated, responses of {mean:,.0f} tokens on average)")
    parts = {
        "compute": time.compute,
        "recomputation": time.recompute,
        "collectives": time.communication,
        "bubble": time.bubble,
        "log-probs": time.log_probs,
        "gradients": time.gradients,
        "optimizer": time.optimizer,
        "offload": time.offload,
    }
    table = _table("", "seconds", "of which")
    table.columns[2].justify = "left"
    table.add_row(
        "train", _seconds(time.total), ", ".join(f"{name} {_seconds(s)}" for name, s in parts.items() if s)
    )
    if rollout is not None:
        once = ", each prompt drawn once" if _is_dynamic(plan) else ""
        running = f"{rollout.running:.0f} samples an engine at one time{once}"
        table.add_row("sample", _seconds(rollout.sampling), running)
        table.add_row("exchange", _seconds(rollout.exchange), "")
        table.add_row("whole", _seconds(plan.step_seconds or 0.0), "one after the other")
    console.print(table)
    _say(
        console,
        f"training: {time.model_flops:.3g} operations, {work.tokens:.3g} tokens, "
        f"{time.tokens_per_second_and_gpu:,.0f} tokens a second and GPU, MFU {time.mfu:.0%}",
    )


def _run(plan: Plan) -> str:
    """What all steps take, as far as it is planned, and what a checkpoint does."""
    checkpoint = f"a checkpoint is {_bytes(plan.checkpoint_bytes)}"
    if plan.step_seconds is None:
        return checkpoint
    seconds = plan.recipe.steps * plan.step_seconds
    return (
        f"{_count(plan.recipe.steps, 'step')}: {_duration(seconds)}, {plan.gpus * seconds / 3600:,.0f} GPU-hours "
        f"(without evaluation and checkpoints); {checkpoint}"
    )


def _is_dynamic(plan: Plan) -> bool:
    return plan.recipe.curriculum.strategy == "dynamic"


def _measured(plan: Plan, measured: Measured, console: Console) -> None:
    """What a run measured beside what is expected."""
    for what in measured.missing:
        _say(console, f"measured: {what}")
    if measured.differs:
        _say(console, f"measured: the run is not of this plan, it has {', '.join(measured.differs)}")
    if not measured.steps:
        return
    time, rollout = plan.training, plan.rollout
    mean = plan.workload.response_tokens / plan.workload.samples
    memory = plan.fullest.memory
    tensors = (memory.total - memory.overhead) / GIB if plan.gpu is not None else None  # torch counts these alone
    rows = [
        ("seconds train", time and time.total, measured.seconds_train, "{:.4g}"),
        ("seconds sample", rollout and rollout.sampling, measured.seconds_rollout, "{:.4g}"),
        ("tokens a response", mean, measured.response_tokens, "{:,.0f}"),
        (
            "tokens a second and rank",
            time and time.tokens_per_second_and_gpu,
            measured.tokens_per_second_and_gpu,
            "{:,.0f}",
        ),
        ("MFU", time and time.mfu, measured.mfu, "{:.1%}"),
        ("GiB of tensors, fullest rank", tensors, measured.peak_memory_gib, "{:.1f}"),
    ]
    _say(console, f"\nMeasured, medians of {_count(measured.steps, 'step')}")
    table = _table("", "expected", "measured")
    for name, expected, found, form in rows:
        table.add_row(name, *("" if value is None else form.format(value) for value in (expected, found)))
    console.print(table)


def _stages(plan: Plan, console: Console) -> None:
    """The curriculum."""
    columns = ("stage", "mixture", "end", "step", "response", "learning rate")
    _say(console, f"\nCurriculum, strategy {plan.recipe.curriculum.strategy}")
    table = _table(*columns, left=3)
    for stage in plan.stages:
        table.add_row(
            stage.stage,
            ", ".join(f"{source} {share:.0%}" for source, share in stage.mixture.items()),
            stage.end,
            f"{stage.prompts_per_step} x {stage.samples_per_prompt}",
            f"{stage.max_response_tokens}",
            f"{stage.learning_rate:g}",
        )
    console.print(table)


def _layouts(layouts: Layouts, limit: int, console: Console) -> None:
    """The fastest that fit with the recipe's own, then reasons why the others do not."""
    _say(console, f"\nLayouts that fit: {len(layouts.fitting)}, fastest first (estimated)")
    table = _table("layout", "GiB", "activations", "train s", "MFU")
    for number, one in enumerate(layouts.fitting):
        own = one.layout == layouts.own
        if number < limit or own:
            table.add_row(
                f"{one.layout}{' (the recipe)' if own else ''}{', tight' if one.is_tight else ''}",
                _gib(one.memory.total),
                _gib(one.memory.activations),
                f"{one.time.total:.4g}",
                f"{one.time.mfu:.0%}",
            )
    console.print(table)
    too_large = [other for other in layouts.excluded if other.needs is not None]
    _say(console, f"\nLayouts that do not fit: {len(too_large)}, the nearest first")
    for other in too_large[:limit]:
        _say(console, f"  {other.layout}: {other.reason}")
    impossible = Counter(other.reason for other in layouts.excluded if other.needs is None)
    _say(console, f"Layouts that cannot be: {impossible.total()}")
    for reason in _merged(impossible)[:limit]:
        _say(console, f"  {reason}")


def _merged(reasons: Counter[str]) -> list[str]:
    """The reasons with how often each is one, most often first; those that differ in one size are one reason."""
    alike: dict[tuple[str, ...], list[str]] = {}
    counts = Counter[tuple[str, ...]]()
    for reason, count in reasons.items():
        around = SIZE.split(reason)
        # With two sizes or more it would not be seen which belong together.
        key: tuple[str, ...] = (around[0], around[2]) if len(around) == 3 else (reason,)
        alike.setdefault(key, []).append(around[1] if len(around) == 3 else "")
        counts[key] += count
    lines = []
    for key, count in counts.most_common():
        lines.append(f"{count}: {', '.join(alike[key]).join(key) if len(key) == 2 else key[0]}")
    return lines


def _gib(count: float) -> str:
    """Bytes in GiB; three digits of small ones."""
    value = count / GIB
    return f"{value:.1f}" if value >= 1 or not value else f"{value:.2g}"


def _seconds(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: float) -> str:
    """Bytes on a disk: three digits."""
    unit, name = next((size, name) for size, name in UNITS if count >= size or size == 1)
    return f"{_seconds(count / unit)} {name}"


def _duration(seconds: float) -> str:
    """Days, hours or minutes."""
    unit, name = (86400, "days") if seconds >= 86400 else (3600, "hours") if seconds >= 3600 else (60, "minutes")
    return f"{seconds / unit:,.1f} {name}"


def _count(number: int, name: str, plural: str = "") -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {plural or f'{name}s'}"


def _numbers(values: Sequence[int]) -> str:
    """`0`, or `1 to 3` for numbers that follow each other, or all of them."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))

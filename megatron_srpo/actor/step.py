"""One training step on one step file: the policy-gradient update of GRPO on Megatron's schedules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)

from megatron_srpo.actor.actor import Actor
from megatron_srpo.actor.batch import Microbatch, TrainingSample, build_microbatch, training_samples
from megatron_srpo.actor.experts import weigh_balancing
from megatron_srpo.actor.log_probs import Vocabulary, linear_log_probs
from megatron_srpo.actor.loss import k3, summed_loss, surrogate_loss
from megatron_srpo.actor.model import output_weight
from megatron_srpo.actor.optimizer import gather_weights
from megatron_srpo.actor.packing import plan_microbatches
from megatron_srpo.actor.profiling import Phases
from megatron_srpo.actor.spread import Spread
from megatron_srpo.actor.statistics import LogProbs, TokenStatistics, reduce_statistics, token_statistics
from megatron_srpo.actor.throughput import peak_memory, throughput
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.flops import model_flops
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import read_step
from megatron_srpo.rollout.routed_experts import routing_shape


def train_step(actor: Actor, path: Path, before_update: Callable[[], None] | None = None) -> dict[str, float]:
    """Train on the step file: `updates_per_step` optimizer updates over its groups in order.

    `before_update` is called before each: from then on weights and optimizer state change.
    The recipe is that of the step's stage.  Returns the metrics, the same on every rank.  Raises SrpoError when
    the very first step shows that the trainer and the engine disagree about the log-probs of the engine's tokens.
    """
    started, phases = time.monotonic(), Phases(actor.platform)
    with phases("read"):
        rows = read_step(path)
        recipe = actor.recipe.at_stage(rows[0].stage)
        samples = training_samples(path, rows, recipe, routing_shape(recipe, actor.model_config))
    staged = replace(actor, recipe=recipe)
    with phases("pack"):
        parts = _updates_of(path, samples, recipe)
        spreads = [spread(staged, part) for part in parts]
        updates = [microbatches(staged, part, found) for part, found in zip(parts, spreads, strict=True)]
    # The policy of the first update is the one that is compared: the ratio's denominator is its own log-prob.  For
    # those behind it the log-probs before the first are computed beforehand.
    with phases("old_log_probs"):
        old = [None, *(log_probs_of(staged, update) for update in updates[1:])]
    reference: list[list[torch.Tensor] | None] = [None] * len(updates)
    if actor.reference is not None:
        with phases("reference_log_probs"):
            reference = [log_probs_of(staged, update, actor.reference) for update in updates]
    collected: list[dict[str, float]] = []
    for update, found, old_log_probs, reference_log_probs in zip(updates, spreads, old, reference, strict=True):
        with phases("forward_backward"):
            if before_update is not None and recipe.trainer.experts.balancing == "bias":
                before_update()  # the routers' bias changes at the end of the backward passes
            statistics = forward_backward(staged, update, old_log_probs, reference_log_probs)
        if actor.version == 0 and not collected:
            check_mismatch(statistics, recipe.algorithm.mismatch_limit)
        with phases("update"):
            if before_update is not None:
                before_update()
            with staged.state_at_hand():
                applied = apply_gradients(staged, actor.recipe)
        limit = recipe.trainer.max_tokens_per_microbatch
        collected.append(statistics | applied | found.metrics(limit, actor.packing))
    if recipe.trainer.overlap_parameter_gather:
        gather_weights(actor.model)  # engines and checkpoints take the weights from here
    actor.version += 1
    metrics = _combine(collected) | phases.metrics()
    if actor.replay is not None:
        metrics |= actor.replay.agreement(actor.platform.device)
    tokens = sum(sum(found.lengths) for found in spreads)
    operations = sum(sum(found.costs) for found in spreads)
    seconds = time.monotonic() - started
    speed = throughput(tokens, operations, seconds, recipe.trainer.ranks, actor.platform)
    return metrics | {"tokens": float(tokens), "seconds_train": seconds} | speed | peak_memory(actor.platform)


def _updates_of(path: Path, samples: Sequence[TrainingSample], recipe: Recipe) -> list[Sequence[TrainingSample]]:
    """The samples of each update; raises SrpoError when the groups cannot be divided equally."""
    parts = split_groups(samples, recipe.rollout.samples_per_prompt, recipe.trainer.updates_per_step)
    if parts is None:
        raise SrpoError(
            f"{path}: its {len(samples) // recipe.rollout.samples_per_prompt} groups cannot be split into "
            f"trainer.updates_per_step {recipe.trainer.updates_per_step} equal parts; set it to a divisor"
        )
    return parts


def split_groups(
    samples: Sequence[TrainingSample], samples_per_prompt: int, parts: int
) -> list[Sequence[TrainingSample]] | None:
    """Equal parts of whole groups, in order; none when the groups cannot be divided so."""
    groups = len(samples) // samples_per_prompt
    if groups % parts:
        return None
    size = groups // parts * samples_per_prompt
    return [samples[i * size : (i + 1) * size] for i in range(parts)]


def spread(actor: Actor, samples: Sequence[TrainingSample]) -> Spread:
    """Which samples of an update are in which microbatch of which data-parallel rank."""
    trainer, flops = actor.recipe.trainer, model_flops(actor.model_config)
    lengths = [len(sample.tokens) for sample in samples]
    costs = [flops.training(length, s.response_length) for length, s in zip(lengths, samples, strict=True)]
    plan = plan_microbatches(
        lengths, trainer.max_tokens_per_microbatch, actor.ranks.data_size, actor.microbatch_multiple, costs
    )
    return Spread(plan, lengths, costs)


def microbatches(actor: Actor, samples: Sequence[TrainingSample], found: Spread | None = None) -> list[Microbatch]:
    """This rank's microbatches of one update; `found` is its spread, if that is known already."""
    plan = (found or spread(actor, samples)).plan
    context_group = parallel_state.get_context_parallel_group() if actor.ranks.context_size > 1 else None
    return [
        build_microbatch([samples[i] for i in members], actor.platform, actor.packing, context_group, actor.replay)
        for members in plan[actor.ranks.data]
    ]


def run_schedule(
    model: Sequence[torch.nn.Module], batches: Sequence[Any], loss: Callable[..., Any], forward_only: bool
) -> list[Any]:
    """Run Megatron's schedule with the chunks of the actor's model or the reference over microbatches.

    `loss(hidden, weight, *batch)` is called on the last pipeline stage with what its `PolicyModel` ends in and
    the output projection, and returns what Megatron's schedules expect: (summed loss, what to divide it by,
    anything), the last of which is collected.
    """

    def forward_step(iterator: Iterator[Any], model: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
        batch = next(iterator)
        micro: Microbatch = batch[0]
        output = model(micro.tokens, micro.positions, None, packed_seq_params=micro.sequences)
        return output, lambda hidden: loss(hidden, output_weight(model), *batch)

    collected: list[Any] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(batches) for _ in model] if len(model) > 1 else iter(batches),
        model=list(model),
        num_microbatches=len(batches),
        seq_length=1,  # not used: packed lengths vary, and stages tell each other the shapes
        micro_batch_size=1,
        forward_only=forward_only,
    )
    return collected


def _response_log_probs(
    actor: Actor, hidden: torch.Tensor, weight: torch.Tensor, batch: Microbatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropy of the microbatch's response tokens, both [responses].

    Only the positions that predict one go through the projection.
    """
    trainer = actor.recipe.trainer
    # Megatron's wrapper for 16 bits has made the last stage's output float32.
    hidden = hidden.to(weight.dtype)
    if trainer.sequence_parallel:
        whole = gather_from_sequence_parallel_region(hidden)
        rows = whole[:, 0].index_select(0, batch.sources)
    else:
        rows = copy_to_tensor_model_parallel_region(hidden[:, 0].index_select(0, batch.sources))
    vocabulary = Vocabulary(
        size=actor.model_config.vocab_size,
        start=actor.ranks.tensor * len(weight),
        group=parallel_state.get_tensor_model_parallel_group(),
        temperature=actor.recipe.rollout.temperature,
        block_elements=int(trainer.logits_megabytes * 2**20) // 4,
    )
    return linear_log_probs(rows, weight, batch.targets, vocabulary)


@torch.no_grad()
def log_probs_of(
    actor: Actor, batches: Sequence[Microbatch], model: Sequence[torch.nn.Module] | None = None
) -> list[torch.Tensor]:
    """Log-probs of each microbatch's response tokens under the actor's present weights, or those of `model`.

    Empty on all but the last pipeline stage.
    """

    if actor.replay is not None and model is None:
        actor.replay.begin(batches)

    def loss(
        hidden: torch.Tensor, weight: torch.Tensor, batch: Microbatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        log_probs, _ = _response_log_probs(actor, hidden, weight, batch)
        return log_probs.sum(), _as_tensor(_count(batch, "tokens"), batch), log_probs

    found = run_schedule(
        actor.model if model is None else model, [(batch,) for batch in batches], loss, forward_only=True
    )
    if actor.replay is not None:
        actor.replay.begin(())
    return found


def _count(batch: Microbatch, loss_over: str) -> int:
    """The microbatch's part of what the update's summed loss is divided by: its response tokens or its samples."""
    return batch.samples if loss_over == "samples" else len(batch.targets)


def _as_tensor(count: int, batch: Microbatch) -> torch.Tensor:
    """A count as Megatron's schedules want it."""
    return torch.tensor(count, dtype=torch.int, device=batch.targets.device)


def forward_backward(
    actor: Actor,
    batches: Sequence[Microbatch],
    old_log_probs: list[torch.Tensor] | None,
    reference_log_probs: list[torch.Tensor] | None,
) -> dict[str, float]:
    """Accumulate the update's gradient in Megatron's buffers and return its statistics."""
    algorithm = actor.recipe.algorithm

    def loss(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        batch: Microbatch,
        old: torch.Tensor | None,
        reference: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, TokenStatistics]:
        log_probs, entropy = _response_log_probs(actor, hidden, weight, batch)
        before = log_probs.detach() if old is None else old
        surrogate = surrogate_loss(
            log_probs,
            before,
            batch.engine_log_probs,
            batch.advantages,
            algorithm.clip_low,
            algorithm.clip_high,
            algorithm.importance_cap,
        )
        kl = None if reference is None else k3(log_probs, reference)
        lengths = batch.lengths if algorithm.loss_over == "samples" else None
        total = summed_loss(surrogate.per_token, kl, algorithm.kl_coefficient, lengths)
        count = _as_tensor(_count(batch, algorithm.loss_over), batch)
        known = LogProbs(log_probs.detach(), before, batch.engine_log_probs, reference)
        # Megatron divides by the sum of the counts of the whole update (calculate_per_token_loss).
        return total, count, token_statistics(total, count, surrogate, known, batch.advantages, entropy)

    experts = actor.recipe.trainer.experts
    if actor.model_config.moe is not None and experts.balancing == "aux_loss":
        count = sum(_count(batch, algorithm.loss_over) for batch in batches)
        weigh_balancing(actor.chunks, batches, count, experts.aux_loss_coefficient, actor.ranks)
    for chunk in actor.model:
        chunk.zero_grad_buffer()
    actor.optimizer.zero_grad()
    if actor.replay is not None:
        actor.replay.begin(batches)
    nothing = [None] * len(batches)
    with_log_probs = zip(batches, old_log_probs or nothing, reference_log_probs or nothing, strict=True)
    parts = run_schedule(actor.model, list(with_log_probs), loss, forward_only=False)
    if actor.replay is not None:
        actor.replay.begin(())  # the microbatches may go
    return reduce_statistics(parts, actor.ranks, actor.platform.device, actor.reference is not None)


def apply_gradients(actor: Actor, scheduled: Recipe) -> dict[str, float]:
    """Clip and step; raises SrpoError for a broken gradient.

    The schedule follows the recipe `scheduled`; a stage with a rate of its own scales it.
    """
    rate = actor.recipe.trainer.optimizer.learning_rate
    rate_scale = rate / scheduled.trainer.optimizer.learning_rate
    actor.scheduler.step(increment=1)
    for group in actor.optimizer.param_groups:
        group["lr"] *= rate_scale
    succeeded, grad_norm, _ = actor.optimizer.step()
    norm = float(grad_norm) if grad_norm is not None else 0.0
    if not succeeded or norm != norm or norm == float("inf"):
        raise SrpoError(
            f"step {actor.version}: the gradient norm is {norm}; start again in a new --run-dir with a lower "
            "trainer.optimizer.learning_rate, or look at what is special in the step file"
        )
    return {"grad_norm": norm, "learning_rate": float(actor.optimizer.param_groups[0]["lr"])}


def check_mismatch(statistics: dict[str, float], limit: float) -> None:
    """Raise SrpoError when the engine's log-probs are not the trainer's, within the recipe's limit."""
    if not statistics["mismatch_mean"] <= limit:
        raise SrpoError(
            "step 0: trainer and engine disagree, mean |log-prob difference| "
            f"{statistics['mismatch_mean']:.4g} is above algorithm.mismatch_limit {limit:g} (largest "
            f"{statistics['mismatch_max']:.4g}); compare their model folders, dtypes and temperature, or raise "
            "the limit"
        )


def _combine(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of a step: means over its updates, but sums of counts, maxima of maxima, the last rate."""
    combined = {name: sum(u[name] for u in updates) / len(updates) for name in updates[0]}
    for name in ("response_tokens", "gradient_tokens"):
        combined[name] = sum(u[name] for u in updates)
    combined["mismatch_max"] = max(u["mismatch_max"] for u in updates)
    combined["learning_rate"] = updates[-1]["learning_rate"]
    return combined

"""Floating-point operations of a model, from its shape.  No torch.

A multiply and an add are two operations; only matrix products count (arXiv 2205.05198, appendix A).  Causal
attention counts the half of the square that is needed, and the output projection the positions that predict a
response token, because nothing else is computed.  Recomputation does not count: model FLOPs are what the training
needs, not what it does.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_srpo.recipe.model_config import ModelConfig

BACKWARD = 2  # a product's backward pass is two products of its size


@dataclass(frozen=True)
class ModelFlops:
    """Operations of one forward pass.

    per_token: of every token in the layers' matrices; per_pair: of every query with a key that it sees, in all
    layers; per_target: of every position whose distribution over the vocabulary is computed.
    """

    per_token: float
    per_pair: float
    per_target: float

    def forward(self, length: int, targets: int) -> float:
        """Of one sequence of `length` tokens, `targets` of which are predicted."""
        pairs = length * (length + 1) / 2
        return self.per_token * length + self.per_pair * pairs + self.per_target * targets

    def training(self, length: int, targets: int) -> float:
        """Forward and backward."""
        return (1 + BACKWARD) * self.forward(length, targets)


def model_flops(model: ModelConfig) -> ModelFlops:
    """Of the whole model, on all its ranks together; of experts those that a token visits."""
    hidden = model.hidden_size
    attention = hidden * (2 * model.query_size + 2 * model.key_value_size)
    feed_forward = model.dense_layers * 3 * hidden * model.intermediate_size
    if model.moe is not None:
        moe = model.moe
        width = moe.experts_per_token * moe.intermediate_size + (moe.shared_expert_intermediate_size or 0)
        feed_forward += (model.num_layers - model.dense_layers) * (3 * hidden * width + hidden * moe.experts)
    return ModelFlops(
        per_token=2.0 * (model.num_layers * attention + feed_forward),
        per_pair=4.0 * model.num_layers * model.query_size,  # scores, and their product with the values
        per_target=2.0 * hidden * model.vocab_size,
    )

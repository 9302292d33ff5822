"""How fast a step was: tokens and model operations a second, and their share of what the GPU could do."""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_srpo.plan.gpus import gpu_of
from megatron_srpo.platform.select import Platform


def throughput(tokens: int, operations: float, seconds: float, ranks: int, platform: Platform) -> dict[str, float]:
    """Metrics of a step of so many tokens and model operations that took `seconds` on `ranks` ranks.

    train_tokens_per_second: tokens, prompts too, a second and rank.  train_tflops: 10^12 operations that the
    training needs (forward and backward; not passes for log-probs alone, not recomputation) a second and rank.
    mfu: these over the GPU's dense bfloat16 peak, on a GPU whose peak is known.
    """
    tflops = operations / seconds / ranks / 1e12
    found = {"train_tokens_per_second": tokens / seconds / ranks, "train_tflops": tflops}
    gpu = gpu_of(torch.cuda.get_device_name(platform.device)) if platform.is_cuda else None
    return found if gpu is None else found | {"mfu": tflops / gpu.bf16_tflops}


def peak_memory(platform: Platform) -> dict[str, float]:
    """`peak_memory_gib`: the most that torch held on any rank's GPU since the last call; nothing on CPUs."""
    if not platform.is_cuda:
        return {}
    peak = torch.tensor(torch.cuda.max_memory_allocated(platform.device) / 2**30, device=platform.device)
    torch.cuda.reset_peak_memory_stats(platform.device)
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return {"peak_memory_gib": float(peak)}

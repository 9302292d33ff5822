"""Checks of the trainer's environment: torch, Megatron-Core, and what they can do without."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.doctor.facts import Facts, PackageFacts, TorchFacts
from megatron_srpo.doctor.finding import BOTH, Finding, Runs
from megatron_srpo.doctor.packages import (
    FLASH_ATTENTION,
    INSTALL_GPU,
    INSTALL_TRAINER,
    MEGATRON,
    TORCH,
    TRANSFORMER_ENGINE,
    asked_for,
    fits,
)

# From this version on Transformer Engine wants this cuDNN or a newer one (docs/gpu.md).
CUDNN_SINCE = SpecifierSet(">=2.20")
CUDNN_WANTED = 91200


def check_torch(torch: TorchFacts | Trouble, packages: PackageFacts) -> Finding:
    """torch can be imported, and is a version that was asked for."""
    if isinstance(torch, Trouble):
        advice = f"trainer ranks cannot start without it; {INSTALL_TRAINER}"
        return Finding("trainer", "torch", "error", f"import torch: {torch.text}", advice, BOTH, "torch is broken")
    found = f"{torch.version}, {f'CUDA {torch.cuda}' if torch.cuda else 'without CUDA'}"
    wanted = asked_for(packages, TORCH)
    if not fits(wanted, torch.version):
        return Finding("trainer", "torch", "warning", found, _untested(wanted))
    return Finding("trainer", "torch", "ok", found)


def check_nccl(torch: TorchFacts | Trouble) -> Finding | None:
    """A torch for CUDA has NCCL."""
    if isinstance(torch, Trouble) or torch.cuda is None:
        return None
    if torch.nccl is not None:
        return Finding("trainer", "NCCL", "ok", torch.nccl)
    advice = "ranks on GPUs cannot exchange gradients and weights; install a build of torch that has it"
    return Finding("trainer", "NCCL", "warning", "none", advice, ("gpu",), "torch has no NCCL")


def check_cudnn(torch: TorchFacts | Trouble, packages: PackageFacts) -> Finding | None:
    """A torch for CUDA has cuDNN, as new as Transformer Engine wants it."""
    if isinstance(torch, Trouble) or torch.cuda is None:
        return None
    if torch.cudnn is None:
        advice = "Transformer Engine's fused attention needs it; install a build of torch that has it"
        return Finding("trainer", "cuDNN", "warning", "none", advice)
    found = cudnn_version(torch.cudnn)
    engine = packages.versions.get(TRANSFORMER_ENGINE)
    if engine is not None and fits(CUDNN_SINCE, engine) and torch.cudnn < CUDNN_WANTED:
        advice = (
            f"Transformer Engine {engine} wants cuDNN {cudnn_version(CUDNN_WANTED)} or newer and may fail; "
            "install a newer one"
        )
        return Finding("trainer", "cuDNN", "warning", found, advice)
    return Finding("trainer", "cuDNN", "ok", found)


def cudnn_version(number: int) -> str:
    """cuDNN's number as its version: 91200 is 9.12.0, and 8907, from before version 9, is 8.9.7."""
    major, rest = divmod(number, 10000 if number >= 90000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def check_megatron(packages: PackageFacts) -> Finding:
    """Megatron-Core is there, in a version that was asked for."""
    version, wanted = packages.versions.get(MEGATRON), asked_for(packages, MEGATRON)
    if version is None:
        advice = f"trainer ranks cannot start without it; {INSTALL_TRAINER}"
        return Finding("trainer", "megatron-core", "error", "none", advice, BOTH, "no megatron-core")
    if not fits(wanted, version):
        return Finding("trainer", "megatron-core", "warning", version, _untested(wanted))
    return Finding("trainer", "megatron-core", "ok", version)


def check_transformer_engine(facts: Facts) -> Finding:
    """Transformer Engine, without which no rank trains on a GPU."""
    name = "transformer-engine"
    version = facts.packages.versions.get(TRANSFORMER_ENGINE)
    blocks: tuple[Runs, ...] = ("gpu",) if facts.gpu_count else ()
    if version is None:
        advice = (
            "training runs only on the CPU, with local layers: no attention kernels for packed samples, no FP8; "
            f"with CUDA, {INSTALL_GPU}"
        )
        reason = "no transformer-engine" if blocks else ""
        return Finding("trainer", name, "missing", "none", advice, blocks, reason)
    if isinstance(facts.transformer_engine, Trouble):
        found = f"{version}, but its import: {facts.transformer_engine.text}"
        advice = f"training on a GPU fails when it starts; {INSTALL_GPU} again, for this torch and CUDA"
        reason = "transformer-engine is broken" if blocks else ""
        return Finding("trainer", name, "warning", found, advice, blocks, reason)
    wanted = asked_for(facts.packages, TRANSFORMER_ENGINE)
    if not fits(wanted, version):
        return Finding("trainer", name, "warning", version, _untested(wanted))
    return Finding("trainer", name, "ok", f"{version}, with grouped GEMM for experts")


def check_fused_gradients(facts: Facts) -> Finding:
    """apex's kernel for Megatron's own linears; little is lost without."""
    if facts.fused_gradients is None:
        advice = (
            "Megatron's own linears add up gradients in a pass of their own; little is lost, as Transformer "
            "Engine's bring their kernel and our output layer adds up by itself"
        )
        return Finding("trainer", "apex", "missing", "none", advice)
    if isinstance(facts.fused_gradients, Trouble):
        found = f"fused_weight_gradient_mlp_cuda: {facts.fused_gradients.text}"
        return Finding("trainer", "apex", "warning", found, "build apex again for this torch, or uninstall it")
    return Finding("trainer", "apex", "ok", "with fused_weight_gradient_mlp_cuda")


def check_flash_attention(packages: PackageFacts) -> Finding:
    """flash-attn, which Transformer Engine uses when it is there."""
    found = [f"{name} {packages.versions[name]}" for name in FLASH_ATTENTION if packages.versions.get(name)]
    if found:
        return Finding("trainer", "flash-attn", "ok", ", ".join(found))
    advice = "on a GPU Transformer Engine takes cuDNN's fused attention instead; nothing has to be done"
    return Finding("trainer", "flash-attn", "missing", "none", advice)


def _untested(wanted: object) -> str:
    return f"asked for is {wanted}; other versions are not tested, so install that one if something fails"

"""Machines made of facts, for tests of the doctor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_srpo.doctor.facts import (
    EngineFacts,
    Facts,
    Gpu,
    ImportFacts,
    MachineFacts,
    NvidiaFacts,
    PackageFacts,
    SandboxFacts,
    TorchFacts,
)
from megatron_srpo.doctor.finding import Finding
from megatron_srpo.recipe.schema import Recipe

GIB = 2**30
H100 = Gpu(name="H100", memory=80 * GIB, capability=(9, 0))
L40 = Gpu(name="L40", memory=45 * GIB, capability=(8, 9))
A100 = Gpu(name="A100", memory=80 * GIB, capability=(8, 0))
V100 = Gpu(name="V100", memory=32 * GIB, capability=(7, 0))

REQUIREMENTS = (
    "numpy>=2.0",
    "Py_Yaml>=6.0",
    "tomli; python_version < '3'",
    "megatron-core==0.16.1; (python_version >= '3') and extra == 'cpu'",
    "megatron-core==0.1; (python_version < '3') and extra == 'cpu'",
    "torch==2.13.0; extra == 'cpu'",
    "transformers==5.19.0; extra == 'cpu'",
    "transformer-engine[pytorch]>=2.8; extra == 'gpu'",
)
VERSIONS = {
    "numpy": "2.4.6",
    "py-yaml": "6.0.3",
    "megatron-core": "0.16.1",
    "torch": "2.13.0+cpu",
    "transformers": "5.19.0",
    "transformer-engine": None,
    "flash-attn": None,
    "flash-attn-3": None,
}
CPU_TORCH = TorchFacts(version="2.13.0+cpu", cuda=None, cudnn=None, nccl=None, gpus=(), no_gpu="not compiled")
CPU_MACHINE = Facts(
    machine=MachineFacts(
        cores=4, memory=16 * GIB, folder=Path("/here"), free_disk=50 * GIB, shared_memory=8 * GIB
    ),
    python="3.11.7",
    packages=PackageFacts("<3.13,>=3.11", REQUIREMENTS, VERSIONS),
    nvidia=None,
    torch=CPU_TORCH,
    transformer_engine=None,
    fused_gradients=None,
    engine=EngineFacts(python="3.11.7", sglang="0.5.23", torch="2.13.0+cpu"),
    sandbox=SandboxFacts("namespaces", "own namespaces"),
    automatic_engine_device="cpu",
)


def installed(**versions: str | None) -> PackageFacts:
    """The packages with others of these versions; _ stands for - in a name."""
    changed = {name.replace("_", "-"): version for name, version in versions.items()}
    return replace(CPU_MACHINE.packages, versions=VERSIONS | changed)


def gpu_torch(*gpus: Gpu, **changes: Any) -> TorchFacts:
    facts = {"version": "2.13.0", "cuda": "13.0", "cudnn": 91300, "nccl": "2.27.7", "gpus": gpus, "no_gpu": None}
    return TorchFacts.model_validate(facts | changes)


def gpu_machine(*gpus: Gpu, **changes: Any) -> Facts:
    """A machine with everything that training on these GPUs takes."""
    facts = replace(
        CPU_MACHINE,
        packages=installed(torch="2.13.0", transformer_engine="2.20.0"),
        nvidia=NvidiaFacts("580.95", tuple(gpu.name for gpu in gpus)),
        torch=gpu_torch(*gpus),
        transformer_engine=ImportFacts(module="transformer_engine.pytorch"),
        engine=EngineFacts(python="3.12.1", sglang="0.5.23", torch="2.13.0"),
        automatic_engine_device="cuda",
    )
    return replace(facts, **changes)


def a_recipe(**sections: dict[str, Any]) -> Recipe:
    plain = {"name": "small", "steps": 1, "model": {"path": "m"}, "data": {"train": {"math": "t"}}}
    return Recipe.model_validate(plain | sections)


def said(found: Finding | None) -> str:
    assert found is not None
    return f"{found.status}: {found.found}"

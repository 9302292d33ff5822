"""Checks of the machine."""

from __future__ import annotations

from collections import Counter

from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.doctor.facts import Facts, Gpu, MachineFacts, NvidiaFacts, TorchFacts
from megatron_srpo.doctor.finding import BOTH, Finding
from megatron_srpo.plain import line_of

GIB = 2**30
# What the README promises for its own runs; less than that is told, never refused.
FEW_CORES = 2
LITTLE_MEMORY = 6 * 10**9
LITTLE_DISK = 5 * 10**9
# Containers get 64 MiB unless they are told otherwise; NCCL's documentation advises them to take a gibibyte.
LITTLE_SHARED_MEMORY = GIB


def check_system(system: str, release: str) -> Finding:
    """The operating system is Linux; nothing else is looked at where it is not."""
    found = f"{system} {release}"
    if system == "Linux":
        return Finding("machine", "operating system", "ok", found)
    advice = "processes, sandbox and engines need Linux; run on a Linux machine or in a container"
    return Finding("machine", "operating system", "error", found, advice, BOTH, "not Linux")


def check_cores(machine: MachineFacts) -> Finding:
    """There are cores for controller, trainer and engine."""
    found = f"{machine.cores}"
    if machine.cores >= FEW_CORES:
        return Finding("machine", "cores", "ok", found)
    advice = f"with fewer than {FEW_CORES}, trainer and engine wait for each other on the CPU; give it more"
    return Finding("machine", "cores", "warning", found, advice)


def check_memory(machine: MachineFacts) -> Finding:
    """There is memory for the smallest recipe."""
    found = size(machine.memory)
    if machine.memory >= LITTLE_MEMORY:
        return Finding("machine", "memory", "ok", found)
    advice = "even the tiny recipe takes 6 GB with its engine; processes may be killed, so give it more"
    return Finding("machine", "memory", "warning", found, advice)


def check_disk(machine: MachineFacts) -> Finding:
    """There is room for run directories in the present folder."""
    found = f"{size(machine.free_disk)} free in {machine.folder}"
    if machine.free_disk >= LITTLE_DISK:
        return Finding("machine", "disk", "ok", found)
    advice = "a run stops when a checkpoint finds no room; run in a folder with more, or set run_dir"
    return Finding("machine", "disk", "warning", found, advice)


def check_shared_memory(machine: MachineFacts) -> Finding:
    """/dev/shm is large enough for NCCL between ranks and for the engines."""
    if machine.shared_memory is None:
        advice = "ranks and engines exchange data there and may fail to start; mount a tmpfs on it"
        return Finding("machine", "/dev/shm", "warning", "none", advice)
    found = size(machine.shared_memory)
    if machine.shared_memory >= LITTLE_SHARED_MEMORY:
        return Finding("machine", "/dev/shm", "ok", found)
    advice = "NCCL and engines exchange data there and fail when it is full; give containers --shm-size=1g or more"
    return Finding("machine", "/dev/shm", "warning", found, advice)


def check_gpus(facts: Facts) -> Finding:
    """The GPUs of the machine, and that torch can use them."""
    if facts.gpus:
        return Finding("machine", "GPUs", "ok", _described(facts))
    if isinstance(facts.nvidia, NvidiaFacts):
        found = f"{_counted(facts.nvidia.gpus)}, driver {facts.nvidia.driver}; torch can use none"
        advice = _why_none(facts.torch)
        return Finding("machine", "GPUs", "warning", found, advice, ("gpu",), "torch can use no GPU")
    if isinstance(facts.nvidia, Trouble):
        found = f"nvidia-smi {facts.nvidia.text}"
        advice = "GPUs cannot be used while their driver is out of order; without one, everything runs on the CPU"
        return Finding("machine", "GPUs", "warning", found, advice, ("gpu",), "no GPU that the driver shows")
    advice = "training and engines run on the CPU, which is enough for models of some million parameters"
    return Finding("machine", "GPUs", "missing", "none", advice, ("gpu",), "no GPU")


def size(count: int) -> str:
    """Bytes as text: 2 GiB."""
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{count / 2**20:.3g} MiB"


def _why_none(torch: TorchFacts | Trouble) -> str:
    if isinstance(torch, Trouble):
        return "torch itself is broken; see the trainer's findings"
    if torch.cuda is None:
        return "this torch is built without CUDA; install a build with it"
    return f"torch says: {line_of(torch.no_gpu or 'nothing')}"


def _described(facts: Facts) -> str:
    kinds = _counted([_kind(gpu) for gpu in facts.gpus])
    if not isinstance(facts.nvidia, NvidiaFacts):
        return kinds
    hidden = len(facts.nvidia.gpus) - len(facts.gpus)
    more = f"; {hidden} more that torch is not shown" if hidden > 0 else ""
    return f"{kinds}, driver {facts.nvidia.driver}{more}"


def _kind(gpu: Gpu) -> str:
    return f"{gpu.name} ({size(gpu.memory)}, compute capability {capability(gpu)})"


def capability(gpu: Gpu) -> str:
    """Compute capability as NVIDIA writes it: 9.0."""
    return ".".join(map(str, gpu.capability))


def _counted(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in Counter(names).items())

"""What the plan takes for given: data sheets of GPUs, and how much of them a run gets.

The second half are assumptions, none of which this project has measured; everything that follows from them is an
estimate.  They are in one place so that a measurement can correct them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GIB = 2**30
GPUS_PER_NODE = 8  # joined by NVLink


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    memory_gib: what torch can have of it.  bf16_tflops, fp8_tflops: dense matrix products; none: no such unit.
    memory_gbps, nvlink_gbps, network_gbps, host_gbps: 10^9 bytes a second of its memory, and in one direction of
    its NVLink, of its share of the network between nodes, and of its 16 lanes of PCIe to the host.
    """

    name: str
    memory_gib: float
    bf16_tflops: float
    fp8_tflops: float | None
    memory_gbps: float
    nvlink_gbps: float
    network_gbps: float
    host_gbps: float

    @property
    def memory_bytes(self) -> float:
        """Bytes that torch can have."""
        return self.memory_gib * GIB


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "h100": Gpu("H100 SXM 80 GB", 79.0, 989.0, 1979.0, 3350.0, 450.0, 50.0, 63.0),
        "h200": Gpu("H200 SXM 141 GB", 139.0, 989.0, 1979.0, 4800.0, 450.0, 50.0, 63.0),
        "a100": Gpu("A100 SXM 80 GB", 79.0, 312.0, None, 2039.0, 300.0, 25.0, 31.5),
    }
)


def gpu_of(device_name: str) -> Gpu | None:
    """The kind that a driver's name of a device tells, such as `NVIDIA H100 80GB HBM3`; none for others."""
    words = device_name.upper().replace("-", " ").split()
    return next((gpu for name, gpu in GPUS.items() if name.upper() in words), None)


# Memory
OVERHEAD_GIB = 4.0  # CUDA context, buffers of NCCL, workspaces of cuBLAS and cuDNN, fragments
COMFORTABLE_SHARE = 0.9  # of the memory; above it a plan is called tight
# Of `trainer.logits_megabytes`: logits, their exponentials, and both in 16 bits (actor/log_probs.py).
LOGITS_COPIES = 3.0
HEAD_ROW_BYTES = 12.0  # a hidden number of every token on the last stage: float32 twice, 16 bits twice
EXPERT_IMBALANCE = 1.25  # tokens of the fullest rank's experts over the mean, where experts are on several ranks

# Lengths
RESPONSE_SHARE = 0.25  # mean response over max_response_tokens
PROMPT_SHARE = 0.25  # mean prompt over max_prompt_tokens
PACKING_FILL = 0.9  # tokens of a microbatch over max_tokens_per_microbatch

# Speed, as shares of the data sheet
GEMM_SHARE = 0.65
GEMM_FP8_SHARE = 0.5
GEMM_EXPERTS_SHARE = 0.4  # of the bf16 peak, also under fp8: experts' products are small
ATTENTION_SHARE = 0.45  # of the bf16 peak, forward and backward
MEMORY_SHARE = 0.7
LINK_SHARE = 0.7  # of NVLink and network, by a collective's bytes
HOST_SHARE = 0.8  # of PCIe, by copies from and to page-locked memory while all GPUs of a machine copy
ELEMENTWISE_PASSES = 4.0  # times that a kept activation goes through memory, forward and backward
LOGITS_PASSES = 10.0  # the same of logits in float32
OPTIMIZER_BYTES_MOVED = 30.0  # of a parameter: master, moments read and written, gradient read, weight written
EXCHANGE_SECONDS = 0.1  # of a weight exchange at least: requests to the engines, names and shapes of all tensors
DECODE_LAYER_SECONDS = 20e-6  # of a decoding step that reads nothing: launches, small all-reduces

"""What torch and its companions say of themselves: `PYTHON -P .../megatron_srpo/platform/facts.py QUESTION`.

Prints one JSON object.  `srpo doctor` runs this file in a process of its own, because an import that meets a
broken CUDA installation may crash or hang.  What is raised here ends this process, and its last words are a
finding.  Nothing of ours is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def torch_facts() -> dict[str, Any]:
    """Versions of torch, CUDA, cuDNN (as 91200) and NCCL, and every GPU that torch can use, memory in bytes."""
    import torch

    nccl = torch.version.cuda is not None and torch.distributed.is_nccl_available()
    refused = refused_by_cuda(torch)
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if nccl else None,
        "gpus": [] if refused else [gpu(torch, number) for number in range(torch.cuda.device_count())],
        "no_gpu": refused,
    }


def refused_by_cuda(torch: Any) -> str | None:
    """Why torch can use no GPU, in its own words; none where it can."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error) or type(error).__name__
    return None


def gpu(torch: Any, number: int) -> dict[str, Any]:
    """Name, bytes of memory and compute capability of one GPU."""
    properties = torch.cuda.get_device_properties(number)
    return {
        "name": properties.name,
        "memory": properties.total_memory,
        "capability": [properties.major, properties.minor],
    }


def imported(name: str) -> dict[str, Any]:
    """A module that needs torch's libraries can be imported behind it."""
    importlib.import_module("torch")
    importlib.import_module(name)
    return {"module": name}


def main(question: str) -> None:
    """Answer on standard output; what libraries print while they are imported goes to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    facts = torch_facts() if question == "torch" else imported(question)
    with os.fdopen(answer, "w") as out:
        print(json.dumps(facts), file=out)


if __name__ == "__main__":
    main(sys.argv[1])

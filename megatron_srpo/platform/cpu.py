"""Everything that stock Megatron-Core needs in order to run on a machine without CUDA.

Megatron-Core asks torch for CUDA devices, streams and random states by name.  `install` answers these
requests with the CPU's: attributes of `torch.cuda` are replaced where Megatron calls them, and a torch
function mode translates `device="cuda"` and `.cuda()`.  Nothing in megatron-core's files changes.

It also gives Megatron an AdamW that keeps its step count in the parameter group, as Transformer Engine's
and apex's do: Megatron's DistributedOptimizer cannot load a checkpoint of torch's own, which keeps the
step as one state tensor a parameter.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


def _to_cpu(device: Any) -> Any:
    """The CPU for every CUDA device (also a bare ordinal); anything else unchanged."""
    if isinstance(device, bool) or device is None:
        return device
    if isinstance(device, int):
        return CPU
    return CPU if torch.device(device).type == "cuda" else device


class CudaMeansCpu(TorchFunctionMode):
    """While active, torch functions that are asked for a CUDA device use the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func` with CUDA devices replaced in its arguments."""
        kwargs = kwargs or {}
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _to_cpu(kwargs["device"])}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = tuple(_to_cpu(value) if isinstance(value, (str, torch.device)) else value for value in args)
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # DistributedOptimizer sorts parameters by their type's name and knows CUDA names alone.
            return func(*args).replace("torch.", "torch.cuda.")
        return func(*args, **kwargs)


class _NoStream:
    """A CUDA stream or event on a machine that has none: every request is granted at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> _NoStream:
        """An event, which has happened."""
        return _NoStream()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class _Installed:
    """Stands for `torch.cuda.current_stream` and marks a process in which `install` has run."""

    def __call__(self, *args: Any, **kwargs: Any) -> _NoStream:
        return _NoStream()


class _Generators(dict):  # type: ignore[type-arg]
    """`torch.cuda.default_generators` by device: always the CPU's."""

    def __missing__(self, key: Any) -> torch.Generator:
        return torch.default_generator


def _replace_cuda_functions() -> None:
    import torch.cuda.random as cuda_random

    cuda: Any = torch.cuda
    cuda.current_device = lambda: CPU
    cuda.set_device = lambda *args, **kwargs: None
    cuda.synchronize = lambda *args, **kwargs: None
    cuda.current_stream = _Installed()
    cuda.Stream = cuda.Event = _NoStream
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.memory_allocated = lambda *args, **kwargs: 0
    cuda.manual_seed = torch.manual_seed
    cuda.default_generators = _Generators()
    for module in (cuda, cuda_random):
        # One function object a name: torch.compile refuses one object under two names.
        module.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()
        module.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)


class AdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) with the step count in the parameter group, like the fused CUDA ones.

    Parameters are float32 tensors; `adam_w_mode=False` is Adam with L2 regularisation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.adam_w_mode = adam_w_mode

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None and param.numel() > 0]
            if group["params"]:
                group["step"] = group.get("step", 0) + 1
            if params:
                self._update(params, group)

    def _update(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        for param in params:
            if not self.state[param]:
                self.state[param].update(exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
        averages = [self.state[param]["exp_avg"] for param in params]
        squares = [self.state[param]["exp_avg_sq"] for param in params]
        grads: list[torch.Tensor] = [param.grad for param in params]  # type: ignore[misc]
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        if decay and self.adam_w_mode:
            torch._foreach_mul_(params, 1 - lr * decay)
        elif decay:
            grads = list(torch._foreach_add(grads, params, alpha=decay))
        torch._foreach_lerp_(averages, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, math.sqrt(1 - beta2 ** group["step"]))
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(params, averages, denominators, -lr / (1 - beta1 ** group["step"]))


def _replace_adam() -> None:
    import megatron.core.optimizer as optimizer
    import megatron.core.optimizer.distrib_optimizer as distributed

    modules: tuple[Any, ...] = (optimizer, distributed)
    for module in modules:
        module.Adam = AdamW
        module.HAVE_APEX_OR_TE = True
        module.USING_TE_OPTIMIZER = True
        module.USING_PYTORCH_OPTIMIZER = False


def _to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """The expert dispatcher's way to the host: counts become numpy arrays, which Megatron does on CUDA only."""
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def _complete_experts() -> None:
    import megatron.core.transformer.moe.moe_utils as moe_utils
    import megatron.core.transformer.moe.router as router
    import megatron.core.transformer.moe.token_dispatcher as token_dispatcher

    modules: tuple[Any, Any] = (moe_utils, token_dispatcher)
    for module in modules:
        module.maybe_move_tensor_to_cpu = _to_host
    if not hasattr(moe_utils, "te_general_gemm"):
        # The router asks whether it is None, but without Transformer Engine the name is not there at all.
        modules[0].te_general_gemm = None
    # Counting tokens is one sum: to compile it takes longer than a small run's steps.
    of_router: Any = router.TopKRouter
    counting = of_router._apply_expert_bias
    of_router._apply_expert_bias = getattr(counting, "_torchdynamo_orig_callable", counting)


def install() -> None:
    """Let megatron-core run on the CPU in this process; calling it again does nothing."""
    if isinstance(getattr(torch.cuda, "current_stream", None), _Installed):
        return
    import megatron.core.tensor_parallel.random as megatron_random

    _replace_cuda_functions()
    _replace_adam()
    megatron_random._lazy_call = lambda callback: callback()
    _complete_experts()
    CudaMeansCpu().__enter__()

"""Stock SGLang on a plain CPU: `PYTHON .../megatron_srpo/platform/sglang_cpu.py --model-path DIR ...`.

The published SGLang package (0.5.23) serves dense float32 models on any x86 machine, but cannot be imported
without its CUDA companions.  This script gives the import system inert stand-ins for the three that are
missing and then runs `sglang.launch_server` unchanged:

- `triton` is imported by many modules to define GPU kernels that are never launched here;
- `sgl_kernel` lends its name to eight CPU kernels, none of which a dense model calls;
- `torchvision` of the package registry holds a CUDA library that CPU torch cannot load, after which its
  Python half fails because the operators the library would have registered have no schema.

It runs in the engine's own virtual environment, where megatron_srpo is not installed: nothing of ours is
imported.  SGLang starts its scheduler and detokenizer with multiprocessing's "spawn", which imports this
script again in each child (as `__mp_main__`) before anything of SGLang: so the stand-ins are put in place at
import, not under `if __name__ == "__main__"`.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

ENVIRONMENT = {
    # Without it SGLang looks for an accelerator and gives up.
    "SGLANG_USE_CPU_ENGINE": "1",
    # A tiny model's matrices are too small to share between threads: the hand-over costs more than the work.
    "OMP_NUM_THREADS": "1",
    # Tensor-parallel start compiles helper functions, and inductor asks triton for things no stand-in has.
    "TORCHDYNAMO_DISABLE": "1",
}

# All that `import sglang.srt...` takes from sgl_kernel on a CPU; they serve speculative decoding.
SGL_KERNEL_NAMES = (
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "verify_tree_greedy_cpu",
)

# torchvision's Python half registers derivatives and fake kernels for these; only the names have to exist.
TORCHVISION_OPERATORS = (
    "nms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "roi_align(Tensor input) -> Tensor",
    "_roi_align_backward(Tensor grad) -> Tensor",
    "qroi_align(Tensor input) -> Tensor",
    "roi_pool(Tensor input) -> Tensor",
    "_roi_pool_backward(Tensor grad) -> Tensor",
    "ps_roi_align(Tensor input) -> Tensor",
    "_ps_roi_align_backward(Tensor grad) -> Tensor",
    "ps_roi_pool(Tensor input) -> Tensor",
    "_ps_roi_pool_backward(Tensor grad) -> Tensor",
    "deform_conv2d(Tensor input) -> Tensor",
    "_deform_conv2d_backward(Tensor grad) -> Tensor",
)


# Keys and values gathered for so many requests at a time stay in the processor's cache.
REQUESTS_PER_BLOCK = 16


class InertModule(types.ModuleType):
    """A package in which every name can be read and nothing does anything.

    A capitalised name is an empty class (an exception where the name says so), any other a further inert
    module.  Called with one function, as the decorators `@triton.jit` are, it returns that function.
    """

    def __init__(self, name: str, finder: StandInFinder) -> None:
        super().__init__(name)
        self._finder = finder
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, finder, is_package=True)

    def __getattr__(self, name: str) -> Any:
        # Protocol look-ups (copy, pickle, inspect) must learn that the special method is not there.
        if name.startswith("__"):
            raise AttributeError(name)
        qualified = f"{self.__name__}.{name}"
        value: Any
        if name[:1].isupper():
            value = type(name, (Exception if name.endswith(("Error", "Resources")) else object,), {})
        else:
            value = sys.modules.setdefault(qualified, InertModule(qualified, self._finder))
        setattr(self, name, value)
        return value

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As a decorator: the decorated function."""
        if len(arguments) == 1 and callable(arguments[0]) and not options:
            return arguments[0]
        return lambda function: function

    def __bool__(self) -> bool:
        # `if triton.something_available:` must take the branch without triton.
        return False


class TritonConfig:
    """Stand-in of `triton.Config`: modules build lists of them at import, for tuning that never runs."""

    def __init__(self, kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        self.kwargs = kwargs or {}
        self.__dict__.update(options)


class TritonConstexpr:
    """Stand-in of `triton.language.constexpr`: modules wrap constants in it and read `.value` back."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


def _triton(finder: StandInFinder) -> types.ModuleType:
    """An inert triton, with the few members that are computed with at import."""
    triton = InertModule("triton", finder)
    language: Any = InertModule("triton.language", finder)
    members = {
        "__version__": "3.0.0",
        "cdiv": lambda dividend, divisor: -(dividend // -divisor),
        "next_power_of_2": lambda number: 1 << max(number - 1, 0).bit_length(),
        "Config": TritonConfig,
        "language": language,
    }
    for name, value in members.items():
        setattr(triton, name, value)
    language.constexpr = TritonConstexpr
    sys.modules["triton.language"] = language
    return triton


def _sgl_kernel() -> Any:
    """A module with the names SGLang imports, each of which says on use that it is missing."""

    def missing(name: str) -> Callable[..., None]:
        def kernel(*_arguments: Any, **_options: Any) -> None:
            raise NotImplementedError(f"sgl_kernel.{name}: SGLang's CPU kernels are not installed")

        return kernel

    module: Any = types.ModuleType("sgl_kernel")
    module.__version__ = "0.4.10"
    for name in SGL_KERNEL_NAMES:
        setattr(module, name, missing(name))
    return module


class StandInFinder(importlib.abc.Loader, importlib.abc.MetaPathFinder):
    """Makes the stand-ins when they are first imported, and prepares torch when torchvision is."""

    def __init__(self) -> None:
        # torch drops an operator library together with the last reference to it.
        self._torchvision_library: Any = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Claim the names that stand-ins are for."""
        if fullname in ("triton", "sgl_kernel") or fullname.startswith("triton."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname != "sgl_kernel")
        if fullname == "torchvision" and self._torchvision_library is None:
            self._declare_torchvision_operators()
        return None  # the real torchvision, and everything else, is found by the next finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Make a stand-in."""
        if spec.name == "triton":
            return _triton(self)
        if spec.name == "sgl_kernel":
            kernels: types.ModuleType = _sgl_kernel()
            return kernels
        return InertModule(spec.name, self)

    def exec_module(self, module: types.ModuleType) -> None:
        """Stand-ins have no code."""

    def _declare_torchvision_operators(self) -> None:
        torch: Any = importlib.import_module("torch")
        self._torchvision_library = torch.library.Library("torchvision", "DEF")
        for schema in TORCHVISION_OPERATORS:
            self._torchvision_library.define(schema)


def install_stand_ins() -> None:
    """Put the finder in front of the import system, once in a process."""
    # A child sees this script twice: as __mp_main__ and, where SGLang asks for the main module, by path.
    if not any(type(finder).__name__ == StandInFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, StandInFinder())


def decode_attention(
    original: Callable[..., Any],
    backend: Any,
    query: Any,
    output: Any,
    k_cache: Any,
    v_cache: Any,
    req_to_token: Any,
    req_pool_indices: Any,
    seq_lens: Any,
    encoder_lens: Any = None,
    scaling: float | None = None,
    sliding_window_size: int | None = None,
    **options: Any,
) -> Any:
    """Attention of one new token a request, all requests of the batch at once.

    `original` (TorchNativeAttnBackend._run_sdpa_forward_decode) calls torch once a request and layer, which
    is most of a small model's time; it still serves the cases that are not plain causal attention.
    Shapes: query and output [requests, heads, head size]; caches [slots, key-value heads, head size];
    req_to_token [pool, context] names the slot of each past token.
    """
    if encoder_lens is not None or (sliding_window_size is not None and sliding_window_size > -1):
        options |= {"encoder_lens": encoder_lens, "scaling": scaling}
        options["sliding_window_size"] = sliding_window_size
        arguments = (query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens)
        return original(backend, *arguments, **options)
    torch: Any = importlib.import_module("torch")
    requests, heads, head_size = query.shape
    key_value_heads = k_cache.shape[1]
    # The query heads that share a key-value head take the place of query positions: no key is copied.
    grouped = query.view(requests, key_value_heads, heads // key_value_heads, head_size)
    keys, values = k_cache.flatten(1), v_cache.flatten(1)
    for start in range(0, requests, REQUESTS_PER_BLOCK):
        block = slice(start, start + REQUESTS_PER_BLOCK)
        lengths = seq_lens[block]
        longest = int(lengths.max())
        held = torch.arange(longest) < lengths[:, None]
        # Past a request's end the table holds anything; slot 0 is SGLang's padding slot.
        slots = torch.where(held, req_to_token[req_pool_indices[block], :longest], 0).flatten()
        shape = (-1, longest, key_value_heads, head_size)
        attended = torch.nn.functional.scaled_dot_product_attention(
            grouped[block],
            keys.index_select(0, slots).view(shape).transpose(1, 2),
            values.index_select(0, slots).view(shape).transpose(1, 2),
            attn_mask=held[:, None, None, :],
            scale=scaling,
        )
        output[block] = attended.reshape(-1, heads, head_size)
    return output


def leave_unregistered(_original: Callable[..., Any], *_arguments: Any, **_options: Any) -> None:
    """What `_cuda_host_register` does here: memory needs no pages locked for a GPU that is not there.

    The record of experts (`--enable-return-routed-experts`) asks for it whatever the device.
    """


def register_hooks() -> None:
    """Hand SGLang's plugin registry what it applies in every process that it starts."""
    plugins: Any = importlib.import_module("sglang.srt.plugins.hook_registry")
    hooks = {
        "layers.attention.torch_native_backend.TorchNativeAttnBackend._run_sdpa_forward_decode": decode_attention,
        "mem_cache.pool_host.common._cuda_host_register": leave_unregistered,
    }
    for target, hook in hooks.items():
        plugins.HookRegistry.register(f"sglang.srt.{target}", hook, plugins.HookType.AROUND)


def leave_script_folder() -> None:
    """Take this script's folder, which Python puts first, off the path: our `select.py` is not Python's."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]


leave_script_folder()
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
install_stand_ins()
register_hooks()

if __name__ == "__main__":
    runpy.run_module("sglang.launch_server", run_name="__main__")

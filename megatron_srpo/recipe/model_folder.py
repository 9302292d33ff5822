"""Checks of a model folder and of the shapes a run asks of it, before any process starts.  No torch."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from megatron_srpo.errors import SrpoError
from megatron_srpo.files import is_plain_name
from megatron_srpo.recipe.model_config import ModelConfig, read_json, read_model_config
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.recipe.trainer import TrainerSection

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
TAIL = 2**20  # bytes of a weight file that its fingerprint reads
LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


def check_model_folder(folder: Path) -> ModelConfig:
    """Check configuration, tokenizer file and every weight file's header and size; return the configuration.

    Raises:
        SrpoError: for a missing folder or file, pickled weights, a truncated or foreign file, and an index
            that does not agree with its files.
    """
    model = read_model_config(folder)
    if not (folder / "tokenizer.json").is_file():
        raise SrpoError(f"{folder / 'tokenizer.json'}: missing; save the model's fast tokenizer there.")
    check_weights(model)
    return model


def check_weights(model: ModelConfig) -> None:
    """Check every weight file's header and size, and the index.

    Raises:
        SrpoError: as `check_model_folder`, for weights that are missing, pickled or not whole.
    """
    folder = model.folder
    headers: dict[str, dict[str, Any]] = {}
    for name in weight_files(folder):
        headers[name] = read_header(folder / name)
    if (folder / INDEX).is_file():
        _check_index(folder, headers)
    _check_embedding(model, headers)


def extra_layers_notice(model: ModelConfig) -> str | None:
    """A sentence when the folder's weights have layers that are not trained, and so are not exported either."""
    files = weight_files(model.folder) if model.extra_layers else []
    extra = sum(model.is_extra(name) for file in files for name in read_header(model.folder / file))
    if not extra:
        return None
    return (
        f"{model.folder}: {extra} tensors from layer {model.num_layers} on, which predict further tokens (MTP), "
        "are neither trained nor exported"
    )


def is_weight_file(name: object) -> bool:
    """Whether what an index names is a safetensors file right in its folder."""
    return is_plain_name(name) and str(name).endswith(".safetensors")


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that make up the model, in order.

    Raises:
        SrpoError: when there are none, when only pickled weights are there, or when the index is not one.
    """
    if (folder / INDEX).is_file():
        table = read_json(folder / INDEX).get("weight_map")
        if not isinstance(table, dict) or not table or not all(map(is_weight_file, table.values())):
            raise SrpoError(
                f"{folder / INDEX}: weight_map must name a safetensors file of the folder for every tensor."
            )
        return sorted(set(table.values()))
    if (folder / SINGLE).is_file():
        return [SINGLE]
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        raise SrpoError(
            f"{folder / pickled[0]}: pickled weights can run any code when they are loaded and are not "
            f"accepted; save the model again as {SINGLE}."
        )
    raise SrpoError(f"{folder}: no weights; expected {SINGLE} or {INDEX} (looked in {folder.absolute()}).")


def fingerprint(folder: Path) -> str:
    """16 hex digits of a model: configuration, tokenizer, and of every weight file its size, header and end.

    The whole of the weights is not read, which would take minutes; training changes the end of every file.

    Raises:
        SrpoError: as `weight_files`, or when a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in ("config.json", "tokenizer.json"):
            digest.update((folder / name).read_bytes())
        for name in weight_files(folder):
            file = folder / name
            size = file.stat().st_size
            digest.update(f"{name} {size} {json.dumps(read_header(file))}".encode())
            with file.open("rb") as stream:
                stream.seek(max(0, size - TAIL))
                digest.update(stream.read())
    except OSError as error:
        raise SrpoError(f"{folder}: cannot read the model ({error.strerror}).") from None
    return digest.hexdigest()[:16]


def read_header(file: Path) -> dict[str, Any]:
    """The tensor table of a safetensors file: name to dtype, shape and data_offsets.

    Raises:
        SrpoError: when the file is missing, is not safetensors, or is not as long as its header says.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            body = stream.read(length) if 2 <= length <= min(LARGEST_HEADER, size - 8) else None
    except OSError as error:
        raise SrpoError(f"{file}: cannot read the weights ({error.strerror}).") from None
    if body is None:
        if start == b"version ":
            raise SrpoError(f"{file}: a Git LFS pointer, not weights; fetch the file with git lfs pull.")
        if 2 <= length <= LARGEST_HEADER:
            raise SrpoError(
                f"{file}: truncated, its header alone needs {8 + length} bytes, found {size}; copy it again."
            )
        raise SrpoError(f"{file}: not a safetensors file ({size} bytes without a valid header).")
    try:
        table = json.loads(body)
        table.pop("__metadata__", None)
        ends = [_tensor_end(file, name, entry) for name, entry in table.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SrpoError(f"{file}: the safetensors header cannot be read ({error!r}); copy it again.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        what = "truncated" if size < expected else "longer than its header says"
        raise SrpoError(f"{file}: {what}, expected {expected} bytes, found {size}; copy it again.")
    return dict(table)


def _tensor_end(file: Path, name: str, entry: Any) -> int:
    """Where a tensor's bytes end, its length checked against dtype and shape."""
    begin, end = entry["data_offsets"]
    needed = math.prod(entry["shape"]) * BYTES[entry["dtype"]]
    if end - begin != needed:
        raise SrpoError(f"{file}: tensor {name} needs {needed} bytes, its header gives {end - begin}.")
    return int(end)


def _check_index(folder: Path, headers: dict[str, dict[str, Any]]) -> None:
    """Every tensor of the index is in the file that the index names, and no file holds one besides."""
    table: dict[str, str] = read_json(folder / INDEX)["weight_map"]
    for tensor, name in table.items():
        if tensor not in headers[name]:
            raise SrpoError(f"{folder / INDEX}: tensor {tensor} should be in {name}, but is not there.")
    for name, header in headers.items():
        for tensor in header:
            if table.get(tensor) != name:
                raise SrpoError(f"{folder / INDEX}: {name} holds tensor {tensor}, which the index leaves out.")


def _check_embedding(model: ModelConfig, headers: dict[str, dict[str, Any]]) -> None:
    """The embedding is there and has the size that config.json states."""
    wanted = [model.vocab_size, model.hidden_size]
    for name, header in headers.items():
        if EMBEDDING in header:
            shape = header[EMBEDDING]["shape"]
            if shape != wanted:
                raise SrpoError(
                    f"{model.folder / name}: {EMBEDDING} is {shape}, but {model.file} says "
                    f"vocab_size x hidden_size = {wanted}."
                )
            return
    raise SrpoError(f"{model.folder}: no weight file holds {EMBEDDING}; the folder is incomplete.")


def check_tokenizer(model: ModelConfig) -> None:
    """Every id that the folder's tokenizer can produce has a row in the model's embedding.

    Raises:
        SrpoError: naming both files and both sizes.
    """
    file = model.folder / "tokenizer.json"
    tokenizer = load_tokenizer(file)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= model.vocab_size:
        raise SrpoError(
            f"{file}: the tokenizer has ids up to {largest} (size {largest + 1}), but {model.file} says "
            f"vocab_size {model.vocab_size}; use the tokenizer that belongs to the model."
        )


def load_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, without padding or truncation.

    Raises:
        SrpoError: when the file is missing or cannot be read.
    """
    if not file.is_file():
        raise SrpoError(f"{file}: missing (looked for {file.absolute()}); save the fast tokenizer there.")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise SrpoError(f"{file}: not a tokenizer that the tokenizers library reads ({error}).") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def chunk_layers(model: ModelConfig, trainer: TrainerSection) -> tuple[int, ...]:
    """Layers of every chunk (stages x virtual stages) in model order; stage p holds entries p, p + stages, ..."""
    chunks = trainer.pipeline_parallel * trainer.virtual_pipeline_parallel
    return trainer.pipeline_layers or (model.num_layers // chunks,) * chunks


def check_parallel(model: ModelConfig, trainer: TrainerSection) -> None:
    """The model's layers, heads, widths and experts divide over the trainer's ranks; it has what is recomputed.

    Raises:
        SrpoError: with the numbers and the sizes that would work.
    """
    size = trainer.tensor_parallel
    for name, value in _tensor_sizes(model).items():
        if value % size:
            raise SrpoError(
                f"trainer.tensor_parallel {size} does not divide {name} {value} of {model.file}; "
                f"it can be {_either(_divisors(*_tensor_sizes(model).values()))}."
            )
    _check_layers(model, trainer)
    _check_experts(model, trainer)
    _check_recompute(model, trainer)


def _check_layers(model: ModelConfig, trainer: TrainerSection) -> None:
    """Every chunk of every pipeline stage has its layers."""
    stages, virtual, layers = trainer.pipeline_parallel, trainer.virtual_pipeline_parallel, trainer.pipeline_layers
    if layers is not None and sum(layers) != model.num_layers:
        raise SrpoError(
            f"trainer.pipeline_layers {list(layers)} adds up to {sum(layers)}, but {model.file} says "
            f"num_hidden_layers {model.num_layers}; make the two equal."
        )
    if layers is not None or model.num_layers % (stages * virtual) == 0:
        return
    if virtual > 1:
        raise SrpoError(
            f"trainer.pipeline_parallel {stages} x virtual_pipeline_parallel {virtual} does not divide "
            f"num_hidden_layers {model.num_layers} of {model.file}; name the layers of every chunk in "
            "trainer.pipeline_layers."
        )
    raise SrpoError(
        f"trainer.pipeline_parallel {stages} does not divide num_hidden_layers {model.num_layers} of "
        f"{model.file}; it can be {_either(_divisors(model.num_layers))}, or name the layers of every stage in "
        "trainer.pipeline_layers."
    )


def _check_experts(model: ModelConfig, trainer: TrainerSection) -> None:
    """Experts divide over the ranks, and tensor-parallel ranks have tokens of their own for them."""
    size, moe = trainer.expert_parallel, model.moe
    if moe is None:
        if size > 1:
            raise SrpoError(f"trainer.expert_parallel is {size}, but {model.file} has no experts; set it to 1.")
        if trainer.experts.balancing != "none":
            raise SrpoError(
                f"trainer.experts.balancing is {trainer.experts.balancing}, but {model.file} has no experts; set "
                "it to none."
            )
        if trainer.experts.replay_routing:
            raise SrpoError(
                f"trainer.experts.replay_routing is true, but {model.file} has no experts; set it to false."
            )
        return
    if trainer.experts.balancing == "bias" and not moe.router_bias:
        raise SrpoError(
            f"trainer.experts.balancing is bias, but the routers of {model.file} have none; set it to aux_loss or "
            "none."
        )
    if moe.experts % size:
        raise SrpoError(
            f"trainer.expert_parallel {size} does not divide the {moe.experts} experts of {model.file}; it can be "
            f"{_either(_divisors(moe.experts))}."
        )
    if trainer.tensor_parallel > 1 and not trainer.sequence_parallel:
        raise SrpoError(
            f"trainer.tensor_parallel {trainer.tensor_parallel} with the experts of {model.file} needs "
            "trainer.sequence_parallel; set it to true."
        )


def _check_recompute(model: ModelConfig, trainer: TrainerSection) -> None:
    """The layers have the parts that are recomputed, and chunks as many layers."""
    recompute, moe, has_dense = trainer.recompute, model.moe, model.dense_layers > 0
    largest = max(chunk_layers(model, trainer))
    if recompute.layers is not None and recompute.layers > largest:
        raise SrpoError(
            f"trainer.recompute.layers {recompute.layers} is more than the {largest} layers of the largest chunk; "
            "lower it, or leave it out for all layers."
        )
    if recompute.granularity != "selective":
        return
    lacking = () if has_dense else ("mlp",)
    absent = [one for one in recompute.modules if one in (("moe", "moe_act") if moe is None else lacking)]
    if absent:
        has = "no experts" if moe is None else "experts in all layers"
        others = "core_attn, mlp and layernorm" if moe is None else "core_attn, layernorm, moe and moe_act"
        raise SrpoError(
            f"trainer.recompute.modules names {' and '.join(absent)}, but {model.file} has {has}; it can "
            f"name {others}."
        )
    if "moe_act" in recompute.modules and trainer.device == "cpu":
        raise SrpoError(
            "trainer.recompute.modules names moe_act, which needs grouped products of GPUs, but trainer.device is "
            "cpu; name moe instead."
        )


def check_engine_parallel(model: ModelConfig, engine: EngineSection) -> None:
    """The heads and widths divide over an engine's ranks; SGLang copies key-value heads where there are too few.

    Raises:
        SrpoError: with the numbers and the sizes that would work, or for a model that SGLang serves on GPUs only.
    """
    moe = model.moe
    gated = moe is not None and moe.shared_expert_intermediate_size is not None and moe.shared_gate
    if gated and engine.backend == "sglang" and engine.device == "cpu":
        raise SrpoError(
            f"engine.device cpu: SGLang has no CPU kernel for the gated shared expert of {model.file}; "
            "use a GPU, or engine.backend=deterministic for a test."
        )
    heads, groups = model.num_attention_heads, model.num_key_value_heads
    widths = _widths(model)
    if moe is not None:
        widths["an expert's intermediate size"] = moe.intermediate_size  # engines split every expert
    works = [n for n in _divisors(heads, *widths.values()) if n % groups == 0 or groups % n == 0]
    if engine.tensor_parallel not in works:
        named = " and ".join(f"{name} {width}" for name, width in widths.items())
        raise SrpoError(
            f"engine.tensor_parallel {engine.tensor_parallel} does not fit num_attention_heads {heads}, "
            f"num_key_value_heads {groups} and {named} of {model.file}; it can be {_either(works)}."
        )


def _tensor_sizes(model: ModelConfig) -> dict[str, int]:
    """What the trainer's tensor parallelism splits, by config.json's names; experts it leaves whole."""
    return {
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        **_widths(model),
        "hidden_size": model.hidden_size,
    }


def _widths(model: ModelConfig) -> dict[str, int]:
    """Intermediate sizes of what every token passes."""
    widths = {"intermediate_size": model.intermediate_size} if model.dense_layers else {}
    shared = None if model.moe is None else model.moe.shared_expert_intermediate_size
    return widths if shared is None else widths | {"the shared expert's intermediate size": shared}


def _divisors(*values: int) -> list[int]:
    """The common divisors, smallest first."""
    common = math.gcd(*values)
    return [n for n in range(1, common + 1) if common % n == 0]


def _either(values: list[int]) -> str:
    """`1, 2 or 4`."""
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"

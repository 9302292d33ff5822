"""What a plan checks: all that `srpo train` would, as far as it is there.  No torch.

A plan needs the model's shape alone.  Weights, tokenizer and data may be on another machine; what is not here is
told, not refused, and what is here must be right.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_srpo.data.problems import PromptEncoder
from megatron_srpo.data.sources import check_source
from megatron_srpo.recipe.model_config import ModelConfig, read_model_config
from megatron_srpo.recipe.model_folder import INDEX, check_engine_parallel, check_tokenizer, check_weights
from megatron_srpo.recipe.preflight import all_sources, check_engine_python, check_prompts, check_shapes
from megatron_srpo.recipe.schema import Recipe

ENGINE_PYTHON = "engine.python"


@dataclass(frozen=True)
class Missing:
    """What could not be checked, in a word, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} ({self.why})"


def check_what_is_there(recipe: Recipe) -> tuple[ModelConfig, list[Missing]]:
    """Check a recipe against what this machine has of it.

    Returns:
        What the model's config.json says, and what could not be checked.

    Raises:
        SrpoError: for the first thing found wrong, and without a config.json.
    """
    model = read_model_config(recipe.model.path)
    missing: list[Missing] = []
    check_shapes(model, recipe)
    check_engine_parallel(model, recipe.engine)
    if _has_weights(model):
        check_weights(model)
    else:
        missing.append(Missing("weights", f"none in {model.folder}"))
    tokenizer = model.folder / "tokenizer.json"
    if tokenizer.is_file():
        check_tokenizer(model)
    else:
        missing.append(Missing("tokenizer", f"no {tokenizer}; prompts have no lengths without it"))
    if recipe.engine.backend == "sglang" and not recipe.engine.python.exists():
        missing.append(Missing(ENGINE_PYTHON, f"no {recipe.engine.python}"))
    else:
        check_engine_python(recipe)
    encoder = PromptEncoder.from_recipe(recipe) if tokenizer.is_file() else None
    for source in all_sources(recipe):
        if not source.path.exists():
            continue
        check_source(source)
        if encoder is not None:
            check_prompts(recipe, source, encoder)
    return model, [*missing, *missing_data(recipe)]


def missing_data(recipe: Recipe) -> list[Missing]:
    """The sources that are not there, all in one; none where all are."""
    absent = [str(source.path) for source in all_sources(recipe) if not source.path.exists()]
    return [Missing("data", f"no {', '.join(absent)}")] if absent else []


def _has_weights(model: ModelConfig) -> bool:
    """Whether somebody has begun to put weights into the folder."""
    folder = model.folder
    return (folder / INDEX).exists() or any(any(folder.glob(of)) for of in ("*.safetensors", "pytorch_model*.bin"))

"""`srpo convert`.  The commands import torch when they run, so that the command line starts at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

conversions = typer.Typer(
    help="Weights between Hugging Face folders and Megatron checkpoints; see docs/checkpoints.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

HfFolder = Annotated[Path, typer.Argument(metavar="HF", help="Hugging Face folder of the model.")]
Checkpoint = Annotated[
    Path, typer.Argument(metavar="MEGATRON", help="Folder of a Megatron distributed checkpoint.")
]
Target = Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to write; not there yet, or empty.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Files at a time; one a core by default, at least 2, at most 8.")
]


@conversions.command("hf-to-megatron")
def hf_to_megatron(
    source: HfFolder,
    target: Target,
    dtype: Annotated[str, typer.Option(help="keep, float32, bfloat16 or float16.")] = "keep",
    threads: Threads = None,
) -> None:
    """Write a Hugging Face folder as a distributed checkpoint that every parallel layout can load."""
    from rich.console import Console

    from megatron_srpo.convert import to_megatron
    from megatron_srpo.convert.options import DTYPES, Options, check_dtype
    from megatron_srpo.convert.threads import default_threads

    check_dtype(dtype, DTYPES)
    options = Options(dtype, threads or default_threads())
    to_megatron.hf_to_megatron(source, target, options, Console(stderr=True))
    typer.echo(f"{target}: written")


@conversions.command("megatron-to-hf")
def megatron_to_hf(
    source: Checkpoint,
    target: Target,
    dtype: Annotated[str, typer.Option(help="keep, float32, bfloat16, float16 or fp8.")] = "keep",
    max_file_gb: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest safetensors file in GB; by default as the model had them, else 5."),
    ] = None,
    hf: Annotated[
        Path | None,
        typer.Option(metavar="HF", help="Folder with config and tokenizer, instead of the checkpoint's own."),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare the checkpoint's files with its checksums.")] = True,
    threads: Threads = None,
) -> None:
    """Write a distributed checkpoint, converted or of a run, as a Hugging Face folder."""
    from rich.console import Console

    from megatron_srpo.convert import to_hf
    from megatron_srpo.convert.options import DTYPES, FP8, Options, check_dtype
    from megatron_srpo.convert.threads import default_threads

    check_dtype(dtype, (*DTYPES, FP8))
    file_bytes = None if max_file_gb is None else int(max_file_gb * 10**9)
    options = Options(dtype, threads or default_threads(), file_bytes, verify)
    to_hf.megatron_to_hf(source, target, options, Console(stderr=True), hf)
    typer.echo(f"{target}: written")


@conversions.command()
def check(
    hf: HfFolder,
    megatron: Checkpoint,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to compute log-probs of, instead of our own.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest difference of a log-prob; by default as the types allow."),
    ] = None,
) -> None:
    """Compare log-probs of transformers with those of Megatron; exit code 1 when they differ by too much."""
    import warnings

    from rich.console import Console

    warnings.filterwarnings("ignore")  # of the libraries, which would bury the answer
    from megatron_srpo.convert import compare

    if not compare.check(hf, megatron, text, tolerance, Console()):
        raise typer.Exit(1)

"""Weights between Hugging Face folders and Megatron checkpoints: `srpo convert` as a script.

python tools/convert.py hf-to-megatron|megatron-to-hf|check ...
"""

from __future__ import annotations

from megatron_srpo.cli import main
from megatron_srpo.convert.commands import conversions

if __name__ == "__main__":
    main(conversions)

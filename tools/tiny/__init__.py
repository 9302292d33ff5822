"""Parts of `tools/make_tiny.py` and `tools/make_tiny_ablation.py`: problems, texts about them, the base model."""

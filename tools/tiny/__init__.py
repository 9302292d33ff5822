"""Parts of `tools/make_tiny.py`: the arithmetic problems, the text about them, and the small base model."""

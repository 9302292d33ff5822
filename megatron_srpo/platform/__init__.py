"""Which hardware the trainer runs on: chosen once, at process start."""

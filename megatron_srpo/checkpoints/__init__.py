"""What a checkpoint is on disk: its names, its manifest, its checksums.  No torch."""

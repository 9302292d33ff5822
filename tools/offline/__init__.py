"""Raw rows with known defects, out of what is available without a network."""

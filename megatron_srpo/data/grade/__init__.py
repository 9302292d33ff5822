"""Difficulty of problems, measured by Pass@k: the estimate, the journal of grades, the way back into the set."""

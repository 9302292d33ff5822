"""`srpo data show`: what is in a set of problems, and what is not and why."""

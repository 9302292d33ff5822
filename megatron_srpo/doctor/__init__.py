"""`srpo doctor`: what a machine has for training, what is missing, and what it costs.  No torch."""

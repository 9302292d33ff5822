"""megatron_srpo: reinforcement learning for reasoning, the SRPO way, on Megatron-Core and SGLang."""

__version__ = "0.1.0"

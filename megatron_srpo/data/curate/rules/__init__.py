"""Cleaning rules: small named functions that repair drafts or say why they are refused."""

from megatron_srpo.data.curate.rules.rule import Rule

RULES: tuple[Rule, ...] = ()

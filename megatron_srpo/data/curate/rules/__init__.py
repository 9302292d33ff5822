"""Cleaning rules: small named functions that repair drafts or say why they are refused."""

from __future__ import annotations

from megatron_srpo.data.curate.draft import Domain
from megatron_srpo.data.curate.rules.answers import unverifiable
from megatron_srpo.data.curate.rules.choices import choices_left, open_choices
from megatron_srpo.data.curate.rules.completeness import missing
from megatron_srpo.data.curate.rules.encoding import encoding
from megatron_srpo.data.curate.rules.figures import image, table
from megatron_srpo.data.curate.rules.html import html
from megatron_srpo.data.curate.rules.language import language
from megatron_srpo.data.curate.rules.latex import broken_latex, latex
from megatron_srpo.data.curate.rules.markup import markdown
from megatron_srpo.data.curate.rules.multipart import multi_part, proof
from megatron_srpo.data.curate.rules.noise import noise
from megatron_srpo.data.curate.rules.programs import environment
from megatron_srpo.data.curate.rules.resources import file_io, interactive, network
from megatron_srpo.data.curate.rules.rule import Rule, RuleSettings
from megatron_srpo.data.curate.rules.tests import tests_inconsistent, tests_missing, tests_nondeterministic
from megatron_srpo.data.curate.rules.urls import urls

BOTH: tuple[Domain, ...] = ("math", "code")
MATH: tuple[Domain, ...] = ("math",)
CODE: tuple[Domain, ...] = ("code",)

RULES: tuple[Rule, ...] = (
    Rule("encoding", BOTH, repair=encoding),
    Rule("html", BOTH, repair=html),
    Rule("urls", BOTH, repair=urls),
    Rule("noise", BOTH, repair=noise),
    Rule("markdown", MATH, repair=markdown),
    Rule("latex", MATH, repair=latex),
    Rule("multiple_choice", MATH, repair=open_choices),
    Rule("missing", BOTH, check=missing),
    Rule("multi_part", MATH, check=multi_part),
    Rule("proof", MATH, check=proof),
    Rule("image", BOTH, check=image),
    Rule("table", BOTH, check=table),
    Rule("multiple_choice", MATH, check=choices_left),
    Rule("unverifiable", MATH, check=unverifiable),
    Rule("language", BOTH, check=language),
    Rule("broken_latex", MATH, check=broken_latex),
    Rule("environment", CODE, check=environment),
    Rule("file_io", CODE, check=file_io),
    Rule("network", CODE, check=network),
    Rule("interactive", CODE, check=interactive),
    Rule("tests_missing", CODE, check=tests_missing),
    Rule("tests_inconsistent", CODE, check=tests_inconsistent),
    Rule("tests_nondeterministic", CODE, check=tests_nondeterministic),
)
"""All rules in the order they are applied: repairs, then checks."""

__all__ = ["RULES", "Rule", "RuleSettings"]

"""Adapters: each makes a draft of a row of one public set, or of people's own rows.

The notes of a draft (`meta`) have these names in common, where a set knows them: `id`, `source`, `difficulty`,
`tags`, `solve_rate`, `url`, `time_limit`, and `cases_left_out`, the number of tests that ours cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from megatron_srpo.data.curate.adapters.asserts import human_eval, mbpp
from megatron_srpo.data.curate.adapters.chats import dapo_math, eurus
from megatron_srpo.data.curate.adapters.contests import apps, code_contests, taco
from megatron_srpo.data.curate.adapters.livecodebench import livecodebench
from megatron_srpo.data.curate.adapters.math_sets import aime, big_math, deepscaler, gsm8k, math, numina_math
from megatron_srpo.data.curate.adapters.plain import problems
from megatron_srpo.data.curate.adapters.row import renamed
from megatron_srpo.data.curate.draft import BadRow, Draft

__all__ = ["ADAPTERS", "Adapter", "BadRow", "renamed"]

Adapter = Callable[[Mapping[str, Any]], Draft]
"""Raises BadRow, and nothing else, where no draft can be made."""

ADAPTERS: Mapping[str, Adapter] = MappingProxyType(
    {
        adapter.__name__: adapter
        for adapter in (
            numina_math,
            deepscaler,
            dapo_math,
            big_math,
            eurus,
            gsm8k,
            math,
            aime,
            apps,
            taco,
            code_contests,
            livecodebench,
            human_eval,
            mbpp,
            problems,
        )
    }
)

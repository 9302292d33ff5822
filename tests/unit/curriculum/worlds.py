"""Hypothesis strategies of worlds: any recipe, any sizes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.unit.curriculum.world import World, build_recipe, ids_of

NAMES = ("a", "b", "c")
_SHARES = st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0])


@st.composite
def strategy_options(draw: st.DrawFn, strategies: tuple[str, ...]) -> dict[str, Any]:
    """The curriculum section without its stages."""
    options: dict[str, Any] = {
        "strategy": draw(st.sampled_from(strategies)),
        "history": {
            "readmit_after": draw(st.none() | st.integers(0, 3)),
            "easy_pool": draw(st.sampled_from([0.0, 0.3, 1.0])),
        },
        "dynamic": {
            "max_draws": draw(st.sampled_from([1.0, 1.5, 2.0, 4.0])),
            "at_cap": draw(st.sampled_from(["fill", "fill", "stop"])),
        },
        "predictive": {
            "prior": draw(st.sampled_from([0.1, 0.5, 2.0])),
            "forgetting": draw(st.sampled_from([0.0, 0.5, 0.9])),
            "exploration": draw(st.sampled_from([0.01, 0.3, 1.0])),
        },
        "at_min_pool": draw(st.sampled_from(["readmit", "end_stage"])),
    }
    if (min_pool := draw(st.none() | st.integers(1, 8))) is not None:
        options["min_pool"] = min_pool
    return options


_ENDS = st.one_of(
    st.builds(lambda steps: {"steps": steps}, st.integers(1, 5)),
    st.builds(lambda epochs: {"epochs": epochs}, st.integers(1, 2)),
    st.builds(
        lambda metric, window, patience, gain: {
            "plateau": {"metric": metric, "window": window, "patience": patience, "minimum_gain": gain}
        },
        st.sampled_from(["reward", "accuracy"]),
        st.integers(1, 2),
        st.integers(1, 2),
        st.sampled_from([0.0, 0.05]),
    ),
)


@st.composite
def stages(draw: st.DrawFn, sources: list[str]) -> list[dict[str, Any]]:
    """1 to 3 stages over some of the sources; only the last one may be without an end."""
    count = draw(st.integers(1, 3))
    found = []
    for number in range(count):
        names = draw(st.lists(st.sampled_from(sources), unique=True, max_size=len(sources)))
        end = draw(_ENDS) if number + 1 < count or draw(st.booleans()) else {}
        found.append(
            {
                "name": f"stage{number}",
                "mixture": {name: draw(_SHARES) for name in names},
                "end": end,
                "overrides": draw(st.sampled_from([{}, {"prompts_per_step": 3}])),
            }
        )
    return found


@st.composite
def worlds(
    draw: st.DrawFn,
    strategies: tuple[str, ...] = ("none", "dynamic", "history", "predictive"),
    **fixed: object,
) -> World:
    """Any world; `fixed` replaces options of the curriculum section."""
    sources = list(NAMES[: draw(st.integers(1, 3))])
    sizes = {source: draw(st.integers(1, 30)) for source in sources}
    curriculum = {**draw(strategy_options(strategies)), "stages": draw(stages(sources)), **fixed}
    recipe = build_recipe(sources, draw(st.integers(1, 8)), draw(st.integers(0, 3)), **curriculum)
    return World(recipe, ids_of(sizes), draw(st.integers(0, 50)))

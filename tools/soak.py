"""Kill processes of tiny runs at random instants until many kills have hit; every run must end in the same bits.

    python tools/soak.py --kills 100 --seed 0                 with the deterministic engine
    python tools/soak.py --engine sglang --kills 20           with SGLang: nothing lost, nothing counted twice
    python tools/soak.py --seed 7 --run 13                    one schedule again

Progress goes to stderr, one JSON object to stdout.  The exit code is 1 if any run differs or ends wrongly.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.faults.fingerprint import differences, fingerprint  # noqa: E402
from tests.faults.journals import Keeper, check_replay  # noqa: E402
from tests.faults.lives import Death, live_through  # noqa: E402
from tests.faults.moments import TIME  # noqa: E402
from tests.faults.schedules import Schedule, schedule  # noqa: E402
from tests.faults.world import World  # noqa: E402
from tests.support import make_tiny_hf  # noqa: E402

MOST_FAILURES = 5


@dataclass
class Tally:
    """What a soak has seen."""

    deaths: list[Death] = field(default_factory=list)
    runs: int = 0
    good: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def goes_on(self, options: argparse.Namespace) -> bool:
        """Whether there is another run: something that fails always need not be seen a hundred times."""
        if options.run is not None:
            return self.runs == 0
        return len(self.deaths) < options.kills and len(self.failures) < MOST_FAILURES

    def report(self, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
        """The JSON object."""
        moments = Counter(death.strike.moment for death in self.deaths if death.strike.moment != TIME)
        return {
            "soak": options.engine,
            "seed": options.seed,
            "seconds": round(seconds),
            "kills": len(self.deaths),
            "kills_by_role": dict(Counter(death.strike.role for death in self.deaths)),
            "kills_by_phase": dict(Counter(death.phase for death in self.deaths)),
            "aimed_kills_by_moment": dict(moments),
            "runs": self.runs,
            "identical_runs" if options.engine == "deterministic" else "whole_runs": self.good,
            "failures": self.failures,
        }


def main() -> None:
    """Soak, and report."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="srpo-soak-"))
    world = World.make(folder / "world", make_tiny_hf(folder / "model"))
    began, tally = time.monotonic(), Tally()
    references: dict[str, dict[str, str]] = {}
    number = options.run if options.run is not None else 0
    while tally.goes_on(options):
        planned = schedule(options.seed, number, options.kills_per_run)
        _say(f"run {number} ({planned.layout} parallel, weights {planned.sync}), {len(tally.deaths)} kills so far")
        run_dir = folder / f"run-{number}"
        try:
            if options.engine == "deterministic":
                _deterministic(world, planned, run_dir, references, tally)
            else:
                _sglang(world, planned, run_dir, tally)
            tally.good += 1
            shutil.rmtree(run_dir)
        except Exception as error:
            _say(traceback.format_exc())
            again = f"make soak ARGUMENTS='--engine {options.engine} --seed {options.seed} --run {number}'"
            tally.failures.append(
                {
                    "seed": options.seed,
                    "run": number,
                    "repeat": f"{again[:-1]} --kills-per-run {options.kills_per_run}'",
                    "strikes": [str(strike) for strike in planned.strikes],
                    "error": str(error)[:2000],
                    "run_dir": str(run_dir),
                }
            )
        tally.runs += 1
        number += 1
    print(json.dumps(tally.report(options, time.monotonic() - began)))
    if not tally.failures:
        shutil.rmtree(folder)
    sys.exit(1 if tally.failures else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="kills that must hit (default: %(default)s)")
    parser.add_argument("--kills-per-run", type=int, default=4, help="strikes on one run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all schedules (default: %(default)s)")
    parser.add_argument("--run", type=int, help="only this schedule of the seed")
    parser.add_argument("--engine", choices=["deterministic", "sglang"], default="deterministic")
    return parser.parse_args()


def _deterministic(
    world: World, planned: Schedule, run_dir: Path, references: dict[str, dict[str, str]], tally: Tally
) -> None:
    """The run must end in the bits of one that nothing disturbed."""
    recipe = world.recipe(planned.layout, planned.sync)
    if planned.layout not in references:
        undisturbed = run_dir.with_name(f"undisturbed-{planned.layout}")
        live_through(recipe, undisturbed, [])
        references[planned.layout] = fingerprint(undisturbed)
    live_through(recipe, run_dir, planned.strikes, told=_say, hit=tally.deaths.append)
    differ = differences(fingerprint(run_dir), references[planned.layout])
    assert not differ, f"{len(differ)} things differ from the undisturbed run: {', '.join(differ[:20])}"


def _sglang(world: World, planned: Schedule, run_dir: Path, tally: Tally) -> None:
    """Everything that was recorded before a kill is there afterwards, once; a replay gives the same weights."""
    recipe, keeper = world.recipe(planned.layout, planned.sync, "sglang"), Keeper(run_dir)
    live_through(recipe, run_dir, planned.strikes, told=_say, hit=tally.deaths.append, between=keeper.look)
    keeper.look()
    keeper.check_whole()
    check_replay(recipe, run_dir)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

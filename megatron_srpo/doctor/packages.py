"""What megatron_srpo's metadata asks for against what is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from megatron_srpo.doctor.facts import PackageFacts
from megatron_srpo.doctor.finding import BOTH, Finding, Group

PACKAGE = "megatron-srpo"
TORCH = "torch"
MEGATRON = "megatron-core"
TRANSFORMER_ENGINE = "transformer-engine"
FLASH_ATTENTION = ("flash-attn", "flash-attn-3")  # its releases for all GPUs, and those for Hopper
OF_INTEREST = (TORCH, MEGATRON, TRANSFORMER_ENGINE, *FLASH_ATTENTION)  # whoever asks for them

INSTALL_TRAINER = "pip install 'megatron-srpo[cpu]'"
INSTALL_GPU = "pip install 'megatron-srpo[gpu]'"


def requirements_of(requirements: Sequence[str], extra: str) -> list[Requirement]:
    """Those that an extra adds on this Python and machine; those without any extra where it is the empty text."""
    wanted = [Requirement(line) for line in requirements]

    def holds(one: Requirement, extra: str) -> bool:
        return one.marker is None or one.marker.evaluate({"extra": extra})

    return [one for one in wanted if holds(one, extra) and not (extra and holds(one, ""))]


def asked_for(packages: PackageFacts, name: str) -> SpecifierSet:
    """The versions of a package that any extra of ours asks for; all where none does."""
    for extra in ("", "cpu", "gpu"):
        for wanted in requirements_of(packages.requirements or (), extra):
            if canonicalize_name(wanted.name) == name:
                return wanted.specifier
    return SpecifierSet()


def fits(wanted: SpecifierSet, version: str) -> bool:
    """Whether a version is among those asked for; a development version counts like any other."""
    try:
        return wanted.contains(version, prereleases=True)
    except InvalidVersion:  # as packaging before version 26 raises for what is no version
        return False


def check_python(version: str, packages: PackageFacts) -> Finding:
    """This interpreter is one that the metadata allows."""
    if packages.python is None or fits(SpecifierSet(packages.python), version):
        return Finding("machine", "Python", "ok", version)
    advice = f"megatron_srpo is made for Python {packages.python}; make an environment with such a one"
    return Finding("machine", "Python", "warning", version, advice)


def check_dependencies(packages: PackageFacts) -> Finding:
    """What every command needs is installed, in fitting versions."""
    if packages.requirements is None:
        advice = (
            "megatron_srpo runs from a folder without being installed, so nobody knows what it needs; install it"
        )
        return Finding("machine", "python dependencies", "warning", "unknown", advice)
    wanted = requirements_of(packages.requirements, "")
    return _all_there("machine", "python dependencies", wanted, packages.versions)


def check_trainer_dependencies(packages: PackageFacts) -> Finding | None:
    """What trainer ranks need beside torch and Megatron-Core, which have findings of their own."""
    wanted = requirements_of(packages.requirements or (), "cpu")
    others = [one for one in wanted if canonicalize_name(one.name) not in (TORCH, MEGATRON)]
    return _all_there("trainer", "other packages", others, packages.versions) if others else None


def _all_there(
    group: Group, name: str, wanted: Sequence[Requirement], versions: Mapping[str, str | None]
) -> Finding:
    wrong = []
    for one in wanted:
        version = versions[canonicalize_name(one.name)]
        if version is None:
            wrong.append(f"{one.name} is missing")
        elif not fits(one.specifier, version):
            wrong.append(f"{one.name} is {version}, asked for is {one.specifier}")
    found = f"{len(wanted) - len(wrong)} of {len(wanted)} as pyproject asks"
    if not wrong:
        return Finding(group, name, "ok", found)
    found += f": {'; '.join(wrong)}"
    advice = f"commands that need them fail; {INSTALL_TRAINER}"
    return Finding(group, name, "error", found, advice, BOTH, f"{wrong[0]}")

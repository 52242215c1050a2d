"""What actors claim of a cluster, in bundles and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Bundle = dict[str, float]
KINDS = ("CPU", "GPU")


def bundles_of(learners: int, samplers: int, cpus: float, gpus: float, shared: bool = False) -> list[Bundle]:
    """One for each actor; shared: one for a learner and a sampler together. [] where nothing is claimed."""
    many = max(learners, samplers) if shared else learners + samplers
    one = {k: v for k, v in zip(KINDS, (cpus * (2 if shared else 1), gpus)) if v}
    return [dict(one) for _ in range(many)] if one else []


def total(bundles: Iterable[Mapping[str, float]]) -> Bundle:
    found: Bundle = {}
    for bundle in bundles:
        for kind, amount in bundle.items():
            found[kind] = found.get(kind, 0.0) + amount
    return found


def fits(wanted: Mapping[str, float], there: Mapping[str, float]) -> bool:
    return all(there.get(kind, 0.0) >= amount for kind, amount in wanted.items())


def words(wanted: Mapping[str, float]) -> str:
    return ", ".join(f"{wanted[k]:g} {k}" for k in KINDS if k in wanted)


def free_words(free: Mapping[str, float], has: Mapping[str, float]) -> str:
    return ", ".join(f"{free.get(k, 0):g} of {has[k]:g} {k} free" for k in KINDS if has.get(k))


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def actors(learners: int, samplers: int) -> str:
    """As in "2 learners and 1 sampler"."""
    return " and ".join(counted(n, what) for n, what in ((learners, "learner"), (samplers, "sampler")) if n)

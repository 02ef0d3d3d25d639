"""Repeats a measurement until it is steady: in the first rounds, clocks and caches warm up."""

from collections.abc import Callable

# Two rounds that differ by less than this share agree.
AGREEMENT = 0.03
MOST_ROUNDS = 12


def is_steady(rates: list[float], agreement: float = AGREEMENT) -> bool:
    """Tell whether the last two of at least three rounds agree."""
    if len(rates) < 3:
        return False
    before, last = rates[-2:]
    return abs(last - before) <= agreement * max(before, last)


def until_steady(measure: Callable[[], float], most: int = MOST_ROUNDS) -> list[float]:
    """Return the rates of all rounds: until two agree, or so many have been made."""
    rates: list[float] = []
    while len(rates) < most and not is_steady(rates):
        rates.append(measure())
        print(f"  round {len(rates)}: {rates[-1]:,.0f}/s", flush=True)
    return rates

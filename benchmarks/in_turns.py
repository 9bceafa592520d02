"""What the benchmarks of work without a model share: sides measured in turns within one run, and words to make texts of."""

import time
from collections.abc import Callable, Mapping

WORDS = "amber basin cedar delta ember fjord grove haven inlet jetty knoll ledge marsh notch ocean pines".split()


def timed(run: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each side measured in each round, in an order that turns round every time; one round before only warms up."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name in sides if number % 2 else reversed(list(sides)):
            took = sides[name]()
            if number:
                measured[name].append(took)
    return measured

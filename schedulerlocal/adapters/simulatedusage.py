"""How much CPU and memory simulated VMs use, so that monitoring has something to show.

A VM's profile follows from its name: an average, a swing with the time of day and some faster
waves in place of noise. What it wants between two moments is a closed form, so nothing runs
between two readings. VMs pinned to the same CPUs slow each other down when they want more than
those can give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import pi, sin
from random import Random

from schedulerlocal.core.topology import Cpus
from schedulerlocal.core.usageclasses import PEAK_HOUR, USAGE

_DAY_S = 86_400.0
_LEAST_AVERAGE = 0.02  # an idle guest still ticks, and a flat line at 0 looks broken
_NOISE_PERIODS_S = (67.0, 311.0, 1709.0)  # no two in step, so that the sum hardly repeats
_NOISE = 0.15
_KEPT_PROFILES = 512


@dataclass(frozen=True, slots=True)
class Profile:
    """What one vCPU of a VM wants: between 0 and 1 CPU at any moment."""

    average: float
    waves: tuple[tuple[float, float, float], ...]
    """Amplitude relative to the average, radians per second, phase."""
    resident: float
    """Share of its memory a VM uses."""

    def wanted_s(self, from_s: float, to_s: float) -> float:
        """CPU time wanted between two moments."""
        wanted_s = to_s - from_s
        for amplitude, speed, phase in self.waves:
            wanted_s += (
                amplitude / speed * (sin(speed * to_s + phase) - sin(speed * from_s + phase))
            )
        return min(max(self.average * wanted_s, 0.0), to_s - from_s)


@lru_cache(maxsize=_KEPT_PROFILES)
def profile(name: str) -> Profile:
    rng = Random(name.encode("utf-8", "surrogatepass"))  # a name found here may be no text
    kind = rng.choices(USAGE, [each.share for each in USAGE])[0]
    average = max(_LEAST_AVERAGE, rng.uniform(*kind.average))
    rhythmic = rng.random() < kind.rhythmic
    swing = 0.95 if rhythmic else rng.uniform(0.1, 0.7)
    peak_s = rng.gauss(PEAK_HOUR, 0.3 if rhythmic else 2.0) * 3600
    turn = 2 * pi
    waves = [(swing, turn / _DAY_S, turn * (1 - peak_s / _DAY_S))]
    waves += [(_NOISE, turn / period, rng.uniform(0, turn)) for period in _NOISE_PERIODS_S]
    # never below 0 nor above 1, or the integral would have no closed form
    room = min(1.0, 1 / average - 1)
    tamed = min(1.0, room / sum(amplitude for amplitude, _, _ in waves))
    return Profile(
        average,
        tuple((amplitude * tamed, speed, phase) for amplitude, speed, phase in waves),
        rng.uniform(0.3, 0.95),
    )


@dataclass(slots=True)
class _Meter:
    """Not frozen: every reading moves it."""

    vcpus: int
    """That want CPU; 0 while suspended."""
    since_s: float
    owed_s: float = 0.0
    """Wanted before ``since_s`` and not yet given."""
    used_s: float = 0.0

    def follow(self, name: str, now_s: float) -> None:
        if self.vcpus:
            self.owed_s += self.vcpus * profile(name).wanted_s(self.since_s, now_s)
        self.since_s = now_s


class Meters:
    """The CPU time of every VM that is not down."""

    def __init__(self, cpus: Cpus, now_s: float) -> None:
        self._cpus = cpus
        self._meters: dict[str, _Meter] = {}
        self._read_s = now_s
        self._shares: dict[int, float] = {}

    def start(self, name: str, vcpus: int, now_s: float) -> None:
        self._meters[name] = _Meter(vcpus, now_s)

    def set_vcpus(self, name: str, vcpus: int, now_s: float) -> None:
        """From now on; the meter is started if there is none."""
        meter = self._meters.get(name)
        if meter is None:
            self.start(name, vcpus, now_s)
        elif meter.vcpus != vcpus:
            meter.follow(name, now_s)
            meter.vcpus = vcpus

    def stop(self, name: str) -> None:
        self._meters.pop(name, None)

    def names(self) -> Iterable[str]:
        return tuple(self._meters)

    def read(self, pins: Mapping[str, Cpus], now_s: float) -> dict[str, float]:
        """CPU time used so far; also settles :attr:`shares`, unless no time has passed."""
        elapsed_s = now_s - self._read_s
        if elapsed_s <= 0:
            return {name: meter.used_s for name, meter in self._meters.items()}
        self._read_s = now_s
        together: dict[Cpus, list[_Meter]] = {}
        for name, meter in self._meters.items():
            meter.follow(name, now_s)
            together.setdefault(pins.get(name) or self._cpus, []).append(meter)
        busy_s = dict.fromkeys(self._cpus, 0.0)
        for cpus, meters in together.items():
            wanted_s = sum([meter.owed_s for meter in meters])
            pace = min(1.0, len(cpus) * elapsed_s / wanted_s) if wanted_s else 1.0
            for meter in meters:
                meter.used_s += meter.owed_s * pace
                meter.owed_s = 0.0
            for cpu in cpus:
                if cpu in busy_s:
                    busy_s[cpu] += wanted_s * pace / len(cpus)
        self._shares = {cpu: min(1.0, spent_s / elapsed_s) for cpu, spent_s in busy_s.items()}
        return {name: meter.used_s for name, meter in self._meters.items()}

    @property
    def shares(self) -> Mapping[int, float]:
        """By CPU, 0 to 1, over the time between the last two readings."""
        return self._shares

"""Numbers as a page shows them."""

from __future__ import annotations

import math

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None) -> str:
    """Three significant digits, with an exponent only where there would be many zeros: `5.57e-6`, `-13.2`, `1235`."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short(value: float) -> str:
    """The same of a positive number in four characters at most: `9e6`, `0.4`, `12`."""
    if 0.095 <= value < 99.5:
        return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}"


def percent(log_probability: float) -> str:
    """A probability, of its natural logarithm: `77.3 %`."""
    return f"{number(100 * math.exp(log_probability))} %"


def power_of_ten(power: int) -> str:
    """`10⁻⁷`."""
    return "10" + str(power).translate(_RAISED)

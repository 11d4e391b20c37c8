"""Numbers with units, read by rule: decimals, fractions, powers of ten, percent and the units of school problems."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from megatron_eureka.answers.notation import bare

MAX_CHARS = 120  # a longer text is no number with a unit
MAX_SENTENCE_CHARS = 400

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?"
_QUANTITY = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<money>[€£¥]?)\s*"
    rf"(?:\\frac\s*\{{\s*(?P<up>-?{_NUMBER})\s*\}}\s*\{{\s*(?P<down>{_NUMBER})\s*\}}"
    rf"|\\frac\s*(?P<up1>\d)\s*(?P<down1>\d)"
    r"|(?P<whole>\d+)\s+(?P<up2>\d+)\s*/\s*(?P<down2>\d+)(?![\w/])"
    rf"|(?P<number>{_NUMBER})"
    rf"(?:\s*/\s*(?P<over>{_NUMBER})(?![\w/])"
    rf"|\s*\\frac\s*\{{\s*(?P<up3>{_NUMBER})\s*\}}\s*\{{\s*(?P<down3>{_NUMBER})\s*\}})?"
    rf"(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?\s*(?P<power>[+-]?\d{{1,3}})\s*\}}?)?)"
    r"(?:\s*(?P<percent>\\?%))?(?P<gap>\s*)(?P<unit>\S.*)?"
)
_IN_SENTENCE = re.compile(rf"(?<![\w.,^])[-−]?{_NUMBER}(?:\s?%)?(?![\w^])")
_PARTS = ("number", "up", "down", "up1", "down1", "over", "whole", "up2", "down2", "up3", "down3", "power")
_LEFT_OF_EQUALS = re.compile(r"(?:(?!\\[lg]eq)[^=<>]){0,40}(?:=|\\approx|\\simeq)\s*")
_DEGREES = re.compile(r"\^\{\\circ\}")
_UNIT_PART = re.compile(r"([a-zµμ]+|[\u4e00-\u9fff]{1,2}|°)(?:\^?\{?([123])\}?|([²³]))?", re.IGNORECASE)
_MINUS = re.compile(r"(?<![\d.]\s)\b(?:negative|minus)\s+(?=[\d.])", re.IGNORECASE)
_OUT_OF = re.compile(r"(?<=\d)(?:\s+[A-Za-z]+){0,2}\s+out\s+of\s+(?:the\s+|all\s+)?\d+", re.IGNORECASE)
_BLANKS_OF_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")
FORMULA = re.compile(r"\\(?:sqrt|frac|pi)\b|\^")
_BEFORE_RESULT = re.compile(
    r"[^,;]*(?:=|\\approx\b|\\simeq\b|\b(?:is|are|equals|about|approximately)\b)", re.IGNORECASE
)
_COUNTER = re.compile(r"[\u4e00-\u9fff]{1,2}")  # 5元, 12人
_WORDS = re.compile(r"[A-Za-z]{3,}(?:\s[A-Za-z]+){0,3}")

_BASES = {  # name -> (dimension, factor to its first unit)
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), ("length", 1.0)),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), ("length", 1e-3)),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), ("length", 1e-2)),
    "dm": ("length", 1e-1),
    **dict.fromkeys(("km", "kilometer", "kilometers", "kilometre", "kilometres"), ("length", 1e3)),
    **dict.fromkeys(("in", "inch", "inches"), ("length", 0.0254)),
    **dict.fromkeys(("ft", "foot", "feet"), ("length", 0.3048)),
    **dict.fromkeys(("g", "gram", "grams"), ("mass", 1.0)),
    "mg": ("mass", 1e-3),
    **dict.fromkeys(("kg", "kilogram", "kilograms"), ("mass", 1e3)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("time", 1.0)),
    **dict.fromkeys(("min", "minute", "minutes"), ("time", 60.0)),
    **dict.fromkeys(("h", "hr", "hour", "hours"), ("time", 3600.0)),
    **dict.fromkeys(("day", "days"), ("time", 86400.0)),
    **dict.fromkeys(("deg", "degree", "degrees", "°"), ("angle", 1.0)),
    **dict.fromkeys(("rad", "radian", "radians"), ("angle", 180 / math.pi)),
    **{"米": ("length", 1.0), "分米": ("length", 1e-1), "厘米": ("length", 1e-2), "毫米": ("length", 1e-3)},
    **dict.fromkeys(("千米", "公里"), ("length", 1e3)),
    **{"克": ("mass", 1.0), "毫克": ("mass", 1e-3), "千克": ("mass", 1e3), "公斤": ("mass", 1e3)},
    **{"秒": ("time", 1.0), "分": ("time", 60.0), "分钟": ("time", 60.0), "小时": ("time", 3600.0)},
    **{"天": ("time", 86400.0), "度": ("angle", 1.0)},
    # By their names alone: none of them is given in others in school problems.
    **{name: (name, 1.0) for name in ("N", "J", "W", "V", "Pa", "Hz", "kPa", "kW", "kJ")},
}
_LITRES = {
    "ml": 1e-6,
    "l": 1e-3,
    "liter": 1e-3,
    "liters": 1e-3,
    "litre": 1e-3,
    "litres": 1e-3,
    "毫升": 1e-6,
    "升": 1e-3,
}  # in cubic metres


@dataclass(frozen=True)
class Unit:
    """What a unit measures, and in how many of the first units of its dimensions."""

    dimensions: tuple[tuple[str, int], ...]  # (("length", 1), ("time", -1)) for km/h
    factor: float


@dataclass(frozen=True)
class Quantity:
    """A number as it is written, with what follows it."""

    value: float
    unit: Unit | None = None  # None: there is none, or none that we know
    percent: bool = False  # the value is as written: 50 for 50 %


def parse_unit(text: str) -> Unit | None:
    """A unit that can be converted, such as cm, m^2, km/h or square metres; None for any other text."""
    text = " ".join(_DEGREES.sub("°", bare(text)).split())
    exponent = {"square": 2, "sq": 2, "cubic": 3}.get(text.split(" ")[0].casefold()) if " " in text else None
    if exponent:
        text = f"{text.partition(' ')[2]}^{exponent}"
    elif text[:2] in ("平方", "立方"):
        text = f"{text[2:]}^{2 if text[0] == '平' else 3}"
    dimensions: Counter[str] = Counter()
    factor = 1.0
    for side, part in zip((1, -1), text.replace(" per ", "/").split("/", 1), strict=False):
        found = _UNIT_PART.fullmatch(part.strip())
        if found is None:
            return None
        name, power = found.group(1), int(found.group(2) or {"²": 2, "³": 3}.get(found.group(3), 1))
        name = name if name in _BASES else name.casefold()
        if name in _LITRES and power == 1:
            dimension, size, power = "length", _LITRES[name] ** (1 / 3), 3
        elif name in _BASES:
            dimension, size = _BASES[name]
        else:
            return None
        dimensions[dimension] += side * power
        factor *= size ** (side * power)
    return Unit(tuple(sorted(dimensions.items())), factor)


def parse_quantity(text: str) -> Quantity | None:
    """The number that a text is, with or without a unit; `x = 5 cm` counts as 5 cm. None for any other text.

    What follows the number has to be a unit that we know, words behind a space, or a Chinese word: 5x, 3 or 4 are none.
    """
    if len(text) > MAX_CHARS:
        return None
    text = _DEGREES.sub(" ° ", bare(text)).strip()
    if _BLANKS_OF_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    left = _LEFT_OF_EQUALS.match(text)
    found = _QUANTITY.fullmatch(text[left.end() :] if left else text)
    if found is None:
        return None
    value = _value(found)
    if value is None or not math.isfinite(value):
        return None
    tail = (found.group("unit") or "").strip()
    unit = parse_unit(tail) if tail else None
    if tail and unit is None and not (found.group("gap") and _is_words(tail)) and not _COUNTER.fullmatch(tail):
        return None
    return Quantity(value, unit, bool(found.group("percent")) or tail.casefold() in ("percent", "per cent"))


def only_quantity(text: str) -> Quantity | None:
    """The one number of a sentence, with its unit if there is one that we know; None if there are several, or none."""
    found = list(_IN_SENTENCE.finditer(text)) if len(text) <= MAX_SENTENCE_CHARS else []
    if len(found) != 1:
        return None
    after = text[found[0].end() :].split()
    with_unit = parse_quantity(f"{found[0].group()} {after[0].rstrip('.,;')}") if after else None
    return with_unit if with_unit and with_unit.unit else parse_quantity(found[0].group())


def read_number(text: str, of_all: bool = False) -> Quantity | None:
    """The number of an answer in words, with its unit; None where there are several, none, or a formula.

    Args:
        of_all: `4 out of 8` is 4.
    """
    text = _MINUS.sub("-", bare(text))
    text = _OUT_OF.sub("", text) if of_all else text
    thousands = _BLANKS_OF_THOUSANDS.search(text)
    if thousands and not re.search(r"\d", text[: thousands.start()] + text[thousands.end() :]):
        text = text.replace(thousands.group(), thousands.group().replace(" ", ""))
    if FORMULA.search(text):
        return parse_quantity(text) or parse_quantity(result_of(text))
    return parse_quantity(text) or only_quantity(text)


def result_of(text: str) -> str:
    """What stands behind the last equals sign or "is"."""
    before = _BEFORE_RESULT.match(text)
    return text[before.end() :].strip() if before else text


def same_quantity(candidate: Quantity, gold: Quantity, unit: str, tolerance: float) -> bool:
    """Whether two quantities are equal within `tolerance`, absolute, in the gold's unit.

    A unit that one of them leaves out is that of the other. Percent and fraction are one where either has the sign.

    Args:
        unit: that the question asks for; "" if it names none.
    """
    return any(_close(value, gold.value, tolerance) for value in values_in(candidate, gold, unit))


def values_in(candidate: Quantity, gold: Quantity, unit: str) -> tuple[float, ...]:
    """The candidate's number as it would stand in the gold's unit; two where a percent sign leaves it open."""
    wanted = gold.unit or (parse_unit(unit) if unit else None)
    if candidate.unit and wanted:
        if candidate.unit.dimensions != wanted.dimensions:
            return ()
        return (candidate.value * (candidate.unit.factor / wanted.factor),)
    if candidate.percent and not gold.percent:
        return candidate.value, candidate.value / 100
    if gold.percent and not candidate.percent:
        return candidate.value, candidate.value * 100
    return (candidate.value,)


def _close(value: float, gold: float, tolerance: float) -> bool:
    # Sums and conversions in binary leave some units in the last of 53 bits.
    return abs(value - gold) <= tolerance * 1.01 + 1e-12 * max(1.0, abs(gold))


def _is_words(tail: str) -> bool:
    return bool(_WORDS.fullmatch(tail)) and not {"or", "and", "to"} & set(tail.casefold().split())


def _value(found: re.Match) -> float | None:
    part = {name: float(text.replace(",", "")) for name, text in found.groupdict().items() if name in _PARTS and text}
    whole = part.get("number", part.get("whole"))
    try:
        if whole is None:
            value = part.get("up", part.get("up1")) / part.get("down", part.get("down1"))
        else:
            value = whole / part.get("over", 1.0)
        for up, down in (("up2", "down2"), ("up3", "down3")):
            value += part[up] / part[down] if up in part else 0.0
        value *= 10.0 ** part.get("power", 0.0)
    except (ZeroDivisionError, OverflowError):
        return None
    return -value if found.group("sign") == "-" else value

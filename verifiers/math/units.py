r"""Units of quantities: what a phrase behind a number names, and which amounts of two units are the same.

Known units have a dimension and a factor, so that 60 minutes are 1 hour. Others are words (`apples`): they are
equal to themselves, and to themselves with a further word (`red apples`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from verifiers.math.signs import words
from verifiers.math.tokens import Token

_KNOWN: dict[str, tuple[str, Fraction, str]] = {}


def _define(dimension: str, **spellings: tuple[str, str]) -> None:
    for unit, (factor, names) in spellings.items():
        for name in (unit, *names.split()):
            _KNOWN[name] = (dimension, Fraction(factor), unit)


_define(
    "metre",
    nm=("1/1000000000", "nanometer nanometre"),
    μm=("1/1000000", "micrometer micrometre micron"),
    mm=("1/1000", "millimeter millimetre"),
    cm=("1/100", "centimeter centimetre"),
    dm=("1/10", "decimeter decimetre"),
    m=("1", "meter metre"),
    km=("1000", "kilometer kilometre"),
)
_KNOWN["in"] = ("inch", Fraction(1), "in")
_define("inch", inch=("1", "inches"), ft=("12", "foot feet"), yd=("36", "yard"), mi=("63360", "mile miles"))
_define(
    "second",
    ns=("1/1000000000", "nanosecond"),
    μs=("1/1000000", "microsecond"),
    s=("1", "sec second"),
    ms=("1/1000", "millisecond"),
    min=("60", "minute mins"),
    h=("3600", "hr hour hrs"),
    day=("86400", ""),
    week=("604800", ""),
)
_define("month", month=("1", "months"), year=("12", "yr yrs"))
_define(
    "gram",
    μg=("1/1000000", "microgram"),
    mg=("1/1000", "milligram"),
    g=("1", "gram"),
    kg=("1000", "kilogram kilo"),
    tonne=("1000000", ""),
)
_define("ounce", oz=("1", "ounce"), lb=("16", "lbs pound"))
_define("litre", ml=("1/1000", "mL milliliter millilitre"), l=("1", "L liter litre"))
_define("cup", cup=("1", ""), pint=("2", "pt"), quart=("4", "qt"), gallon=("16", "gal"))
_define("cent", cent=("1", "cents ¢"), dollar=("100", "dollars buck usd USD"))
_define("degree", degree=("1", "deg degrees"), arcminute=("1/60", ""), arcsecond=("1/3600", ""))
_define("percent", percent=("1", "pct percentage"))
_define("newton", N=("1", "newton"))
_define("joule", J=("1", "joule"), kJ=("1000", "kilojoule"))
_define(
    "watt", mW=("1/1000", "milliwatt"), W=("1", "watt"), kW=("1000", "kilowatt"), MW=("1000000", "megawatt")
)
_define(
    "electronvolt", eV=("1", "electronvolt"), keV=("1000", ""), MeV=("1000000", ""), GeV=("1000000000", "")
)
_define("ohm", ohm=("1", r"ohms \Omega"), kohm=("1000", "kilohm"), Mohm=("1000000", "megohm"))
_define("farad", nF=("1/1000", "nanofarad"), μF=("1", "microfarad"))
_define("volt", mV=("1/1000", "millivolt"), V=("1", "volt"), kV=("1000", "kilovolt"))
_define("ampere", μA=("1/1000000", "microampere"), mA=("1/1000", "milliampere"), A=("1", "ampere amp"))
_define("light-year", ly=("1", ""))
_define("parsec", pc=("1", "parsec"))
_define("hertz", Hz=("1", "hertz"))
_define("kilohertz", kHz=("1", "kilohertz"), MHz=("1000", "megahertz"), GHz=("1000000", "gigahertz"))
_define("calorie", cal=("1", "calorie"), kcal=("1000", "kilocalorie"))
_define("pascal", Pa=("1", "pascal"), kPa=("1000", "kilopascal"))
for _name, _unit in {
    "C": "coulomb",
    "K": "kelvin",
    "T": "tesla",
    "mol": "mole",
}.items():
    _define(_unit, **{_name: ("1", _unit)})
_define("unit", unit=("1", "units"))
_COMPOSED = {
    "mpg": (("mi", 1), ("gallon", -1)),
    "mph": (("mi", 1), ("h", -1)),
    "kph": (("km", 1), ("h", -1)),
    "kmh": (("km", 1), ("h", -1)),
    "sqft": (("ft", 2),),
}
_BARE = {
    *words("mm cm dm km kg ft in yd mi lb lbs oz hr hrs sec min mins ml mL mph kph kmh Hz kJ kW usd USD"),
    *words("day days week weeks hour hours inch feet foot yard yards mile miles meter metre gram cent cents"),
    *words(
        "unit units year years month months pct percent degree degrees dollar dollars yr yrs cup cups pint"
    ),
}
SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_SQUARE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SQUARED = {"squared": 2, "cubed": 3}
_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse"}
# Words that say nothing about the unit, and words that change what the number says.
_EMPTY_WORDS = frozenset(
    words(
        "the a an of is are total altogether long tall wide high deep old away each exactly approximately all in "
        "overall"
    )
)
_TURNING_WORDS = frozenset(
    words(
        "or not and minus negative below above less more least most than between to from half third quarter if when but "
        "no non except without plus times north south east west left right up down remainder ago before after "
        "bc ad am pm approx about around roughly where because since as by until only odd even both either "
        "neither ratio divided multiplied root pi log log10 over factorial choose squares cubes thirds fourths fifths "
        "sixths sevenths eighths ninths tenths hundredths thousandths halves score pairs"
    )
)
MAX_WORDS = 8


@dataclass(frozen=True, slots=True)
class Unit:
    """Names with their powers, sorted: (("h", -1), ("km", 1))."""

    powers: tuple[tuple[str, int], ...]

    @property
    def is_known(self) -> bool:
        return all(name in _KNOWN for name, _ in self.powers)

    @property
    def can_be_left_out(self) -> bool:
        """Letters that are no unit known may be variables: an answer without them is another."""
        return all(name in _KNOWN or len(name) > 2 for name, _ in self.powers)

    @property
    def dimension(self) -> tuple[tuple[str, int], ...]:
        powers: dict[str, int] = {}
        for name, exponent in self.powers:
            base = _KNOWN[name][0] if name in _KNOWN else f"*{name}"
            powers[base] = powers.get(base, 0) + exponent
        return tuple(sorted((name, exponent) for name, exponent in powers.items() if exponent))

    @property
    def factor(self) -> Fraction:
        """How many of the dimension's own unit one of these is."""
        result = Fraction(1)
        for name, exponent in self.powers:
            result *= (_KNOWN[name][1] if name in _KNOWN else Fraction(1)) ** exponent
        return result

    @property
    def words(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.powers)

    @property
    def text(self) -> str:
        return "*".join(name if power == 1 else f"{name}^{power}" for name, power in self.powers)


PERCENT = Unit((("percent", 1),))
DEGREE = Unit((("degree", 1),))


def same_kind(first: Unit, second: Unit) -> bool:
    """Whether amounts of the two can be compared: one dimension, or words of which one says more."""
    if first.is_known or second.is_known:
        return first.dimension == second.dimension
    if any(exponent != 1 for _, exponent in (*first.powers, *second.powers)):
        return first.powers == second.powers
    return first.words <= second.words or second.words <= first.words


def is_spelling(word: str, name: str) -> bool:
    """Whether the word is that unit: `L` is `l`."""
    return _singular(word) == name


def _singular(word: str) -> str:
    if word in _KNOWN:
        return _KNOWN[word][2]
    lower = word.lower()
    for name in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if len(word) > 2 and name in _KNOWN:
            return _KNOWN[name][2]
    if len(word) < 3:
        return word  # M is no m
    if lower in _IRREGULAR:
        return _IRREGULAR[lower]
    if len(lower) > 4 and lower.endswith("ies"):
        return lower[:-3] + "y"
    if len(lower) > 4 and lower.endswith(("xes", "shes", "ches", "sses", "oes")):
        return lower[:-2]
    return lower[:-1] if len(lower) > 2 and lower.endswith("s") and not lower.endswith("ss") else lower


def begins_unit(token: Token, *, is_after_number: bool) -> bool:
    """Whether a word behind a factor is a unit and no product of letters."""
    if token.kind != "word":
        return False
    if token.is_upright or token.text in SCALES:
        return True
    if not is_after_number:
        return False
    return token.text in _BARE or (token.is_spaced and looks_like_word(token.text, 4))


def is_bare_unit(text: str) -> bool:
    r"""Whether it is a unit outside of \\text too, and no product of letters."""
    return text in _BARE


def looks_like_word(text: str, min_letters: int) -> bool:
    """`apples`, but not `xyz` or `abcd`: letters in the alphabet's order are a product."""
    is_product = list(text) == sorted(text) and len(set(text)) == len(text)
    return len(text) >= min_letters and any(letter in "aeiouyAEIOUY" for letter in text) and not is_product


def parse_unit(tokens: list[Token]) -> Unit | None:
    """The unit that all these tokens name, None where they are none. An empty unit has no names."""
    tokens = _without_parentheses(tokens)
    powers: dict[str, int] = {}
    direction, pending, num_words = 1, 0, 0
    last: str | None = None
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        word = token.text
        if token.kind == "word" or (token.kind == "letter" and last is not None):
            lower = word.lower()
            num_words += 1
            if lower in _TURNING_WORDS or lower in SCALES or num_words > MAX_WORDS:
                return None
            if lower == "percent" and position < len(tokens) and tokens[position].text == "of":
                is_phrase = all(other.kind == "word" for other in tokens[position:])
                return PERCENT if is_phrase and not powers else None
            if lower == "per":
                direction = -1
            elif lower in _SQUARE:
                pending = _SQUARE[lower]
            elif lower in _SQUARED:
                if last is None:
                    return None
                powers[last] *= _SQUARED[lower]
            elif (
                lower == "in"
                and position < len(tokens)
                and tokens[position].kind == "word"
                or lower in _EMPTY_WORDS
                and (lower != "in" or num_words > 1)
                and word != "A"  # ampere
            ):
                pass
            else:
                for name, exponent in _COMPOSED.get(lower, ((_singular(word), 1),)):
                    powers[name] = powers.get(name, 0) + exponent * direction * (pending or 1)
                    last = name
                pending = 0
                direction = 1
        elif word == "/":
            direction = -1
        elif word in (r"\cdot", r"\times", "-") and last is not None and position < len(tokens):
            pass
        elif word == "^" and last is not None:
            power, position = _exponent(tokens, position)
            if power is None:
                return None
            sign = 1 if powers[last] > 0 else -1
            powers[last] += sign * (power - 1)
        elif word == "." and num_words:
            pass
        elif word == r"\frac":
            return _fraction(tokens[position:]) if last is None else None
        else:
            return None
    if pending or (num_words == 0 and tokens) or direction == -1:
        return None
    return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)))


def _exponent(tokens: list[Token], position: int) -> tuple[int | None, int]:
    texts = [token.text for token in tokens[position : position + 4]]
    for pattern in (("{", "-", None, "}"), ("{", None, "}"), ("-", None), (None,)):
        found = texts[: len(pattern)]
        if len(found) == len(pattern) and all(
            want in (None, text) for want, text in zip(pattern, found, strict=True)
        ):
            number = found[pattern.index(None)]
            if number.isascii() and number.isdigit() and len(number) == 1:
                return (-int(number) if "-" in found else int(number)), position + len(pattern)
    return None, position


def _fraction(tokens: list[Token]) -> Unit | None:
    r"""Of `{\text{km}}{\text{h}}`."""
    texts = [token.text for token in tokens]
    if texts[:1] != ["{"] or texts[-1:] != ["}"] or texts.count("{") != 2 or texts.count("}") != 2:
        return None
    middle = texts.index("}")
    if texts[middle + 1] != "{":
        return None
    over, under = parse_unit(tokens[1:middle]), parse_unit(tokens[middle + 2 : -1])
    if not over or not under or not over.powers or not under.powers:
        return None
    powers = dict(over.powers)
    for name, exponent in under.powers:
        powers[name] = powers.get(name, 0) - exponent
    return Unit(tuple(sorted(powers.items())))


def _without_parentheses(tokens: list[Token]) -> list[Token]:
    """Of `9 (apples)`; and of the braces that a group of units may have."""
    texts = [token.text for token in tokens]
    if texts[:1] == ["("] and texts[-1:] == [")"] and texts.count("(") == 1:
        return tokens[1:-1]
    if texts[:1] == ["{"] and texts[-1:] == ["}"] and texts.count("{") == 1:
        return tokens[1:-1]
    return tokens

r"""The text of an answer as tokens: LaTeX, plain text and a calculator's spelling become one.

Markup that changes nothing (`\left`, `\underline{...}`, `\displaystyle`, dollar signs around a formula) is gone;
everything else is a token, so that a reading can tell whether it has used them all. What is in `\text{...}` becomes
tokens too, and so do bare words.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "letter", "word", "command", "mark"]


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    is_spaced: bool = False
    """White space stands before it."""
    is_upright: bool = False
    r"""In \text{...} or \mathrm{...}: a unit may be one letter."""


class Untokenizable(ValueError):
    """Braces that do not match, or a command whose argument is missing."""


_TEXT_COMMANDS = {
    "text",
    "textrm",
    "textnormal",
    "mbox",
    "hbox",
    "textup",
    "textbf",
    "textit",
    "textsf",
    "texttt",
}
_UPRIGHT_COMMANDS = {"mathrm", "operatorname", "mathsf", "mathop", "rm"}
_TRANSPARENT = {
    *(
        "mathbf",
        "boldsymbol",
        "bm",
        "mathit",
        "mathnormal",
        "mathcal",
        "underline",
        "emph",
        "boxed",
        "fbox",
        "ensuremath",
    ),
    *(
        "mathstrut",
        "textstyle",
        "displaystyle",
        "scriptstyle",
        "limits",
        "nolimits",
        "bf",
        "it",
        "sf",
        "tt",
        "small",
    ),
    *(
        "left",
        "right",
        "middle",
        "big",
        "Big",
        "bigg",
        "Bigg",
        "bigl",
        "bigr",
        "Bigl",
        "Bigr",
        "biggl",
        "biggr",
        "large",
    ),
    *(
        "Biggl",
        "Biggr",
        "nonumber",
        "notag",
        "boldmath",
        "Large",
        "normalsize",
        "operatorname*",
        "protect",
        "strut",
    ),
}
_SPACES = {
    ",",
    ";",
    ":",
    ">",
    " ",
    "quad",
    "qquad",
    "enspace",
    "thinspace",
    "medspace",
    "\n",
    "\t",
    "space",
    "newline",
}
_ALIASES = {
    **{
        "dfrac": "frac",
        "tfrac": "frac",
        "cfrac": "frac",
        "dbinom": "binom",
        "tbinom": "binom",
        "varnothing": "emptyset",
    },
    **{
        "le": "leq",
        "leqslant": "leq",
        "leqq": "leq",
        "ge": "geq",
        "geqslant": "geq",
        "geqq": "geq",
        "ne": "neq",
    },
    **{
        "lvert": "|",
        "rvert": "|",
        "vert": "|",
        "mid": "|",
        "lbrace": "{",
        "rbrace": "}",
        "lbrack": "[",
        "rbrack": "]",
    },
    **{
        "ast": "times",
        "thickapprox": "approx",
        "simeq": "approx",
        "approxeq": "approx",
        "colon": ":",
        "setminus": "backslash",
    },
    **{
        "smallsetminus": "backslash",
        "lor": "or",
        "vee": "or",
        "wedge": "and",
        "land": "and",
        "lt": "<",
        "gt": ">",
    },
    **{
        "dots": "ldots",
        "cdots": "ldots",
        "lg": "log",
        "varepsilon": "epsilon",
        "varphi": "phi",
        "vartheta": "theta",
    },
    **{
        "degree": "degree",
        "arcsec": "arcsec",
        "to": "rightarrow",
        "implies": "Rightarrow",
        "dot": "dot",
        "bar": "overline",
    },
    **{
        "lparen": "(",
        "rparen": ")",
        "isin": "in",
        "perthousand": "permille",
        "euro": "€",
        "pounds": "£",
        "cent": "¢",
    },
}
_MARKS = {"|", "{", "}", "[", "]", "(", ")", ":", "<", ">"}
_MATRICES = {"pmatrix", "bmatrix", "matrix", "smallmatrix", "Bmatrix", "array", "vmatrix", "Vmatrix"}

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_UNICODE = {
    **dict.fromkeys("−–—‒―﹣", "-"),
    **dict.fromkeys("×✕✖⨯", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("’′", "'"),
    **{"÷": r"\div ", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq "},
    **{"≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}"},
    **{"ℝ": r"\mathbb{R}", "∖": r"\setminus ", "″": "''", "º": r"^{\circ}", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∠": r"\angle "},
    **{"“": '"', "”": '"', "⟨": r"\langle ", "⟩": r"\rangle ", "≡": r"\equiv ", "ℤ": r"\mathbb{Z}", "…": r"\ldots "},
    **{"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int "},
    **{"\u200b": "", "\ufeff": "", "\u2061": "", "\u2062": "", "\u2009": " ", "\u202f": " ", "\u00a0": " ", "✓": "", "✅": ""},
    **dict(zip("αβγδεζηθικλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ", (
        rf"\{name} "
        for name in "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi "
        "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split()
    ), strict=True)),
    "ϕ": r"\phi ",
}  # fmt: skip
_RUNS = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+|[{''.join(_SUBSCRIPTS)}]+")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_SMALL_LETTERS = re.compile(r"[\u1d62-\u1d6a]")


def plain_unicode(text: str) -> str:
    """The text with signs of Unicode as LaTeX has them; `½` is `\\frac{1}{2}`, `x²` is `x^{2}`."""
    if text.isascii():
        return text
    text = _RUNS.sub(_script, text)
    return _BEYOND_ASCII.sub(_sign, text)


def _script(run: re.Match[str]) -> str:
    script, table = ("^", _SUPERSCRIPTS) if run[0][0] in _SUPERSCRIPTS else ("_", _SUBSCRIPTS)
    return f"{script}{{{''.join(table[character] for character in run[0])}}}"


def _sign(match: re.Match[str]) -> str:
    character = match[0]
    if character in _UNICODE:
        return _UNICODE[character]
    normal = unicodedata.normalize("NFKC", character)
    if "⁄" in normal:
        numerator, _, denominator = normal.partition("⁄")
        return rf"\frac{{{numerator}}}{{{denominator or '1'}}}"
    return normal if normal.isascii() else character


_GROUPED = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
_SCAN = re.compile(
    rf"""(?P<space>(?:\s|~)+)
    |(?P<number>{_GROUPED}|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,4}}(?![0-9.a-zA-Z]))?)
    |(?P<command>\\(?:[a-zA-Z]+\*?|.))
    |(?P<letters>[a-zA-Z]+)
    |(?P<mark>\*\*|<=|>=|.)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER_SPACING = re.compile(
    r"(?<=[0-9])(?:\{,\}|,?\\!\s*,?|\\,)(?=\s*[0-9]{3}(?![0-9]))|(?<=[0-9]),\\!\s*(?=[0-9])"
)
_ARGUMENT = re.compile(r"\s*\{")
_COLOR = re.compile(r"\s*(?:\[[a-zA-Z]*\])?\{[^{}]*\}")
_ENVIRONMENT = re.compile(r"\s*\{([a-zA-Z]+\*?)\}(\{[lcr|]*\})?")
_BLACKBOARD = re.compile(r"\s*(?:\{\s*([A-Z])\s*\}|([A-Z]))")
_CURRENCY = {"€": "euro", "£": "pound-sterling", "¢": "cent", "¥": "yen", "₹": "rupee", "₩": "won"}
_NAMED = {"<=": r"\leq", ">=": r"\geq", "**": "^", "*": r"\times"}


def tokenize(text: str) -> list[Token]:
    """All tokens of the text in order; Untokenizable."""
    text = plain_unicode(text).strip()
    text = _NUMBER_SPACING.sub(lambda gap: "," if "," in gap[0] and "!" not in gap[0] else "", text)
    scanner = _Scanner(text)
    scanner.scan(0, len(text), upright=False, words=False)
    return scanner.tokens


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[Token] = []
        self.is_spaced = False
        dollars = [match.start() for match in re.finditer(r"(?<!\\)\$", text)]
        # One that opens nothing is a currency.
        self.currency_at = dollars[0] if len(dollars) % 2 else -1
        self.num_aligned = 0

    def put(self, kind: Kind, text: str, upright: bool = False) -> None:
        self.tokens.append(Token(kind, text, self.is_spaced, upright))
        self.is_spaced = False

    def scan(self, start: int, end: int, *, upright: bool, words: bool) -> None:
        """Tokens of text[start:end]; `words`: it is prose, where letters that touch are a word."""
        position = start
        while position < end:
            match = _SCAN.match(self.text, position, end)
            assert match
            position = match.end()
            if match["space"]:
                self.is_spaced = True
            elif match["number"]:
                self.put("number", match[0], upright)
            elif letters := match["letters"]:
                self._letters(letters, upright=upright, words=words)
            elif match["command"]:
                position = self._command(match[0][1:], position, end, upright=upright, words=words)
            else:
                self._mark(match[0], match.start(), upright=upright)

    def _letters(self, letters: str, *, upright: bool, words: bool) -> None:
        if upright and not words and letters in ("e", "i"):
            self.put("letter", letters)
        elif len(letters) > 1 or words or upright:
            self.put("word", letters, upright)
        else:
            self.put("letter", letters)

    def _mark(self, mark: str, position: int, *, upright: bool) -> None:
        if mark == "$":
            if position == self.currency_at:
                self.put("word", "dollar", True)
        elif mark in _CURRENCY:
            self.put("word", _CURRENCY[mark], True)
        elif mark == "%":
            self.put("word", "percent", True)
        elif mark in _NAMED:
            named = _NAMED[mark]
            self.put("mark" if named == "^" else "command", named)
        elif mark == "&" and self.num_aligned:
            self.is_spaced = True
        elif mark != "`":
            self.put("mark", mark, upright)

    def _command(self, name: str, position: int, end: int, *, upright: bool, words: bool) -> int:
        """What stands behind a backslash; the position after it and after the argument that it has used."""
        if name in _TEXT_COMMANDS or name in _UPRIGHT_COMMANDS or name in ("operatorname*",):
            if not (opening := _ARGUMENT.match(self.text, position, end)):
                return position
            close = self._matching_brace(opening.end(), end)
            is_prose = name in _TEXT_COMMANDS
            self.scan(opening.end(), close, upright=True, words=is_prose)
            return close + 1
        if name in ("color", "textcolor", "colorbox", "hspace", "vspace", "phantom", "label"):
            argument = _COLOR.match(self.text, position, end)
            return argument.end() if argument else position
        if name == "begin" or name == "end":
            return self._environment(name, position, end)
        if name == "\\":
            self._line_break(position, end)
        elif name in _TRANSPARENT:
            after = position + 1
            is_invisible = name in ("left", "right", "middle") and self.text[position:after] == "."
            return after if is_invisible else position
        elif name in _SPACES:
            self.is_spaced = True
        elif name == "!":
            pass
        elif name in ("$", "%"):
            self.put("word", "dollar" if name == "$" else "percent", True)
        elif name == "mathbb":
            if not (letter := _BLACKBOARD.match(self.text, position, end)):
                raise Untokenizable(r"\mathbb without a letter")
            self.put("command", rf"\mathbb{letter[1] or letter[2]}")
            return letter.end()
        else:
            name, rest = _split_command(name)
            position -= len(rest)
            name = _ALIASES.get(name, name)
            if name in _CURRENCY:
                self.put("word", _CURRENCY[name], True)
            elif name == "{" or name == "}":
                self.put("mark", "\\" + name)
            elif name in _MARKS or name in ("_", "&", "#"):
                self.put("mark", name)
            else:
                self.put("command", "\\" + name)
        return position

    def _environment(self, name: str, position: int, end: int) -> int:
        argument = _ENVIRONMENT.match(self.text, position, end)
        if not argument:
            raise Untokenizable("an environment without a name")
        kind = argument[1].rstrip("*")
        if kind in _MATRICES or kind == "cases":
            self.put("command", rf"\{name}:{kind}")
        else:  # aligned, equation, gather: a frame
            self.num_aligned += 1 if name == "begin" else -1
        return argument.end()

    def _line_break(self, position: int, end: int) -> None:
        """In a frame a line that begins with a relation goes on; others are several answers."""
        if not self.num_aligned:
            self.put("command", r"\\")
            return
        following = self.text[position:end].lstrip(" \n\t&")
        is_continued = following.startswith(
            ("=", "<", ">", r"\le", r"\ge", r"\approx", "+", "-", r"\end", "}")
        )
        if following and not is_continued:
            self.put("mark", ",")

    def _matching_brace(self, start: int, end: int) -> int:
        depth = 1
        for position in range(start, end):
            character = self.text[position]
            if self.text[position - 1] == "\\" and self.text[position - 2 : position - 1] != "\\":
                continue
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return position
        raise Untokenizable("a brace that does not close")


_SPLITTABLE = (
    *(
        "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc ln log exp cdot times pi alpha beta gamma".split()
    ),
    *("delta theta lambda omega sigma rho phi psi mu nu tau Delta Omega epsilon quad infty pm circ".split()),
)
_COMMANDS = frozenset(
    "frac sqrt binom vec hat bar tilde overline widehat overrightarrow ddot dot lfloor rfloor lceil rceil langle "
    "rangle sum prod int oint lim infty leq geq neq approx equiv in notin cup cap backslash emptyset angle triangle "
    "parallel perp rightarrow Rightarrow prime degree circ ldots over choose div pm mp eta zeta iota kappa xi chi "
    "upsilon Gamma Theta Lambda Xi Pi Sigma Phi Psi ell hbar Re Im aleph partial nabla mod pmod bmod subset subseteq "
    "varnothing dfrac tfrac cfrac dbinom tbinom leftarrow leftrightarrow Leftrightarrow longrightarrow because "
    "therefore max min gcd lcm sup inf det dim ker deg arg arcsec arccsc arccot coth sech csch cong sim propto "
    "odot oplus otimes bullet star cancel not mathring exists forall neg lnot square sinx mapsto iff permille "
    "widetilde overleftrightarrow underbrace overbrace stackrel overset underset substack tag ref mu nu".split()
)


def _split_command(name: str) -> tuple[str, str]:
    r"""`\pit` is `\pi t`: a command that nobody knows begins with one that is known."""
    if name in _COMMANDS or name in _ALIASES or name in _SPLITTABLE or len(name) < 3:
        return name, ""
    for known in sorted(_SPLITTABLE, key=len, reverse=True):
        if name.startswith(known):
            return known, name[len(known) :]
    return name, ""


def flat(tokens: list[Token]) -> str:
    """The tokens as one text, with the spaces that they had."""
    return "".join((" " if token.is_spaced else "") + token.text for token in tokens).strip()


def normal_text(tokens: list[Token]) -> str:
    """What two texts have in common that differ in spacing, braces and letter case of words only."""
    texts: list[str] = []
    for index, token in enumerate(tokens):
        if token.text in "{}" and _is_around_one(tokens, index):
            continue
        is_prose = token.kind == "word" and (token.is_upright or len(token.text) > 3)
        texts.append(token.text.lower() if is_prose else token.text)
    text = " ".join(texts)
    return text[:-2] if text.endswith((" .", " ,")) else text


def _is_around_one(tokens: list[Token], index: int) -> bool:
    """Whether the brace belongs to a group of one token, which means the same without."""
    if tokens[index].text == "{":
        return (
            index + 2 < len(tokens) and tokens[index + 2].text == "}" and tokens[index + 1].text not in "{}"
        )
    return index >= 2 and tokens[index - 2].text == "{" and tokens[index - 1].text not in "{}"

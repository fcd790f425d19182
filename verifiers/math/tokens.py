r"""The text of an answer as tokens: LaTeX, plain text and a calculator's spelling become one.

Markup that changes nothing (`\left`, `\underline{...}`, `\displaystyle`, dollar signs around a formula) is gone;
everything else is a token, so that a reading can tell whether it has used them all. What is in `\text{...}` becomes
tokens too, and so do bare words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from verifiers.math.signs import (
    ALIASES,
    MARKS,
    MATRICES,
    SPACES,
    TEXT_COMMANDS,
    TRANSPARENT,
    UPRIGHT_COMMANDS,
    plain_unicode,
    split_command,
)

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
_BRACED_SIGN = re.compile(r"(?<=[0-9)\s])\{([:=<>])\}")
_ARGUMENT = re.compile(r"\s*\{")
_COLOR = re.compile(r"\s*(?:\[[a-zA-Z]*\])?\{[^{}]*\}")
_ENVIRONMENT = re.compile(r"\s*\{([a-zA-Z]+\*?)\}(\{[lcr|]*\})?")
_BLACKBOARD = re.compile(r"\s*(?:\{\s*([A-Z])\s*\}|([A-Z]))")
_CURRENCY = {"€": "euro", "£": "pound-sterling", "¢": "cent", "¥": "yen", "₹": "rupee", "₩": "won"}
# Units with a Greek letter, which is none of a variable where the other is upright.
_PREFIXED = {
    **{rf"\mu{unit}": f"μ{unit}" for unit in ("m", "s", "g", "F", "A")},
    **{rf"{prefix}\Omega": f"{prefix}ohm" for prefix in ("k", "M")},
}
_NAMED = {"<=": r"\leq", ">=": r"\geq", "**": "^", "*": r"\times"}


def tokenize(text: str) -> list[Token]:
    """All tokens of the text in order; Untokenizable."""
    text = plain_unicode(text).strip()
    text = _BRACED_SIGN.sub(r"\1", _NUMBER_SPACING.sub("", text))
    scanner = _Scanner(text)
    scanner.scan(0, len(text), upright=False, words=False)
    return _joined(scanner.tokens)


def _joined(tokens: list[Token]) -> list[Token]:
    r"""With `4.5 x 10^3`, `4.5\mathrm{e}3`, `x != 3` and `5 cm2` as they are meant."""
    result: list[Token] = []
    position = 0
    while position < len(tokens):
        window = tokens[position : position + 4]
        texts = [token.text for token in window]
        kinds = [token.kind for token in window]
        if kinds[:1] == ["number"] and texts[1:2] == ["x"] and texts[2:4] == ["10", "^"]:
            result += [window[0], Token("command", r"\times", True)]
            position += 2
        elif (
            kinds[:3] == ["number", "letter", "number"]
            and texts[1] == "x"
            and window[1].is_spaced
            and window[2].is_spaced
        ):
            result += [window[0], Token("command", r"\times", True)]  # 6 x 7
            position += 2
        elif kinds == ["number", "command"] and texts[1] == r"\Omega":  # at the end: 12 \Omega
            result += [window[0], Token("word", "ohm", window[1].is_spaced, True)]
            position += 2
        elif (
            kinds[:3] == ["number", "letter", "number"]
            and texts[1] in ("e", "E")
            and not (window[1].is_spaced or window[2].is_spaced)
            and (texts[0] + texts[2]).replace(".", "", 1).isdigit()
            and len(texts[2]) < 5
        ):
            result.append(Token("number", f"{texts[0]}e{texts[2]}", window[0].is_spaced))
            position += 3
        elif (
            len(window) > 1
            and (texts[0] + texts[1]) in _PREFIXED
            and (window[0].is_upright or window[1].is_upright)
        ):
            result.append(Token("word", _PREFIXED[texts[0] + texts[1]], window[0].is_spaced, True))
            position += 2
        elif texts[:2] == ["!", "="] and window[0].is_spaced and not window[1].is_spaced:
            result.append(Token("command", r"\neq", True))
            position += 2
        elif kinds[:2] == ["word", "number"] and texts[1] in ("2", "3") and not window[1].is_spaced:
            is_area = texts[0] in ("mm", "cm", "dm", "km", "ft", "yd", "in")
            result += [window[0], *([Token("mark", "^")] if is_area else []), window[1]]
            position += 2
        else:
            result.append(window[0])
            position += 1
    return result


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
        elif mark == "&" and self.tokens and self.tokens[-1].text == ",":
            self.tokens[-1] = Token("mark", "&")  # x, & x > 0
        elif mark != "`":
            self.put("mark", mark, upright)

    def _command(self, name: str, position: int, end: int, *, upright: bool, words: bool) -> int:
        """What stands behind a backslash; the position after it and after the argument that it has used."""
        if name in TEXT_COMMANDS or name in UPRIGHT_COMMANDS or name in ("operatorname*",):
            if not (opening := _ARGUMENT.match(self.text, position, end)):
                return position
            close = self._matching_brace(opening.end(), end)
            is_prose = name in TEXT_COMMANDS
            self.scan(opening.end(), close, upright=True, words=is_prose)
            return close + 1
        if name in ("color", "textcolor", "colorbox", "hspace", "vspace", "phantom", "label"):
            argument = _COLOR.match(self.text, position, end)
            return argument.end() if argument else position
        if name == "begin" or name == "end":
            return self._environment(name, position, end)
        if name == "\\":
            self._line_break(position, end)
        elif name in TRANSPARENT:
            after = position + 1
            is_invisible = name in ("left", "right", "middle") and self.text[position:after] == "."
            return after if is_invisible else position
        elif name in SPACES:
            self.is_spaced = True
        elif name in ("!", "(", ")", "[", "]"):
            pass  # \( and \[ stand around a formula, as dollars do
        elif name in ("$", "%"):
            self.put("word", "dollar" if name == "$" else "percent", True)
        elif name in ("mathbb", "Bbb"):
            if not (letter := _BLACKBOARD.match(self.text, position, end)):
                raise Untokenizable(r"\mathbb without a letter")
            self.put("command", rf"\mathbb{letter[1] or letter[2]}")
            return letter.end()
        else:
            name, rest = split_command(name)
            position -= len(rest)
            name = ALIASES.get(name, name)
            if name in _CURRENCY:
                self.put("word", _CURRENCY[name], True)
            elif name == "{" or name == "}":
                self.put("mark", "\\" + name)
            elif name in MARKS or name in ("_", "&", "#"):
                self.put("mark", name)
            else:
                self.put("command", "\\" + name)
        return position

    def _environment(self, name: str, position: int, end: int) -> int:
        argument = _ENVIRONMENT.match(self.text, position, end)
        if not argument:
            raise Untokenizable("an environment without a name")
        kind = argument[1].rstrip("*")
        if kind in MATRICES or kind == "cases":
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

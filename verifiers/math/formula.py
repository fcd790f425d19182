r"""Formulae: tokens to an expression. All of the tokens go into it, or there is no reading.

Where LaTeX and calculators part (`2^10`), where juxtaposition may mean two things (`1/xy`, `3 4`), and where a word
stands in a formula, the reading is what a careful reader is sure of, or none: Unreadable.
"""

from __future__ import annotations

from verifiers.math.expression import (
    Call,
    Constant,
    Expression,
    Number,
    add,
    binomial,
    divide,
    factorial,
    multiply,
    negate,
    power,
)
from verifiers.math.functions import FUNCTIONS, read_derivative, read_function, read_series
from verifiers.math.grammar import CLOSING, GREEK, Grammar, Unreadable, closing
from verifiers.math.names import read_letter, read_name, read_prefixed_choice
from verifiers.math.numerals import ORDINALS, plain_number, read_number
from verifiers.math.signs import words
from verifiers.math.splitting import split_at
from verifiers.math.tokens import Token, normal_text
from verifiers.math.units import begins_unit, is_bare_unit, looks_like_word, parse_unit

_DECORATIONS = frozenset(
    words(
        r"\vec \hat \bar \tilde \overline \widehat \overrightarrow \widetilde \dot \ddot \overleftrightarrow"
    )
)
_OPERATORS = {r"\cdot", r"\times", "/", r"\div"}


def parse_formula(tokens: list[Token], sign: int = 1, depth: int = 0) -> Expression:
    r"""The expression that all the tokens make; `sign` is what `\pm` stands for. Unreadable, TooLarge."""
    formula = Formula(tokens, sign, depth)
    for stacked in (r"\over", r"\choose"):
        halves = split_at(tokens, (stacked,))
        if len(halves) == 2:
            first, second = (formula.sub(half) for half in halves)
            return divide(first, second) if stacked == r"\over" else binomial(first, second)
    expression = formula.sum()
    if formula.position < len(formula.tokens):
        raise Unreadable(f"{formula.peek()!r} is left over")
    return expression


def parse_amount(tokens: list[Token], sign: int = 1) -> tuple[Expression, list[Token]]:
    """The expression at the beginning and what is left behind it: perhaps a unit."""
    formula = Formula(tokens, sign, 0)
    expression = formula.sum()
    return expression, formula.tokens[formula.position :]  # its own: a word may have become letters


class Formula(Grammar):
    """A method for each rule."""

    def sub(self, tokens: list[Token]) -> Expression:
        if not tokens:
            raise Unreadable("an empty group")
        return parse_formula(tokens, self.sign, self.depth + 1)

    def sum(self) -> Expression:
        terms: list[Expression] = []
        while True:
            sign, has_sign = self._take_sign()
            if terms and not has_sign:
                break
            term = self.product()
            terms.append(negate(term) if sign < 0 else term)
            if self.peek() not in ("+", "-", r"\pm", r"\mp"):
                break
        return add(terms)

    def _take_sign(self) -> tuple[int, bool]:
        sign, num_signs = 1, 0
        while (text := self.peek()) in ("+", "-", r"\pm", r"\mp"):
            self.position += 1
            num_signs += 1
            sign *= {"+": 1, "-": -1, r"\pm": self.sign, r"\mp": -self.sign}[text]
            if num_signs > 2:
                raise Unreadable("a row of signs")
        return sign, num_signs > 0

    def product(self) -> Expression:
        result = self.power()
        is_ratio_of_letters = False
        while self.position < len(self.tokens):
            operator = self.peek()
            if operator in _OPERATORS:
                if operator == "/" and not result.names and self._is_unit(1):
                    break  # $15 / hour
                self.position += 1
                sign = 1
                if self.peek() in ("-", "+"):
                    sign = -1 if self.take().text == "-" else 1
                factor = self.power()
                factor = negate(factor) if sign < 0 else factor
                is_division = operator in ("/", r"\div")
                is_ratio_of_numbers = isinstance(result, Number) and isinstance(factor, Number)
                result = divide(result, factor) if is_division else multiply([result, factor])
                # 1/xy: is y below or beside it? 1/2x is read as it is printed.
                is_ratio_of_letters = is_division and not is_ratio_of_numbers
            elif self.begins_factor(result):
                if is_ratio_of_letters:
                    raise Unreadable("a factor behind a slash")
                result = multiply([result, self.power()])
            else:
                break
        return result

    def _is_unit(self, ahead: int) -> bool:
        index = self.position + ahead
        return index < len(self.tokens) and begins_unit(self.tokens[index], is_after_number=True)

    def begins_factor(self, before: Expression) -> bool:
        """Whether a factor follows without a sign. A number never does: `x2`, `3 4` are not products."""
        token = self.tokens[self.position]
        text = token.text
        if token.kind == "letter":
            return True
        if token.kind == "number":
            return self.peek(-1) == "!"
        if token.kind == "word":
            return not begins_unit(token, is_after_number=not before.names)
        if text == "(":
            inner = self.tokens[self.position + 1 : closing(self.tokens, self.position)]
            return not _is_phrase(inner)
        if token.kind == "command":
            name = text[1:]
            if text == r"\frac" and not before.names and _is_ratio_of_units(self.tokens[self.position + 1 :]):
                return False
            known = name in FUNCTIONS or name in GREEK or text in _DECORATIONS or text in CLOSING
            return known or name in ("frac", "pi", "infty", "sum", "prod", "mathbb")
        # 10{1} is printed as 101.
        return text in ("[", "|") or (text == "{" and self.kind(1) != "number")

    def power(self) -> Expression:
        base = self.atom()
        while True:
            text = self.peek()
            if text == "!":
                self.position += 1
                if self.peek() == "!":
                    raise Unreadable("a double factorial")
                base = factorial(base)
            elif text == "^":
                self.position += 1
                base = self._superscript(base)
            else:
                return base

    def _superscript(self, base: Expression) -> Expression:
        group = self.bracketed() if self.peek() == "{" else None
        texts = [token.text for token in group] if group is not None else [self.peek()]
        if texts == [r"\circ"] or texts == [r"\degree"]:
            self.position += group is None
            return multiply([base, Constant("degree")])
        if len(texts) == 1 and texts[0] in ORDINALS and isinstance(base, Number):
            self.position += group is None
            return base
        if group is not None:
            exponent = self.sub(group)
        elif self.peek() in ("-", "+"):
            sign = self.take().text
            exponent = self.atom()
            exponent = negate(exponent) if sign == "-" else exponent
        elif self.kind() == "command" and self.peek() == r"\frac":
            exponent = self.atom()
        elif self.kind() == "word":
            raise Unreadable("a word as an exponent")
        else:
            exponent = self.atom(is_exponent=True)
        if self.peek() == "^":
            raise Unreadable("two exponents")
        return power(base, exponent)

    def atom(self, *, is_exponent: bool = False) -> Expression:
        token = self.tokens[self.position] if self.position < len(self.tokens) else self.take()
        text = token.text
        if token.kind == "number":
            return plain_number(self) if is_exponent else read_number(self)
        if token.kind == "letter":
            return read_letter(self)
        if token.kind == "word":
            return self._word()
        if text in ("(", "[") or text == "{":
            return self._group()
        if text == "|":
            return self.absolute()
        if text in ("^", "_"):
            return read_prefixed_choice(self)
        if token.kind == "command":
            return self._command()
        raise Unreadable(f"{text!r} begins no factor")

    def _group(self) -> Expression:
        if self.peek() == "{" and self.peek(1) == "}":
            self.position += 2
            return read_prefixed_choice(self)
        return self.sub(self.bracketed())

    def absolute(self) -> Expression:
        start = self.position + 1
        depth = 0
        for position in range(start, len(self.tokens)):
            text = self.tokens[position].text
            if text in CLOSING:
                depth += 1
            elif text in CLOSING.values():
                depth -= 1
            elif text == "|" and depth == 0 and position > start:
                self.position = position + 1
                return Call("abs", (self.sub(self.tokens[start:position]),))
        raise Unreadable("a bar that does not close")

    def _word(self) -> Expression:
        token = self.tokens[self.position]
        name = token.text
        if name in FUNCTIONS:
            self.position += 1
            return read_function(self, name)
        if name in GREEK or name in ("pi", "infinity", "inf", "infty"):
            self.position += 1
            constant = {"pi": "pi"}.get(name, "infinity")
            return read_name(self, f"\\{name}") if name in GREEK else Constant(constant)
        if len(name) == 1:
            return read_letter(self)
        if len(name) > 3 and not token.is_upright:
            raise Unreadable("a word in a formula")
        if token.is_upright and (len(name) > 3 or looks_like_word(name, 3)):
            self.position += 1
            return read_name(self, name.lower())
        self.split_word()
        return read_letter(self)

    def _command(self) -> Expression:
        text = self.take().text
        name = text[1:]
        if name == "frac":
            if (derivative := read_derivative(self)) is not None:
                return derivative
            return divide(self.argument(), self.argument())
        if name == "binom":
            return binomial(self.argument(), self.argument())
        if name in FUNCTIONS:
            return read_function(self, name)
        if name == "pi":
            return Constant("pi")
        if name == "infty":
            return Constant("infinity")
        if name in GREEK:
            return read_name(self, text)
        if text in _DECORATIONS:
            tokens = self.bracketed() if self.peek() == "{" else [self.take()]
            return read_name(self, f"{text}({normal_text(tokens)})")
        if text in (r"\lfloor", r"\lceil"):
            self.position -= 1
            return Call("floor" if text == r"\lfloor" else "ceil", (self.sub(self.bracketed()),))
        if name in ("sum", "prod"):
            return read_series(self, name)
        raise Unreadable(f"{text} is not read")


def _is_ratio_of_units(tokens: list[Token]) -> bool:
    r"""Of what stands behind \frac: `{\text{km}}{\text{h}}`."""
    if len(tokens) < 2 or tokens[0].text != "{":
        return False
    numerator = tokens[1 : closing(tokens, 0)]
    return bool(numerator) and all(token.kind == "word" and token.is_upright for token in numerator)


def _is_phrase(tokens: list[Token]) -> bool:
    """`(apples)` and `(km/h)` behind a number, which are its unit."""
    if not tokens or tokens[0].kind != "word":
        return False
    is_word = tokens[0].is_upright or is_bare_unit(tokens[0].text) or looks_like_word(tokens[0].text, 3)
    return is_word and parse_unit(tokens) is not None

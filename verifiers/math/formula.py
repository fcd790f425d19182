r"""Formulae: tokens to an expression. All of the tokens go into it, or there is no reading.

Where LaTeX and calculators part (`2^10`), where juxtaposition may mean two things (`1/xy`, `3 4`), and where a word
stands in a formula, the reading is what a careful reader is sure of, or none: Unreadable.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from verifiers.math.expression import (
    MINUS_ONE,
    Call,
    Constant,
    Expression,
    Number,
    Symbol,
    TooLarge,
    add,
    binomial,
    divide,
    factorial,
    integer,
    multiply,
    negate,
    permutations,
    power,
)
from verifiers.math.splitting import split_at
from verifiers.math.tokens import Token, flat, normal_text
from verifiers.math.units import begins_unit, is_bare_unit, looks_like_word, parse_unit


class Unreadable(ValueError):
    """No reading of these tokens as a formula is certain."""


_FUNCTIONS = {
    *(
        "sin cos tan cot sec csc sinh cosh tanh ln log exp arcsin arccos arctan arccot max min gcd lcm".split()
    ),
    *("arcsec arccsc asin acos atan sqrt cbrt abs floor ceil binom log2 log10".split()),
}
_INVERTIBLE = {"sin", "cos", "tan", "cot", "sec", "csc"}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar Re Im aleph".split()
)
_DECORATIONS = {
    *(
        r"\vec \hat \bar \tilde \overline \widehat \overrightarrow \widetilde \dot \ddot \overleftrightarrow".split()
    )
}
_CLOSING = {
    "(": ")",
    "[": "]",
    "{": "}",
    r"\{": r"\}",
    r"\lfloor": r"\rfloor",
    r"\lceil": r"\rceil",
    r"\langle": r"\rangle",
}
_OPERATORS = {r"\cdot", r"\times", "/", r"\div"}
_ORDINALS = {"th", "st", "nd", "rd"}
MAX_DEPTH = 30


def closing(tokens: list[Token], start: int) -> int:
    """Where the bracket at `start` closes; Unreadable where it does not, or crosses another."""
    expected = [_CLOSING[tokens[start].text]]
    for position in range(start + 1, len(tokens)):
        text = tokens[position].text
        if text == expected[-1]:
            expected.pop()
            if not expected:
                return position
        elif text in _CLOSING:
            expected.append(_CLOSING[text])
        elif text in _CLOSING.values():
            break
    raise Unreadable("a bracket that does not close")


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


class Formula:
    """A position in the tokens, and a method for each rule of the grammar."""

    def __init__(self, tokens: list[Token], sign: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        self.tokens = tokens
        self.position = 0
        self._sign = sign
        self._depth = depth

    # --- tokens

    def peek(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index].text if index < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index].kind if index < len(self.tokens) else ""

    def take(self) -> Token:
        if self.position >= len(self.tokens):
            raise Unreadable("ends too early")
        self.position += 1
        return self.tokens[self.position - 1]

    def bracketed(self) -> list[Token]:
        """What stands in the bracket that opens here."""
        end = closing(self.tokens, self.position)
        inner = self.tokens[self.position + 1 : end]
        self.position = end + 1
        return inner

    def sub(self, tokens: list[Token]) -> Expression:
        if not tokens:
            raise Unreadable("an empty group")
        return parse_formula(tokens, self._sign, self._depth + 1)

    def argument(self) -> Expression:
        r"""Of a command: a group, or one token; `\frac12` has the digits 1 and 2."""
        if self.peek() == "{":
            return self.sub(self.bracketed())
        token = self.take()
        if token.kind == "number" and len(token.text) > 1:
            if not token.text.isdigit():
                raise Unreadable("a number without braces")
            rest = dataclasses.replace(token, text=token.text[1:], is_spaced=False)
            self.tokens = [*self.tokens[: self.position], rest, *self.tokens[self.position :]]
            return integer(int(token.text[0]))
        if token.kind not in ("number", "letter") and token.text.removeprefix("\\") not in {*_GREEK, "pi"}:
            raise Unreadable(f"{token.text!r} as an argument")
        return self.sub([token])

    # --- rules

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
            sign *= {"+": 1, "-": -1, r"\pm": self._sign, r"\mp": -self._sign}[text]
            if num_signs > 2:
                raise Unreadable("a row of signs")
        return sign, num_signs > 0

    def product(self) -> Expression:
        result = self.power()
        is_ratio_of_letters = False
        while self.position < len(self.tokens):
            operator = self.peek()
            if operator in _OPERATORS:
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
            elif self._begins_factor(result):
                if is_ratio_of_letters:
                    raise Unreadable("a factor behind a slash")
                result = multiply([result, self.power()])
            else:
                break
        return result

    def _begins_factor(self, before: Expression) -> bool:
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
            known = name in _FUNCTIONS or name in _GREEK or text in _DECORATIONS or text in _CLOSING
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
        if len(texts) == 1 and texts[0] in _ORDINALS and isinstance(base, Number):
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
            return self._plain_number() if is_exponent else self._number()
        if token.kind == "letter":
            return self._letter()
        if token.kind == "word":
            return self._word()
        if text in ("(", "[") or text == "{":
            return self._group()
        if text == "|":
            return self._absolute()
        if text in ("^", "_"):
            return self._prefixed_choice()
        if token.kind == "command":
            return self._command()
        raise Unreadable(f"{text!r} begins no factor")

    def _group(self) -> Expression:
        if self.peek() == "{" and self.peek(1) == "}":
            self.position += 2
            return self._prefixed_choice()
        return self.sub(self.bracketed())

    def _absolute(self) -> Expression:
        start = self.position + 1
        depth = 0
        for position in range(start, len(self.tokens)):
            text = self.tokens[position].text
            if text in _CLOSING:
                depth += 1
            elif text in _CLOSING.values():
                depth -= 1
            elif text == "|" and depth == 0 and position > start:
                self.position = position + 1
                return Call("abs", (self.sub(self.tokens[start:position]),))
        raise Unreadable("a bar that does not close")

    def _prefixed_choice(self) -> Expression:
        r"""`{}^5C_2`, `{}_5C_2`, `^5P_2`."""
        if self.peek() not in ("^", "_"):
            raise Unreadable("an empty group")
        self.position += 1
        n = self.argument_or_number()
        name = self.take().text
        if name not in ("C", "P") or self.peek() != "_":
            raise Unreadable("a script without a base")
        self.position += 1
        k = self.argument_or_number()
        return (binomial if name == "C" else permutations)(n, k)

    def argument_or_number(self) -> Expression:
        return self._plain_number() if self.kind() == "number" else self.argument()

    # --- numbers

    def _plain_number(self) -> Number:
        return number(self.take().text)

    def _number(self) -> Expression:
        token = self.take()
        text = token.text
        if self.peek() == "." and self.peek(1) in (r"\overline", r"\dot") and text.isdigit():
            self.position += 1
            return self._repeating(text, "")
        if (
            "." in text
            and self.peek() in (r"\overline", r"\dot")
            and not self.tokens[self.position].is_spaced
        ):
            whole, _, first = text.partition(".")
            return self._repeating(whole or "0", first)
        if text.isdigit() and len(text) <= 3 and text[0] != "0":
            while self.kind() == "number" and self._is_group_of_digits():
                text += self.take().text
        value = number(text)
        is_whole = text.isdigit()
        if self.kind() == "number":
            is_mixed = self.peek(1) == "/" and self.kind(2) == "number"
            if not (is_whole and is_mixed and self.tokens[self.position].is_spaced):
                raise Unreadable("numbers side by side")
            return self._mixed(value, self._plain_number(), self._after_slash())
        if is_whole and self.peek() == r"\frac":
            start = self.position
            self.position += 1
            numerator, denominator = self.argument(), self.argument()
            if isinstance(numerator, Number) and isinstance(denominator, Number):
                return self._mixed(value, numerator, denominator)
            self.position = start
        if self.peek() in ("'", "_"):
            raise Unreadable("a number with a script")
        if self.kind() == "word" and self.peek() in _ORDINALS and not self.tokens[self.position].is_spaced:
            self.position += 1
        return value

    def _after_slash(self) -> Number:
        self.position += 1
        return self._plain_number()

    def _is_group_of_digits(self) -> bool:
        token = self.tokens[self.position]
        digits = token.text.partition(".")[0]
        return token.is_spaced and len(digits) == 3 and digits.isdigit() and self.peek(1) != "/"

    def _mixed(self, whole: Number, numerator: Number, denominator: Number) -> Expression:
        parts = (numerator.value, denominator.value)
        if (
            not (0 < parts[0] < parts[1])
            or any(part.denominator != 1 for part in parts)
            or numerator.is_rounded
        ):
            raise Unreadable("a number beside a fraction")
        return Number(whole.value + parts[0] / parts[1])

    def _repeating(self, whole: str, first: str) -> Expression:
        r"""`0.1\overline{6}`, `0.\dot{2}\dot{7}`, `0.\dot{1}2\dot{3}`."""
        if self.take().text == r"\overline":
            repeated = self._digits()
        else:
            repeated = self._digits()
            if self.kind() == "number":
                repeated += self.take().text
                if self.peek() != r"\dot":
                    raise Unreadable("digits behind a dot")
            if self.peek() == r"\dot":
                self.position += 1
                repeated += self._digits()
        if not (repeated.isdigit() and whole.isdigit()) or len(whole + first + repeated) > 100:
            raise Unreadable("a repeating decimal")
        numerator = int(whole + first + repeated) - int(whole + first)
        return Number(Fraction(numerator, 10 ** len(first) * (10 ** len(repeated) - 1)))

    def _digits(self) -> str:
        tokens = self.bracketed() if self.peek() == "{" else [self.take()]
        if len(tokens) != 1 or not tokens[0].text.isdigit():
            raise Unreadable("a repeating decimal")
        return tokens[0].text

    # --- letters and words

    def _letter(self) -> Expression:
        name = self.take().text
        is_choice = name in ("C", "P", "A") and self.peek() in ("_", "^")
        if is_choice and (choice := self._choice(name)) is not None:
            return choice
        if name in ("e", "i") and self.peek() != "_":
            return Constant(name)
        return self._named(name)

    def _choice(self, name: str) -> Expression | None:
        """`C_5^2`: how to choose 2 of 5."""
        start, tokens = self.position, self.tokens
        scripts: dict[str, Expression] = {}
        try:
            for _ in range(2):
                if self.peek() not in ("_", "^") or self.peek() in scripts:
                    raise Unreadable("one script")
                script = self.take().text
                scripts[script] = self.argument_or_number()
            n, k = scripts["_"], scripts["^"]
            if isinstance(n, Number) and isinstance(k, Number):
                is_choice = n.value.denominator == k.value.denominator == 1 and 0 <= k.value <= n.value
                if is_choice and n.value > 1:
                    return (binomial if name == "C" else permutations)(n, k)
        except Unreadable:
            pass
        self.position, self.tokens = start, tokens
        return None

    def _named(self, name: str) -> Expression:
        """A symbol with its index and its primes, or a function of that name where an argument follows."""
        if self.peek() == "_":
            self.position += 1
            if self.kind() == "word" and len(self.peek()) == 2 and not self.tokens[self.position].is_upright:
                self._split_word()  # x_nt is x_n t
            tokens = self.bracketed() if self.peek() == "{" else [self.take()]
            if not tokens:
                raise Unreadable("an empty index")
            index = normal_text([dataclasses.replace(token, is_spaced=False) for token in tokens])
            name += "_" + index.replace(" ", "")
        while self.peek() == "'" or (self.peek() == "^" and self._is_prime()):
            self.position += 1 if self.peek() == "'" else self._is_prime()
            name += "'"
        is_function = name.rstrip("'") in ("f", "g", "h", "F", "G") or (
            self.kind(1) in ("number", "letter") and self.peek(2) == ")"
        )
        if is_function and self.peek() == "(":  # x(t), I(0): a product would be written without brackets
            return Call(name, tuple(self._arguments(self.bracketed())))
        return Symbol(name)

    def _is_prime(self) -> int:
        texts = [self.peek(ahead) for ahead in range(1, 4)]
        return 2 if texts[0] == r"\prime" else 4 if texts == ["{", r"\prime", "}"] else 0

    def _arguments(self, tokens: list[Token]) -> list[Expression]:
        parts: list[list[Token]] = [[]]
        depth = 0
        for token in tokens:
            depth += (token.text in _CLOSING) - (token.text in _CLOSING.values())
            if token.text == "," and depth == 0:
                parts.append([])
            else:
                parts[-1].append(token)
        return [self.sub(part) for part in parts]

    def _word(self) -> Expression:
        token = self.tokens[self.position]
        name = token.text
        if name in _FUNCTIONS:
            self.position += 1
            return self._function(name)
        if name in _GREEK or name in ("pi", "infinity", "inf", "infty"):
            self.position += 1
            constant = {"pi": "pi"}.get(name, "infinity")
            return self._named(f"\\{name}") if name in _GREEK else Constant(constant)
        if len(name) == 1:
            self.position += 1
            return self._named(name)
        if len(name) > 3 and not token.is_upright:
            raise Unreadable("a word in a formula")
        if token.is_upright and (len(name) > 3 or looks_like_word(name, 3)):
            self.position += 1
            return self._named(name.lower())
        self._split_word()
        return self._letter()

    def _split_word(self) -> None:
        """Letters that are a product, one by one."""
        token = self.tokens[self.position]
        letters = [
            Token("letter", letter, token.is_spaced and not index) for index, letter in enumerate(token.text)
        ]
        self.tokens = [*self.tokens[: self.position], *letters, *self.tokens[self.position + 1 :]]

    # --- commands and functions

    def _command(self) -> Expression:
        text = self.take().text
        name = text[1:]
        if name == "frac":
            if (derivative := self._derivative()) is not None:
                return derivative
            return divide(self.argument(), self.argument())
        if name == "binom":
            return binomial(self.argument(), self.argument())
        if name in _FUNCTIONS:
            return self._function(name)
        if name == "pi":
            return Constant("pi")
        if name == "infty":
            return Constant("infinity")
        if name in _GREEK:
            return self._named(text)
        if text in _DECORATIONS:
            tokens = self.bracketed() if self.peek() == "{" else [self.take()]
            return self._named(f"{text}({normal_text(tokens)})")
        if text in (r"\lfloor", r"\lceil"):
            self.position -= 1
            return Call("floor" if text == r"\lfloor" else "ceil", (self.sub(self.bracketed()),))
        if name in ("sum", "prod"):
            return self._series(name)
        raise Unreadable(f"{text} is not read")

    def _derivative(self) -> Symbol | None:
        r"""`\frac{dy}{dx}` is one name."""
        if self.peek() != "{":
            return None
        end = closing(self.tokens, self.position)
        if end + 1 >= len(self.tokens) or self.tokens[end + 1].text != "{":
            return None
        last = closing(self.tokens, end + 1)
        over = flat(self.tokens[self.position + 1 : end]).replace(" ", "")
        under = flat(self.tokens[end + 2 : last]).replace(" ", "")
        if not re.fullmatch(r"d(?:\^\{?\d\}?)?\\?\w*", over) or not re.fullmatch(
            r"d\\?\w+(?:\^\{?\d\}?)?", under
        ):
            return None
        self.position = last + 1
        return Symbol(f"{over}/{under}")

    def _series(self, name: str) -> Expression:
        low: list[Token] = []
        high: list[Token] = []
        for _ in range(2):
            script = self.take().text
            tokens = self.bracketed() if self.peek() == "{" else [self.take()]
            if script == "_":
                low = tokens
            elif script == "^":
                high = tokens
            else:
                raise Unreadable("a sum without bounds")
        if len(low) < 3 or low[0].kind != "letter" or low[1].text != "=" or not high:
            raise Unreadable("a sum without an index")
        index = Symbol(low[0].text)
        first, last = self.sub(low[2:]), self.sub(high)
        # The index gets a name that no letter has: one index is as good as another, and `i` is none of the constants.
        texts = {token.text for token in self.tokens[self.position :]}
        bound = "#"
        while bound in texts:
            bound += "#"
        rest = [
            dataclasses.replace(token, text=bound)
            if token.kind == "letter" and token.text == index.name
            else token
            for token in self.tokens[self.position :]
        ]
        self.tokens = [*self.tokens[: self.position], *rest]
        body, index = self.product(), Symbol(bound)
        return Call(name, (body, index, first, last))

    def _function(self, name: str) -> Expression:
        if name in ("sqrt", "cbrt"):
            return self._root(3 if name == "cbrt" else 2)
        name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
        base = integer(int(name[3:])) if name in ("log2", "log10") else None
        if name == "log" and self.peek() == "_":
            self.position += 1
            base = self.argument_or_number()
        elif name == "log" and self.peek() in ("2", "10") and self.peek(1) == "(":
            base = self._plain_number()
        exponent: Expression | None = None
        if self.peek() == "^":
            self.position += 1
            exponent = self.sub(self.bracketed()) if self.peek() == "{" else self.argument()
        arguments = self._function_arguments()
        if name == "exp":
            result = power(Constant("e"), arguments[0])
        elif name == "binom":
            if len(arguments) != 2:
                raise Unreadable("a binomial of other than two numbers")
            return binomial(*arguments)
        elif base is not None:
            is_ten = isinstance(base, Number) and base.value == 10
            result = Call("log", (arguments[0],)) if is_ten else Call("log_base", (arguments[0], base))
            if isinstance(base, Constant) and base.name == "e":
                result = Call("ln", (arguments[0],))
        elif exponent == MINUS_ONE and name in _INVERTIBLE:
            return Call(f"arc{name}", tuple(arguments))
        else:
            result = Call(name, tuple(arguments))
        is_of_many = name in ("max", "min", "gcd", "lcm")
        if (len(arguments) > 1) != is_of_many:
            raise Unreadable("a function of too many or too few arguments")
        return power(result, exponent) if exponent is not None else result

    def _function_arguments(self) -> list[Expression]:
        self._depth += 1  # \sin\sin\sin x nests without a bracket
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deep")
        arguments = self._bare_or_bracketed()
        self._depth -= 1
        return arguments

    def _bare_or_bracketed(self) -> list[Expression]:
        if self.peek() in ("(", "{", "["):
            return self._arguments(self.bracketed())
        if self.peek() == "|":
            return [self._absolute()]
        sign = 1
        if self.peek() in ("-", "+"):
            sign = -1 if self.take().text == "-" else 1
        factors = [self.power()]
        while self.position < len(self.tokens) and self._continues_argument(factors[-1]):
            factors.append(self.power())
        if self.peek() == "/" or (self.peek() == "(" and isinstance(factors[-1], Number)):
            raise Unreadable("a function whose argument may end here or later")
        argument = multiply(factors)
        return [negate(argument) if sign < 0 else argument]

    def _continues_argument(self, before: Expression) -> bool:
        token = self.tokens[self.position]
        is_function = token.text.removeprefix("\\") in _FUNCTIONS and token.text != r"\sqrt"
        is_bracket = token.text in ("(", "[", "|", "{")
        return self._begins_factor(before) and not is_function and not is_bracket

    def _root(self, index: int) -> Expression:
        degree: Expression = integer(index)
        if self.peek() == "[":
            degree = self.sub(self.bracketed())
        if self.peek() in ("{", "("):
            radicand = self.sub(self.bracketed())
        elif self.kind() == "number":
            radicand = self._plain_number()
        else:
            radicand = self.argument()
        return power(radicand, divide(integer(1), degree))


def number(text: str) -> Number:
    """1234, 1,234.5, 4.5e33."""
    digits = text.replace(",", "")
    mantissa, _, exponent = digits.lower().partition("e")
    if exponent and abs(int(exponent)) > 9_000 or len(mantissa) > 4_000:
        raise TooLarge("a number of too many digits")
    return Number(Fraction(digits), "." in mantissa)


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

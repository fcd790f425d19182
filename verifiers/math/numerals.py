r"""Numerals: groups of digits, mixed numbers, repeating decimals, e-notation."""

from __future__ import annotations

from fractions import Fraction

from verifiers.math.expression import Expression, Number, TooLarge
from verifiers.math.grammar import Grammar, Unreadable

ORDINALS = {"th", "st", "nd", "rd"}


def number(text: str) -> Number:
    """1234, 1,234.5, 4.5e33."""
    digits = text.replace(",", "")
    mantissa, _, exponent = digits.lower().partition("e")
    if exponent and abs(int(exponent)) > 9_000 or len(mantissa) > 4_000:
        raise TooLarge("a number of too many digits")
    return Number(Fraction(digits), "." in mantissa)


def plain_number(grammar: Grammar) -> Number:
    """The next token, as it is written."""
    return number(grammar.take().text)


def argument_or_number(grammar: Grammar) -> Expression:
    """Of a script: `_12` has both digits."""
    return plain_number(grammar) if grammar.kind() == "number" else grammar.argument()


def read_number(grammar: Grammar) -> Expression:
    token = grammar.take()
    text = token.text
    if grammar.peek() == "." and grammar.peek(1) in (r"\overline", r"\dot") and text.isdigit():
        grammar.position += 1
        return _repeating(grammar, text, "")
    if (
        "." in text
        and grammar.peek() in (r"\overline", r"\dot")
        and not grammar.tokens[grammar.position].is_spaced
    ):
        whole, _, first = text.partition(".")
        return _repeating(grammar, whole or "0", first)
    if (repeated := _in_parentheses(grammar, text)) is not None:
        return repeated
    if text.isdigit() and len(text) <= 3 and text[0] != "0":
        while grammar.kind() == "number" and _is_group_of_digits(grammar):
            text += grammar.take().text
    value = number(text)
    is_whole = text.isdigit()
    if grammar.kind() == "number":
        is_mixed = grammar.peek(1) == "/" and grammar.kind(2) == "number"
        if not (is_whole and is_mixed and grammar.tokens[grammar.position].is_spaced):
            raise Unreadable("numbers side by side")
        return _mixed(value, plain_number(grammar), _after_slash(grammar))
    if is_whole and grammar.peek() == r"\frac":
        start = grammar.position
        grammar.position += 1
        numerator, denominator = grammar.argument(), grammar.argument()
        if isinstance(numerator, Number) and isinstance(denominator, Number):
            return _mixed(value, numerator, denominator)
        grammar.position = start
    if grammar.peek() in ("'", "_"):
        raise Unreadable("a number with a script")
    if (
        grammar.kind() == "word"
        and grammar.peek() in ORDINALS
        and not grammar.tokens[grammar.position].is_spaced
    ):
        grammar.position += 1
    return value


def _in_parentheses(grammar: Grammar, text: str) -> Expression | None:
    """`0.(27)`, `0.1(6)`: a product of a decimal would have a sign."""
    has_point = grammar.peek() == "." and text.isdigit()
    ahead = 1 if has_point else 0
    texts = [grammar.peek(ahead), grammar.peek(ahead + 1), grammar.peek(ahead + 2)]
    is_repeating = texts[0] == "(" and texts[1].isdigit() and texts[2] == ")" and (has_point or "." in text)
    if not is_repeating or grammar.tokens[grammar.position].is_spaced:
        return None
    whole, _, first = text.partition(".")
    grammar.position += ahead + 3
    return _repeated(whole or "0", first, texts[1])


def _after_slash(grammar: Grammar) -> Number:
    grammar.position += 1
    return plain_number(grammar)


def _is_group_of_digits(grammar: Grammar) -> bool:
    token = grammar.tokens[grammar.position]
    digits = token.text.partition(".")[0]
    return token.is_spaced and len(digits) == 3 and digits.isdigit() and grammar.peek(1) != "/"


def _mixed(whole: Number, numerator: Number, denominator: Number) -> Expression:
    parts = (numerator.value, denominator.value)
    if not (0 < parts[0] < parts[1]) or any(part.denominator != 1 for part in parts) or numerator.is_rounded:
        raise Unreadable("a number beside a fraction")
    return Number(whole.value + parts[0] / parts[1])


def _repeating(grammar: Grammar, whole: str, first: str) -> Expression:
    r"""`0.1\overline{6}`, `0.\dot{2}\dot{7}`, `0.\dot{1}2\dot{3}`."""
    if grammar.take().text == r"\overline":
        repeated = _digits(grammar)
    else:
        repeated = _digits(grammar)
        if grammar.kind() == "number":
            repeated += grammar.take().text
            if grammar.peek() != r"\dot":
                raise Unreadable("digits behind a dot")
        if grammar.peek() == r"\dot":
            grammar.position += 1
            repeated += _digits(grammar)
    return _repeated(whole, first, repeated)


def _repeated(whole: str, first: str, repeated: str) -> Expression:
    if not (repeated.isdigit() and whole.isdigit()) or len(whole + first + repeated) > 100:
        raise Unreadable("a repeating decimal")
    numerator = int(whole + first + repeated) - int(whole + first)
    return Number(Fraction(numerator, 10 ** len(first) * (10 ** len(repeated) - 1)))


def _digits(grammar: Grammar) -> str:
    tokens = grammar.bracketed() if grammar.peek() == "{" else [grammar.take()]
    if len(tokens) != 1 or not tokens[0].text.isdigit():
        raise Unreadable("a repeating decimal")
    return tokens[0].text

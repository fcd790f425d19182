r"""Functions, roots, sums and derivatives in a formula."""

from __future__ import annotations

import dataclasses
import re

from verifiers.math.expression import (
    MINUS_ONE,
    Call,
    Constant,
    Expression,
    Number,
    Symbol,
    binomial,
    divide,
    integer,
    multiply,
    negate,
    power,
)
from verifiers.math.grammar import MAX_DEPTH, Grammar, Unreadable, closing
from verifiers.math.numerals import argument_or_number, plain_number
from verifiers.math.signs import words
from verifiers.math.tokens import Token, flat

FUNCTIONS = {
    *words("sin cos tan cot sec csc sinh cosh tanh ln log exp arcsin arccos arctan arccot max min gcd lcm"),
    *words("arcsec arccsc asin acos atan sqrt cbrt abs floor ceil binom log2 log10"),
}
_INVERTIBLE = {"sin", "cos", "tan", "cot", "sec", "csc"}


def read_derivative(grammar: Grammar) -> Symbol | None:
    r"""`\frac{dy}{dx}` is one name."""
    if grammar.peek() != "{":
        return None
    end = closing(grammar.tokens, grammar.position)
    if end + 1 >= len(grammar.tokens) or grammar.tokens[end + 1].text != "{":
        return None
    last = closing(grammar.tokens, end + 1)
    over = flat(grammar.tokens[grammar.position + 1 : end]).replace(" ", "")
    under = flat(grammar.tokens[end + 2 : last]).replace(" ", "")
    if not re.fullmatch(r"d(?:\^\{?\d\}?)?\\?\w*", over) or not re.fullmatch(
        r"d\\?\w+(?:\^\{?\d\}?)?", under
    ):
        return None
    grammar.position = last + 1
    return Symbol(f"{over}/{under}")


def read_series(grammar: Grammar, name: str) -> Expression:
    low: list[Token] = []
    high: list[Token] = []
    for _ in range(2):
        script = grammar.take().text
        tokens = grammar.bracketed() if grammar.peek() == "{" else [grammar.take()]
        if script == "_":
            low = tokens
        elif script == "^":
            high = tokens
        else:
            raise Unreadable("a sum without bounds")
    if len(low) < 3 or low[0].kind != "letter" or low[1].text != "=" or not high:
        raise Unreadable("a sum without an index")
    index = Symbol(low[0].text)
    first, last = grammar.sub(low[2:]), grammar.sub(high)
    # The index gets a name that no letter has: one index is as good as another, and `i` is none of the constants.
    texts = {token.text for token in grammar.tokens[grammar.position :]}
    bound = "#"
    while bound in texts:
        bound += "#"
    rest = [
        dataclasses.replace(token, text=bound)
        if token.kind == "letter" and token.text == index.name
        else token
        for token in grammar.tokens[grammar.position :]
    ]
    grammar.tokens = [*grammar.tokens[: grammar.position], *rest]
    body, index = grammar.product(), Symbol(bound)
    return Call(name, (body, index, first, last))


def read_function(grammar: Grammar, name: str) -> Expression:
    if name in ("sqrt", "cbrt"):
        return _root(grammar, 3 if name == "cbrt" else 2)
    name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
    base: Expression | None = integer(int(name[3:])) if name in ("log2", "log10") else None
    if name == "log" and grammar.peek() == "_":
        grammar.position += 1
        base = argument_or_number(grammar)
    elif name == "log" and grammar.peek() in ("2", "10") and grammar.peek(1) == "(":
        base = plain_number(grammar)
    exponent: Expression | None = None
    if grammar.peek() == "^":
        grammar.position += 1
        exponent = grammar.sub(grammar.bracketed()) if grammar.peek() == "{" else grammar.argument()
    arguments = _function_arguments(grammar)
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


def _function_arguments(grammar: Grammar) -> list[Expression]:
    grammar.depth += 1  # \sin\sin\sin x nests without a bracket
    if grammar.depth > MAX_DEPTH:
        raise Unreadable("nested too deep")
    arguments = _bare_or_bracketed(grammar)
    grammar.depth -= 1
    return arguments


def _bare_or_bracketed(grammar: Grammar) -> list[Expression]:
    if grammar.peek() in ("(", "{", "["):
        return grammar.arguments(grammar.bracketed())
    if grammar.peek() == "|":
        return [grammar.absolute()]
    sign = 1
    if grammar.peek() in ("-", "+"):
        sign = -1 if grammar.take().text == "-" else 1
    factors = [grammar.power()]
    while grammar.position < len(grammar.tokens) and _continues_argument(grammar, factors[-1]):
        factors.append(grammar.power())
    if grammar.peek() == "/" or (grammar.peek() == "(" and isinstance(factors[-1], Number)):
        raise Unreadable("a function whose argument may end here or later")
    argument = multiply(factors)
    return [negate(argument) if sign < 0 else argument]


def _continues_argument(grammar: Grammar, before: Expression) -> bool:
    token = grammar.tokens[grammar.position]
    is_function = token.text.removeprefix("\\") in FUNCTIONS and token.text != r"\sqrt"
    is_bracket = token.text in ("(", "[", "|", "{")
    return grammar.begins_factor(before) and not is_function and not is_bracket


def _root(grammar: Grammar, index: int) -> Expression:
    degree: Expression = integer(index)
    if grammar.peek() == "[":
        degree = grammar.sub(grammar.bracketed())
    if grammar.peek() in ("{", "("):
        radicand = grammar.sub(grammar.bracketed())
    elif grammar.kind() == "number":
        radicand = plain_number(grammar)
    else:
        radicand = grammar.argument()
    return power(radicand, divide(integer(1), degree))

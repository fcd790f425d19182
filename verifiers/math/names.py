r"""Letters and what hangs on them: indices, primes, `C_5^2`, `f(x)`."""

from __future__ import annotations

import dataclasses

from verifiers.math.expression import (
    Application,
    Constant,
    Expression,
    Number,
    Symbol,
    binomial,
    integer,
    permutations,
)
from verifiers.math.grammar import Grammar, Unreadable
from verifiers.math.numerals import argument_or_number
from verifiers.math.tokens import normal_text


def read_letter(grammar: Grammar) -> Expression:
    name = grammar.take().text
    is_choice = name in ("C", "P", "A") and grammar.peek() in ("_", "^")
    if is_choice and (choice := _choice(grammar, name)) is not None:
        return choice
    if name == "C" and grammar.peek() == "(" and (choice := _choice_in_brackets(grammar)) is not None:
        return choice
    if name in ("e", "i") and grammar.peek() != "_":
        return Constant(name)
    return read_name(grammar, name)


def _choice(grammar: Grammar, name: str) -> Expression | None:
    """`C_5^2`: how to choose 2 of 5."""
    start, tokens = grammar.position, grammar.tokens
    scripts: dict[str, Expression] = {}
    try:
        for _ in range(2):
            if grammar.peek() not in ("_", "^") or grammar.peek() in scripts:
                raise Unreadable("one script")
            script = grammar.take().text
            scripts[script] = argument_or_number(grammar)
        n, k = scripts["_"], scripts["^"]
        if isinstance(n, Number) and isinstance(k, Number):
            is_choice = n.value.denominator == k.value.denominator == 1 and 0 <= k.value <= n.value
            if is_choice and n.value > 1:
                return (binomial if name == "C" else permutations)(n, k)
    except Unreadable:
        pass
    grammar.position, grammar.tokens = start, tokens
    return None


def _choice_in_brackets(grammar: Grammar) -> Expression | None:
    """`C(5,2)`."""
    texts = [grammar.peek(ahead) for ahead in range(5)]
    if texts[2] != "," or texts[4] != ")" or not (texts[1].isdigit() and texts[3].isdigit()):
        return None
    n, k = integer(int(texts[1])), integer(int(texts[3]))
    if not 0 <= k.value <= n.value:
        return None
    grammar.position += 5
    return binomial(n, k)


def read_name(grammar: Grammar, name: str) -> Expression:
    """A symbol with its index and its primes, or a function of that name where an argument follows."""
    if grammar.peek() == "_":
        grammar.position += 1
        if (
            grammar.kind() == "word"
            and len(grammar.peek()) == 2
            and not grammar.tokens[grammar.position].is_upright
        ):
            grammar.split_word()  # x_nt is x_n t
        tokens = grammar.bracketed() if grammar.peek() == "{" else [grammar.take()]
        if not tokens:
            raise Unreadable("an empty index")
        index = normal_text([dataclasses.replace(token, is_spaced=False) for token in tokens])
        name += "_" + index.replace(" ", "").replace("\\", "")  # T_{\max} is T_{max}
    while grammar.peek() == "'" or (grammar.peek() == "^" and _is_prime(grammar)):
        grammar.position += 1 if grammar.peek() == "'" else _is_prime(grammar)
        name += "'"
    is_function = name.rstrip("'") in ("f", "g", "h", "F", "G") or (
        grammar.kind(1) in ("number", "letter") and grammar.peek(2) == ")"
    )
    if is_function and grammar.peek() == "(":  # x(t), I(0): a product would be written without brackets
        return Application(name, tuple(grammar.arguments(grammar.bracketed())))
    return Symbol(name)


def _is_prime(grammar: Grammar) -> int:
    texts = [grammar.peek(ahead) for ahead in range(1, 4)]
    return 2 if texts[0] == r"\prime" else 4 if texts == ["{", r"\prime", "}"] else 0


def read_prefixed_choice(grammar: Grammar) -> Expression:
    r"""`{}^5C_2`, `{}_5C_2`, `^5P_2`."""
    if grammar.peek() not in ("^", "_"):
        raise Unreadable("an empty group")
    grammar.position += 1
    n = argument_or_number(grammar)
    name = grammar.take().text
    if name not in ("C", "P") or grammar.peek() != "_":
        raise Unreadable("a script without a base")
    grammar.position += 1
    k = argument_or_number(grammar)
    return (binomial if name == "C" else permutations)(n, k)

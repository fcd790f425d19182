r"""What a text answers: its tokens to one of `forms`. All of them go into it, or it is Words.

Forms in which value and spelling part ways have a grammar of their own here and in `quantities`, and are tried
before the text is read as a formula: times of day, labels, bases, amounts with units, lists, sets, chains.
"""

from __future__ import annotations

import re

from verifiers.math import real_sets
from verifiers.math.brackets import (
    MAX_MEMBERS,
    joined_sets,
    read_brackets,
    read_matrix,
    read_set,
    read_set_operation,
)
from verifiers.math.evaluation import Undefined
from verifiers.math.expression import Symbol, TooLarge, integer
from verifiers.math.families import without_parameter
from verifiers.math.forms import (
    Choice,
    FiniteSet,
    Form,
    Listing,
    Named,
    RealSet,
    Relation,
    Words,
)
from verifiers.math.grammar import Unreadable
from verifiers.math.notations import NUMBER_NAMES, read_base, read_named_ratio, read_ratio, read_time
from verifiers.math.quantities import read_amount, read_compound, read_dimensions
from verifiers.math.relations import RELATIONS, read_relation
from verifiers.math.splitting import is_enclosed, split, split_at
from verifiers.math.tokens import Token, Untokenizable, flat, normal_text, tokenize

_LEAD = re.compile(
    r"(?:(?:therefore|thus|hence|so|\\therefore),? ?)?"
    r"(?:(?:option|choice)(?= ?\(?[a-j]\b)|(?:the|our|my|final|correct|required|desired)? ?(?:final |correct )?"
    r"(?:answer|result|solution|value|total|probability|sum)s? ?(?:is|are|equals|was|:|=)[ :=]*"
    r"|(?:the|its) (?:[a-z]+ ){1,3}(?:is|are|equals) ?|(?:it|this|that|there) (?:is|are|equals) |is |equals )?"
    r"(?:approximately |about |roughly |around |exactly |equal to )?",
    re.IGNORECASE,
)
_ONE_PART = re.compile(
    r"(?:(?:one|a)[ -])?half|(?:one|a)[ -](?:third|quarter|fourth|fifth|sixth|eighth|tenth)", re.IGNORECASE
)
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_NEGATIVE = {"minus", "negative"}
_NUMBER_WORDS = {name: value for value, name in enumerate(NUMBER_NAMES)}
_LABEL = re.compile(r"[A-J]")
_EMPTY_SETS = {
    *("no solution", "no solutions", "no real solution", "no real solutions"),
    *("empty set", "the empty set", "null set"),
}
_ALL_REALS = {
    "all real numbers",
    "all reals",
    "every real number",
    "all real x",
    "real numbers",
    "the set of real numbers",
    "any real number",
    "all real numbers x",
}


def read(text: str) -> Form:
    """The answer that the text gives."""
    text = text.strip().strip("`").strip()
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        text = text[2:-2]
    try:
        return read_tokens(tokenize(text))
    except Untokenizable:
        return Words(" ".join(text.split()))


def read_tokens(tokens: list[Token]) -> Form:
    tokens = _without_ends(tokens)
    for recognize in (read_time, read_ratio, read_named_ratio, read_base, _read_choice, _read_list):
        try:
            form = recognize(tokens)
        except (Unreadable, TooLarge, Undefined, ValueError, ZeroDivisionError):
            continue
        if form is not None:
            return form
    return _as_words(tokens)


def _as_words(tokens: list[Token]) -> Words:
    """The case of letters counts in a formula only."""
    text = normal_text(tokens)
    is_prose = all(token.kind in ("word", "letter", "number") for token in tokens)
    return Words(text.lower() if is_prose else text)


def _without_ends(tokens: list[Token]) -> list[Token]:
    """Without the words that lead to the answer, and without the full stop."""
    while tokens and tokens[-1].text in (".", ",", ";", ":") and [t.text for t in tokens[-2:]] != [".", "."]:
        tokens = tokens[:-1]
    lead = _LEAD.match(flat(tokens))
    assert lead
    rest = len(flat(tokens)) - lead.end()
    while lead.end() and tokens and len(flat(tokens)) > rest:
        tokens = tokens[1:]
    while tokens and tokens[0].text in ("=", r"\approx", ":"):
        tokens = tokens[1:]
    if len(tokens) > 1 and tokens[0].kind == "word" and tokens[0].text.lower() in _NEGATIVE:
        tokens = [Token("mark", "-"), *tokens[1:]]
    while len(tokens) > 2 and is_enclosed(tokens, "{"):
        tokens = tokens[1:-1]
    if _ONE_PART.fullmatch(flat(tokens)):
        return [
            Token("number", text) if text != "/" else Token("mark", text)
            for text in ("1", "/", str(_PARTS[tokens[-1].text.lower()]))
        ]
    if tokens and tokens[0].text.lower() in _NUMBER_WORDS and all(token.kind == "word" for token in tokens):
        return [Token("number", str(_NUMBER_WORDS[tokens[0].text.lower()])), *tokens[1:]]
    return _without_cases(tokens)


def _without_cases(tokens: list[Token]) -> list[Token]:
    r"""The rows of `\begin{cases} x = 2 \\ y = 3 \end{cases}` as a list."""
    texts = [token.text for token in tokens]
    if texts[:2] == [r"\{", r"\begin:array"]:
        tokens, texts = tokens[1:], texts[1:]
    elif texts[:1] != [r"\begin:cases"]:
        return tokens
    if "&" in texts or texts[-1:] != [texts[0].replace("begin", "end")] or texts.count(texts[0]) != 1:
        return tokens
    rows: list[Token] = []
    for row in split_at(tokens[1:-1], (r"\\",)):
        row = row[:-1] if row and row[-1].text == "," else row
        rows += [*([Token("mark", ",")] if rows and row else []), *row]
    return rows


def _read_choice(tokens: list[Token]) -> Form | None:
    """`(D) 73`, `B. 14`. A label alone is a letter."""
    texts = [token.text for token in tokens]
    if texts[:1] == ["{"] and "}" in texts[2:5]:  # \mathbf{(B)} 14
        end = texts.index("}")
        tokens = [*tokens[1:end], *tokens[end + 1 :]]
        texts = [token.text for token in tokens]
    if texts[:1] == ["("] and texts[2:3] == [")"] and _LABEL.fullmatch(texts[1]):
        label, content = texts[1], tokens[4 if texts[3:4] == [":"] else 3 :]
        is_label = bool(content) and (
            content[0].is_spaced or tokens[0].is_upright or content[0].kind == "number"
        )
    elif _LABEL.fullmatch(texts[0] if texts else "") and texts[1:2] and texts[1] in (".", ")", ":"):
        label, content = texts[0], tokens[2:]
        if not content:
            return Symbol(label)  # D)
        is_label = content[0].is_spaced and not tokens[1].is_spaced
    else:
        return None
    return Choice(label, read_tokens(content)) if is_label and not _offers_another(content) else None


def _offers_another(tokens: list[Token]) -> bool:
    """Whether a second label stands in it: `(A) or (B)` chooses nothing."""
    texts = ["", *(token.text for token in tokens), ""]
    labels = [index for index, text in enumerate(texts) if _LABEL.fullmatch(text)]
    is_marked = any(
        (texts[index - 1], texts[index + 1]) == ("(", ")") or texts[index + 1] in (")", ".", ":")
        for index in labels
    )
    return is_marked or texts[1].lower() in ("or", "and", ",", "/") or (bool(labels) and len(tokens) == 1)


def _read_list(tokens: list[Token]) -> Form | None:
    """One answer, or several with commas, "and" or "or" between them."""
    if not tokens:
        return None
    if normal_text(tokens).lower() in _ALL_REALS:
        return RealSet(real_sets.REALS)
    if normal_text(tokens).lower() in _EMPTY_SETS:
        return FiniteSet(())
    if (numbers := _numbers_of_statements(tokens)) is not None:
        return numbers
    if (family := without_parameter(tokens)) is not None:
        members, joiners = _read_members_of(family[0])
        return Listing((*members, Words(family[1])), _meant_joiner(members, joiners))
    for whole in (read_compound, read_dimensions):
        if (form := whole(tokens)) is not None:
            return form
    members, joiners = _read_members_of(tokens)
    if len(members) == 1:
        return members[0]
    return joined_sets(members, joiners) or Listing(tuple(members), _meant_joiner(members, joiners))


def _read_members_of(tokens: list[Token]) -> tuple[list[Form], list[str]]:
    """The members of a list and what joins them."""
    parts, joiners = split(tokens)
    if len(parts) == 1:
        return read_members(tokens), []
    if len(parts) > MAX_MEMBERS or any(not part for part in parts):
        raise Unreadable("a list with a gap")
    return [
        member for part in _with_relation(parts) for member in read_members(_without_braces(part))
    ], joiners


def _with_relation(parts: list[list[Token]]) -> list[list[Token]]:
    r"""`x \neq 0, 1` with the beginning of the first for all."""
    texts = [{token.text for token in part} & set(RELATIONS) for part in parts]
    if texts[0] != {r"\neq"} or any(texts[1:]):
        return parts
    end = [token.text for token in parts[0]].index(r"\neq") + 1
    return [parts[0], *(parts[0][:end] + part for part in parts[1:])]


def _numbers_of_statements(tokens: list[Token]) -> Listing | None:
    """`(1)(3)`: which of several statements are true, and no product."""
    texts = [token.text for token in tokens]
    digits = texts[1::3]
    is_row = len(texts) > 3 and len(texts) % 3 == 0 and all(len(one) == 1 and one.isdigit() for one in digits)
    if not is_row or texts != [part for digit in digits for part in ("(", digit, ")")]:
        return None
    return Listing(tuple(integer(int(digit)) for digit in digits))


def _meant_joiner(members: list[Form], joiners: list[str]) -> str:
    """What joins words, letters, inequalities and values of several names."""
    names = {member.name for member in members if isinstance(member, Named)}
    has_statements = len(names) > 1 or any(
        isinstance(member, Words | Symbol | RealSet | Relation) for member in members
    )
    return next((joiner for joiner in joiners if has_statements and joiner != ","), "")


def _without_braces(tokens: list[Token]) -> list[Token]:
    """`x = 1 or x = 2` may be written with braces around each."""
    return tokens[1:-1] if len(tokens) > 2 and is_enclosed(tokens, "{") else tokens


def read_members(tokens: list[Token]) -> list[Form]:
    r"""One member, or both that `\pm` stands for."""
    if any(token.text in (r"\pm", r"\mp") for token in tokens):
        return [read_member(tokens, 1), read_member(tokens, -1)]
    return [read_member(tokens, 1)]


def read_member(tokens: list[Token], sign: int) -> Form:
    """What stands between two commas. Unreadable where no form fits but words, which then are the whole text."""
    if not tokens:
        raise Unreadable("nothing")
    if (relation := read_relation(tokens, sign, read_member)) is not None:
        return relation
    for recognize in (read_set_operation, read_set, read_matrix, read_brackets):
        if (form := recognize(tokens, sign, read_member)) is not None:
            return form
    if all(token.kind == "word" for token in tokens) and not _is_formula_word(tokens):
        return _as_words(tokens)
    return read_amount(tokens, sign)


def _is_formula_word(tokens: list[Token]) -> bool:
    """Of a single word: `ab` is a product, `AB` and `north` are texts."""
    text = tokens[0].text
    if text.lower() in ("yes", "no", "odd", "all", "one", "two", "ten", "six"):
        return False
    if len(tokens) > 1 or text in ("pi", "infinity", "inf", "e"):
        return len(tokens) == 1
    is_text = text.isupper() or text.istitle() or tokens[0].is_upright
    return len(text) == 1 or (len(text) < 4 and not is_text)

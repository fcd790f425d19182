"""Which part of a text each token is."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from cluster.view.token_texts import TokenTexts, find_tokenizer
from tests.shared.viewed_runs import write_tokenizer


def byte_level(path):
    """A tokenizer of single bytes, so that a letter beyond ASCII is several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))
    return tokenizer


def test_pieces_join_to_the_text_and_a_character_stands_at_its_last_token(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = byte_level(path)
    ids = tokenizer.encode("a 🔥é\nb").ids
    texts = TokenTexts(path)
    pieces = texts.pieces(ids)
    assert len(pieces) == len(ids) == 10
    assert "".join(pieces) == texts.text(ids) == "a 🔥é\nb"
    assert pieces == ["a", " ", "", "", "", "🔥", "", "é", "\n", "b"]


def test_bytes_that_are_no_character_do_not_stop_the_rest(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = byte_level(path)
    half = tokenizer.encode("é").ids[0]
    ids = [half] * 7 + tokenizer.encode("ok").ids
    pieces = TokenTexts(path).pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces).endswith("ok")


def test_a_run_without_a_tokenizer_says_so(tmp_path):
    texts = TokenTexts(find_tokenizer(tmp_path, "some/hub-id"))
    assert texts.pieces([1]) is None and texts.text([1]) is None
    assert texts.reason == "there is no tokenizer.json in the run's checkpoints or its model's directory"


def test_a_damaged_tokenizer_is_named(tmp_path):
    write_tokenizer(tmp_path, ["a", "b"])
    path = find_tokenizer(tmp_path, "")
    path.write_text("{")
    texts = TokenTexts(path)
    assert texts.pieces([1]) is None and str(path) in texts.reason

"""Embedders: hashed n-grams, and a real sentence encoder with a random model built on the spot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.errors import UserError
from temper.models.embeddings import HashedNgrams, SentenceEmbedder


def test_ngrams_compare_wording() -> None:
    e = HashedNgrams()(["6-0=6 6-2=4", " 6-0=6  6-2=4 ", "COUNT backward", "count backward", ""])
    cosine = e @ e.T
    assert cosine.diagonal().tolist() == pytest.approx([1, 1, 1, 1, 0])
    assert float(cosine[0, 1]) == pytest.approx(1) and float(cosine[2, 3]) == pytest.approx(1)
    assert abs(float(cosine[0, 2])) < 0.2
    assert e.shape == (5, 2048) and HashedNgrams()([]).shape == (0, 2048)


def test_ngrams_are_the_same_on_every_machine() -> None:
    e = HashedNgrams(8, (1,))(["aab"])
    assert e[0].tolist() == pytest.approx([0, -1 / 5**0.5, 0, 2 / 5**0.5, 0, 0, 0, 0])  # CRC-32: b → 1, −; a → 3, +


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'temper-rl\[embeddings\]'"):
        SentenceEmbedder("any")(["text"])


def test_windows_leave_nothing_out() -> None:
    text = " ".join(str(n) for n in range(10))
    assert SentenceEmbedder("any", window=4).windows(text) == ["0 1 2 3", "4 5 6 7", "8 9"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT of one layer with mean pooling, in sentence-transformers' layout."""
    st = pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *"0123456789"]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"##{w}" for w in words[5:])]))
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=2 * len(words), **sizes)).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    place = str(folder / "sentence")
    st.SentenceTransformer(str(folder), device="cpu").save(place)  # a bare encoder gets mean pooling
    return place


def test_a_sentence_encoder(encoder: str) -> None:
    embed = SentenceEmbedder(encoder, window=4)
    e = embed(["one two", "ONE  two", "nine 9 nine 9 nine 9 nine 9", ""])
    assert e.dtype == torch.float32 and e.shape == (4, 16)
    assert e.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 0], abs=1e-5)
    assert float(e[0] @ e[1]) == pytest.approx(1, abs=1e-5) and float(e[0] @ e[2]) < 0.9999
    first, second = embed(["nine 9 nine 9", "x"]), embed(["nine 9 nine 9 x"])
    mean = first.sum(0) / first.sum(0).norm()
    assert torch.allclose(second[0], mean, atol=1e-5)  # two windows, both counted
    assert embed(["", ""]).shape[0] == 2 and len(embed([])) == 0


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(UserError, match="no sentence model could be loaded"):
        SentenceEmbedder(str(tmp_path / "nothing"))(["text"])

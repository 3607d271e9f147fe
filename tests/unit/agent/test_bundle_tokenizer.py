from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from mobifarm.agent.editor.manifest import TokenizerInfo
from mobifarm.agent.editor.tokenizer import Tokenizer
from mobifarm.agent.errors import BundleError, InputError

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1).filter(str.strip)


def make_tokenizer(folder: Path, *, merges: list[tuple[str, str]], prepend_bos: bool = False) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*letters, *("".join(m) for m in merges)])}
    raw = RawTokenizer(models.BPE(vocabulary, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json", TokenizerInfo("tokenizer.json", 0, None, prepend_bos))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_tokenizer(tmp_path_factory.mktemp("t"), merges=[("i", "s"), ("i", "n")])


@given(prompt=words, answer=words)
def test_prompt_and_answer_are_the_text(tokenizer: Tokenizer, prompt: str, answer: str) -> None:
    prompt_ids, answer_ids = tokenizer.tokenize_prompt_and_answer(prompt, answer)
    assert prompt_ids == tokenizer.tokenize(prompt.rstrip())
    assert tokenizer.decode(prompt_ids + answer_ids) == f"{prompt.rstrip()} {answer.strip()}"


@given(before=st.text(), subject=words, after=st.text())
def test_the_subject_ends_at_its_token(tokenizer: Tokenizer, before: str, subject: str, after: str) -> None:
    before, subject, after = (t.encode(errors="ignore").decode() for t in (before, subject, after))
    subject = subject.strip()
    prompt = f"{before} {subject} {after}."
    index = tokenizer.subject_last_index(prompt, subject)
    ends = [m.end() for m in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)]
    end = ends[-1] if ends else prompt.rfind(subject) + len(subject)
    assert len(tokenizer.decode(tokenizer.tokenize(prompt)[: index + 1])) >= end
    assert len(tokenizer.decode(tokenizer.tokenize(prompt)[:index])) <= end


def test_a_token_that_straddles_the_border_keeps_the_prompt_as_it_is(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, merges=[("Ġ", "P"), ("s", "ĠP")])
    prompt_ids, answer_ids = tokenizer.tokenize_prompt_and_answer("is", "P")
    assert prompt_ids == tokenizer.tokenize("is")
    assert tokenizer.decode(answer_ids) == " P"


def test_bos_comes_first_and_counts(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, merges=[], prepend_bos=True)
    assert tokenizer.tokenize("ab")[0] == 0
    assert len(tokenizer.tokenize("ab")) == 3
    assert tokenizer.subject_last_index("ab c", "ab") == 2
    prompt_ids, answer_ids = tokenizer.tokenize_prompt_and_answer("ab", "c")
    assert (prompt_ids[0], len(prompt_ids), len(answer_ids)) == (0, 3, 2)


def test_the_last_occurrence_counts(tokenizer: Tokenizer) -> None:
    assert tokenizer.subject_last_index("aa b aa", "aa") == 6


def test_a_part_of_another_word_is_not_the_subject(tokenizer: Tokenizer) -> None:
    assert tokenizer.subject_last_index("Ann, sister of Annabel,", "Ann") == 2
    assert tokenizer.subject_last_index("Joann knows Ann's dog", "Ann") == 14


def test_without_word_borders_the_last_occurrence_counts(tokenizer: Tokenizer) -> None:
    assert tokenizer.subject_last_index("aab caad", "aa") == 6


@pytest.mark.parametrize(("prompt", "answer"), [("", "x"), ("  ", "x"), ("x", ""), ("x", " \t")])
def test_empty_texts_are_refused(tokenizer: Tokenizer, prompt: str, answer: str) -> None:
    with pytest.raises(InputError, match="gives no token"):
        tokenizer.tokenize_prompt_and_answer(prompt, answer)


@pytest.mark.parametrize("subject", ["", " ", "Paris"])
def test_subject_not_in_prompt(tokenizer: Tokenizer, subject: str) -> None:
    with pytest.raises(InputError, match="does not occur"):
        tokenizer.subject_last_index("Rome is", subject)


def test_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(BundleError, match="cannot be read as a tokenizer"):
        Tokenizer(tmp_path / "t.json", TokenizerInfo("t.json", None, None, False))

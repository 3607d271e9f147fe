"""Text that a model writes on its own, and whether it is the answer that was wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobifarm.workloads.metrics.language_model import LanguageModel

# More than the answer itself: other tokens may spell it, and what follows shows whether it ended there.
_TOKENS_BEYOND_ANSWER = 2
_STOP = re.compile(r"\s*[.,;:!?)\]\"”’\n]|\s*\n")
_WORD = re.compile(r"[\w-]")
_NUMBER = re.compile(r"[.,]\d")
_OPENING = " \t\"“'‘"


@dataclass(frozen=True, slots=True)
class Generated:
    """A free greedy continuation compared with a wanted answer.

    Attributes:
        begins: the text begins with the answer, and the answer's last word ends there.
        exact: the answer is the whole text up to a natural stop: a punctuation mark, a line's end or eos.
    """

    begins: bool
    exact: bool


def compare(text: str, answer: str, ended: bool) -> Generated:
    """Compare a generated text with an answer; case and white space do not count. Pure.

    Args:
        text: what the model wrote.
        answer: what it should have written.
        ended: the model wrote eos after the text.
    """
    written = text.lstrip(_OPENING).casefold()
    wanted = (answer.strip().lstrip(_OPENING) or answer.strip()).casefold()
    pattern = r"[^\S\n]+".join(re.escape(word) for word in wanted.split())
    match = re.match(pattern, written)
    if match is None:
        return Generated(False, False)
    rest = written[match.end() :]
    if _WORD.match(rest) or (wanted[-1:].isdigit() and _NUMBER.match(rest)):
        return Generated(False, False)
    return Generated(True, bool(_STOP.match(rest)) or (ended and not rest.strip()))


def answers_generated(model: LanguageModel, asked: Sequence[tuple[str, str]]) -> list[Generated]:
    """Let the model continue every prompt greedily and compare with the answer.

    Args:
        model: the model.
        asked: prompt and wanted answer.

    Raises:
        InputError: a prompt or an answer gives no token.
    """
    tokens = [model.texts.tokenize_prompt_and_answer(prompt, answer) for prompt, answer in asked]
    found = greedy(
        model,
        [prompt for prompt, _ in tokens],
        [len(answer) + _TOKENS_BEYOND_ANSWER for _, answer in tokens],
    )
    compared = []
    for ids, (_, answer) in zip(found, asked, strict=True):
        ended = bool(ids) and ids[-1] == model.eos_id
        compared.append(compare(model.decode(ids[:-1] if ended else ids), answer, ended))
    return compared


def greedy(model: LanguageModel, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    """The model's first choice again and again, up to eos or the prompt's limit; eos is kept."""
    written: list[list[int]] = [[] for _ in prompts]
    while open_ends := [
        index
        for index, ids in enumerate(written)
        if len(ids) < limits[index] and not (ids and ids[-1] == model.eos_id)
    ]:
        following = model.next_log_probabilities([[*prompts[i], *written[i]] for i in open_ends])
        for index, row in zip(open_ends, following, strict=True):
            written[index].append(int(row.argmax()))
    return written


def sample(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    tokens: int,
    top_k: int,
    generator: np.random.Generator,
) -> list[int]:
    """Draw each next token among the ``top_k`` most probable ones, up to eos; eos is not kept."""
    written: list[int] = []
    while len(written) < tokens:
        row = model.next_log_probabilities([[*prompt, *written]])[0].astype(np.float64)
        best = np.argsort(row)[-top_k:]
        weights = np.exp(row[best] - row[best].max())
        choice = int(generator.choice(best, p=weights / weights.sum()))
        if choice == model.eos_id:
            break
        written.append(choice)
    return written

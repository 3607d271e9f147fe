"""Text to tokens and back, and where a subject ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer

from mobifarm.agent.editor.manifest import TokenizerInfo
from mobifarm.agent.errors import BundleError, InputError


class Tokenizer:
    """The tokenizer of a bundle. Texts start with the family's bos token where it needs one."""

    def __init__(self, path: Path, info: TokenizerInfo) -> None:
        """Read ``path``; raises BundleError where it is no tokenizer."""
        try:
            self._raw = RawTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"{path.name} cannot be read as a tokenizer: build the bundle again") from error
        self._first = [info.bos_id] if info.prepend_bos and info.bos_id is not None else []

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text that starts a sequence."""
        return self._first + self._encode(text)[0]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self._raw.decode(list(token_ids))
        return text

    def tokenize_prompt_and_answer(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of a prompt and of the answer that follows it after one space.

        The prompt's tokens never depend on the answer, so that one cache serves all answers.

        Raises:
            InputError: prompt or answer gives no token.
        """
        prompt, answer = prompt.rstrip(), answer.strip()
        prompt_ids = self.tokenize(prompt)
        if not prompt or not prompt_ids:
            raise InputError("the prompt gives no token: give it some text")
        together = self.tokenize(f"{prompt} {answer}")
        joined = together[: len(prompt_ids)] == prompt_ids
        # Where the text's tokens straddle the border, the answer is read on its own.
        answer_ids = together[len(prompt_ids) :] if joined else self._encode(f" {answer}")[0]
        if not answer or not answer_ids:
            raise InputError(f"the answer {answer!r} gives no token: give it some text")
        return prompt_ids, answer_ids

    def subject_last_index(self, prompt: str, subject: str) -> int:
        """Index, in ``tokenize(prompt)``, of the token that holds the subject's last character.

        Where the subject occurs more than once, the last occurrence counts that is no part of another word.

        Raises:
            InputError: the subject is empty or does not stand in the prompt.
        """
        subject = subject.strip()
        if not subject or subject not in prompt:
            raise InputError(
                f"the subject {subject!r} does not occur in the prompt {prompt!r}: "
                "write the subject exactly as it stands in the prompt"
            )
        # Scripts without spaces have no word borders to go by.
        words = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)]
        last = (words[-1] if words else prompt.rfind(subject)) + len(subject) - 1
        spans = self._encode(prompt.rstrip())[1]
        holding = [index for index, (begin, end) in enumerate(spans) if begin <= last < end]
        if not holding:
            raise InputError(f"no token holds the end of the subject {subject!r}: use plain text")
        return len(self._first) + holding[-1]

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._raw.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

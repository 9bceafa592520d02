"""A local reward model: a sequence classifier that reads a prompt with one answer and says how good the answer is.

What it reads, the first of these that its tokenizer allows:
- the chat template of the prompt and the answer as the assistant's last turn;
- with a separator token, prompt and answer as the tokenizer's own pair of segments;
- the prompt, a blank line and the answer, with the special tokens that the tokenizer adds.
Text and template are tokenised together, as such models were trained. A special token that a text merely spells is broken by a
space after its first character, so that no text can end its own turn.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srpo_core.batches import similar_lengths
from srpo_core.errors import InputError, WorkFailed, first_line
from srpo_core.judging.judge_presets import transcript
from srpo_core.judging.local_judges import Answer, Fitted, Question, fit_question, length_limit
from srpo_core.models import arithmetic, load_tokenizer, model_dtype
from srpo_core.records import Message, Prompt
from srpo_core.settings.judges import RewardModelJudgeSettings
from srpo_core.settings.model import Dtype
from srpo_core.settings.resources import Resources
from srpo_core.templates import render_chat


@dataclass(frozen=True)
class Encoded:
    """A prompt with one answer, as a classifier reads them."""

    ids: list[int]
    segments: list[int] | None  # 0 or 1 for each token, for models that are told

    def __len__(self) -> int:
        """Tokens."""
        return len(self.ids)


class AnswerEncoder:
    """Puts a prompt and an answer into the form described above."""

    def __init__(self, tokenizer: Any) -> None:
        """The form follows from what the tokenizer has."""
        self.tokenizer = tokenizer
        added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        words = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, words)) or r"\Z(?!\Z)")  # the last matches nothing

    def __call__(self, prompt: Prompt, answer: str) -> Encoded:
        """Raises InputError when the chat template refuses the conversation."""
        turns: list[Message] = [{"role": turn["role"], "content": self._plain(turn["content"])} for turn in prompt]
        answer = self._plain(answer)
        if self.tokenizer.chat_template:
            reply: Message = {"role": "assistant", "content": answer}
            text = render_chat(self.tokenizer, [*turns, reply], add_generation_prompt=False)
            return self._encode(text, add_special_tokens=False)
        if self.tokenizer.sep_token:
            return self._encode(transcript(turns), answer)
        return self._encode(f"{transcript(turns)}\n\n{answer}")

    def _encode(self, *texts: str, add_special_tokens: bool = True) -> Encoded:
        encoded = self.tokenizer(*texts, add_special_tokens=add_special_tokens, verbose=False)
        return Encoded(list(encoded["input_ids"]), encoded.get("token_type_ids"))

    def _plain(self, text: str) -> str:
        """The text, its special tokens broken."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


class RewardModel:
    """A classifier with its tokenizer on a device. Raises InputError at construction for a model that gives no reward."""

    def __init__(
        self, folder: str | Path, settings: RewardModelJudgeSettings, device: torch.device | str, resources: Resources
    ) -> None:
        """`folder` holds weights as safetensors, configuration and tokenizer."""
        self.dtype, self.device, self.tokens_per_microbatch = settings.dtype, device, resources.tokens_per_microbatch
        tokenizer = load_tokenizer(folder)
        self.encode = AnswerEncoder(tokenizer)
        self.model = load_classifier(folder, settings.dtype).to(device)
        self.limit = length_limit(tokenizer, self.model.config.get_text_config(), settings.max_length)
        self.label_index = find_label(self.model.config, settings.good_label, folder)
        self.pad_id = self._settle_pad_id(tokenizer, folder)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The reward of each question's one text. Raises WorkFailed when one is not a finite number."""
        fitted = [self._fit(question) for question in questions]
        places = [place for place, one in enumerate(fitted) if one.encoded is not None]
        answers = [Answer(None, 0, True)] * len(questions)
        for place, reward in zip(places, self.rewards([fitted[place].encoded for place in places]), strict=True):
            if not math.isfinite(reward):
                raise WorkFailed(
                    f"expected a finite reward, found {reward} for the text {questions[place].texts[0][:60]!r}; "
                    "set judge.dtype to float32, or check the model's weights"
                )
            answers[place] = Answer([reward], len(fitted[place].encoded), fitted[place].truncated)
        return answers

    @torch.no_grad()
    def rewards(self, texts: Sequence[Encoded]) -> list[float]:
        """The rewards, texts of similar length together, at most `tokens_per_microbatch` tokens with padding at once."""
        rewards = [0.0] * len(texts)
        for chosen in similar_lengths(list(map(len, texts)), [1] * len(texts), self.tokens_per_microbatch):
            with arithmetic(self.dtype, self.device):
                logits = self.model(**self._padded([texts[place] for place in chosen])).logits
            for place, reward in zip(chosen, self._reward_of(logits.float()).tolist(), strict=True):
                rewards[place] = reward
        return rewards

    def _fit(self, question: Question) -> Fitted:
        fitted = fit_question(question.prompt, lambda prompt: self.encode(prompt, question.texts[0]), self.limit)
        if fitted.encoded is not None and self._pad_is_borrowed and fitted.encoded.ids[-1] == self.pad_id:
            raise InputError(
                "expected a reward model whose padding token ends no text, found the tokenizer's padding token at the end of one "
                "and none in the model's configuration; set pad_token_id in its config.json to a token of its own"
            )
        return fitted

    def _padded(self, texts: Sequence[Encoded]) -> dict[str, Tensor]:
        """The model's arguments, (B, T) each, padded on the right."""
        length = max(map(len, texts))

        def stack(rows: Sequence[list[int]], padding: int) -> Tensor:
            return torch.tensor([row + [padding] * (length - len(row)) for row in rows], device=self.device)

        arguments = {"input_ids": stack([text.ids for text in texts], self.pad_id)}
        arguments["attention_mask"] = stack([[1] * len(text) for text in texts], 0)
        segments = [text.segments for text in texts if text.segments is not None]
        return arguments | ({"token_type_ids": stack(segments, 0)} if segments else {})

    def _reward_of(self, logits: Tensor) -> Tensor:
        """Rewards (B,) from logits (B, labels): the only one, or the log-odds of the good label against all others."""
        if self.label_index is None:
            return logits[:, 0]
        others = logits.index_fill(1, torch.tensor([self.label_index], device=logits.device), -torch.inf)
        return logits[:, self.label_index] - others.logsumexp(1)

    def _settle_pad_id(self, tokenizer: Any, folder: str | Path) -> int:
        """The configuration's padding token, by which such models find the end of a text; else the tokenizer's."""
        config = self.model.config.get_text_config()
        self._pad_is_borrowed = config.pad_token_id is None
        if self._pad_is_borrowed:
            config.pad_token_id = tokenizer.pad_token_id
        if config.pad_token_id is None:
            raise InputError(
                f"expected a reward model with a padding token in {folder}, found none in its configuration nor its tokenizer; "
                "set pad_token_id in its config.json"
            )
        return int(config.pad_token_id)


def load_classifier(folder: str | Path, dtype: Dtype) -> Any:
    """The sequence classifier in a folder, in eval mode.

    Raises InputError when the folder holds none, or a model without a trained head, which would be loaded with a random one.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": model_dtype(dtype), "use_safetensors": True, "output_loading_info": True}
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(str(folder), **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"expected a sequence classifier with safetensors weights in {folder}, found none that loads ({first_line(error)}); "
            "download or convert it first"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"expected a trained sequence classifier in {folder}, found a model without {', '.join(missing[:3])}; "
            "name a reward model, or use --judge label_model for a language model"
        )
    return model.eval()


def find_label(config: Any, good_label: str | None, folder: str | Path) -> int | None:
    """The index of the good label; None for a classifier of one output. Raises InputError where the two do not go together."""
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    if good_label is None and len(names) == 1:
        return None
    if good_label in names and len(names) > 1:
        return names.index(str(good_label))
    asked = "none in judge.good_label" if good_label is None else f"judge.good_label {good_label!r}"
    raise InputError(
        f"expected a reward model of one output, or one of its labels in judge.good_label, found {len(names)} outputs "
        f"({', '.join(names)}) in {folder} and {asked}; set judge.good_label to one of several labels, or leave it out for one"
    )

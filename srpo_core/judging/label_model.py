"""A local language model that judges by choosing between the labels of a preset, by their probability.

The preset's messages are rendered with the tokenizer's chat template, or without one as their contents with blank lines between
them. Behind them each label stands in the verdict line that the preset asks for, whole:

    Preferred: "A"        [[A>>B]]

What closes a label belongs to it, so that no label is the beginning of another, and what all lines have in common cancels when
the probabilities are normalised over the labels. Texts are tokenised apart from the template and never make a special token.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from os.path import commonprefix
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srpo_core.batches import Group, Layout, batch_groups
from srpo_core.errors import WorkFailed
from srpo_core.judging.judge_presets import find_preset
from srpo_core.judging.local_judges import NO_LIMIT, Answer, Fitted, Question, fit_question, length_limit
from srpo_core.judging.verdict_parsing import VerdictFormat
from srpo_core.layout import resolve_layout
from srpo_core.logprobs import SequenceLogps, logps_in_order, rows_within
from srpo_core.models import arithmetic, load_model, load_tokenizer, merge_adapter
from srpo_core.plain_text import Ids, PlainTextEncoder
from srpo_core.records import Prompt
from srpo_core.settings.judges import LabelModelJudgeSettings
from srpo_core.settings.model import TemplateSettings
from srpo_core.settings.resources import Resources
from srpo_core.tokenization import PromptTokenizer

MOST_IN_A_TRIE = 8  # questions about one prompt


class MessageEncoder:
    """Messages as the ids that a model goes on from."""

    def __init__(self, tokenizer: Any) -> None:
        """With the tokenizer's chat template where it has one."""
        self.encode_texts = PlainTextEncoder(tokenizer)
        chat = TemplateSettings.model_validate({"kind": "chat"})
        self._chat = PromptTokenizer(tokenizer, chat, NO_LIMIT) if tokenizer.chat_template else None
        first = tokenizer("a")["input_ids"][:1]
        self._begin: Ids = first if first == [tokenizer.bos_token_id] else []  # as the tokenizer begins every text

    def __call__(self, messages: Prompt) -> Ids:
        """Raises InputError when the chat template refuses the messages."""
        if self._chat is not None:
            return self._chat.prompt_ids(messages)
        text = "".join(f"{message['content']}\n\n" for message in messages)
        return self._begin + self.encode_texts([text])[text]


class LabelModel:
    """A causal language model and a preset on a device."""

    def __init__(
        self, folder: str | Path, settings: LabelModelJudgeSettings, device: torch.device | str, resources: Resources
    ) -> None:
        """`folder` holds a model or an adapter. Raises InputError for one that does not load."""
        self.dtype, self.device, self.tokens_per_microbatch = settings.dtype, device, resources.tokens_per_microbatch
        self.preset = find_preset(settings.preset)
        tokenizer = load_tokenizer(folder)
        self.encode = MessageEncoder(tokenizer)
        lines = label_lines(self.preset.form)
        ids = self.encode.encode_texts(lines)
        self.lines = [ids[line] for line in lines]
        model = merge_adapter(load_model(folder, settings.dtype)).to(device)
        self.limit = length_limit(tokenizer, model.config.get_text_config(), settings.max_length) - max(map(len, self.lines))
        self.module = SequenceLogps(model, rows_within(model, resources.logits_gib))
        self._layout: Layout | None = None
        self._width = int(model.config.get_text_config().hidden_size)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The probability of each label, in the preset's order. Raises WorkFailed when one is not a number."""
        fitted = [self._fit(question) for question in questions]
        places = [place for place, one in enumerate(fitted) if one.encoded is not None]
        answers = [Answer(None, 0, True)] * len(questions)
        logps = self._line_logps([(questions[place].prompt, fitted[place].encoded) for place in places])
        for place, values in zip(places, torch.log_softmax(logps.double(), 1).exp().tolist(), strict=True):
            if any(value != value for value in values):
                raise WorkFailed(
                    f"expected probabilities of labels, found {values} for the text {questions[place].texts[0][:60]!r}; "
                    "set judge.dtype to float32, or check the model's weights"
                )
            answers[place] = Answer(values, len(fitted[place].encoded), fitted[place].truncated)
        return answers

    def _fit(self, question: Question) -> Fitted:
        def encode(prompt: Prompt) -> Ids:
            return self.encode(self.preset.messages(prompt, *question.texts))

        return fit_question(question.prompt, encode, self.limit)

    def _line_logps(self, asked: Sequence[tuple[Prompt, Ids]]) -> Tensor:
        """Log-probs (questions, labels) of the verdict lines in nats, for questions given as their prompts and ids."""
        if not asked:
            return torch.empty(0, len(self.lines))
        groups = [self._group([ids]) for _, ids in asked]
        if self._layout is None:
            self._layout = resolve_layout(self.module.model, "auto", sorted(groups, key=lambda group: -len(group[0][0]))[:4])
        if self._layout == "trie":
            groups = [self._group(bundle) for bundle in bundle_questions(asked, self._width)]
        batches = batch_groups(groups, self._layout, self.tokens_per_microbatch)
        with arithmetic(self.dtype, self.device):
            logps = logps_in_order(self.module, batches, self.device)
        return logps.view(len(asked), len(self.lines))

    def _group(self, questions: Sequence[Ids]) -> Group:
        return [(ids, line) for ids in questions for line in self.lines]


def label_lines(form: VerdictFormat) -> list[str]:
    """The line that states each label, in the order of the form's scores."""
    if form.line_label is None:
        return [f"[[{label}]]" for label in form.scores]
    return [f'{form.line_label}: "{label}"' for label in form.scores]


def bundle_questions(asked: Sequence[tuple[Prompt, Ids]], width: int) -> Iterator[list[Ids]]:
    """Neighbouring questions about the same prompt, which begin alike, together where that is less work, in their order.

    A layer of `width` does about 24 width^2 operations on each token and 4 width on each pair of tokens that its mask spans, and
    a trie's mask spans all of them.
    """

    def work(tokens: int) -> int:
        return tokens * (6 * width + tokens)

    for _, same in groupby(asked, key=lambda one: one[0]):
        questions = [ids for _, ids in same]
        for start in range(0, len(questions), MOST_IN_A_TRIE):
            chunk = questions[start : start + MOST_IN_A_TRIE]
            lengths = list(map(len, chunk))
            together = sum(lengths) - (len(chunk) - 1) * len(commonprefix(chunk))
            yield from [chunk] if work(together) < sum(map(work, lengths)) else [[ids] for ids in chunk]

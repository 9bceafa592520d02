"""TRL's DPOTrainer on the same pairs: its own collator, loss and reference pass, two plain sequences a pair.

TRL is an extra (`pip install .[benchmarks]`) that the project itself never imports. Its defaults are kept but three: float32
where the model is float32 (not bf16), no gradient checkpointing, no truncation, which the other sides do without, too.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.measure import Side, say
from benchmarks.shapes import word_tokenizer
from benchmarks.sides import attending, finish, plain_facts
from srpo_core.tokenization import PairTokens


def has_trl() -> bool:
    """Whether TRL is installed; says so where it is not."""
    found = importlib.util.find_spec("trl") is not None
    if not found:
        say("TRL is not installed, its cells are left out (pip install trl==1.16.0)")
    return found


@contextmanager
def trl_dpo(model: Any, pairs: Sequence[PairTokens], wanted: bool) -> "Iterator[TrlDpo | None]":
    """A TrlDpo around the model where it is `wanted`; the model has its own forward back at the end."""
    peer = TrlDpo(model, pairs) if wanted else None
    try:
        yield peer
    finally:
        if peer is not None:
            peer.restore()


class TrlDpo:
    """A DPOTrainer around a model and pairs. Patches the model's forward, as TRL does, until `restore`."""

    def __init__(self, model: Any, pairs: Sequence[PairTokens]) -> None:
        """Computes the reference once; all pairs are one batch."""
        os.environ["TQDM_DISABLE"] = "1"
        from datasets import Dataset, disable_progress_bars
        from trl import DPOConfig, DPOTrainer

        class OnTokenIds(DPOTrainer):
            """Takes pairs that are tokenised already."""

            def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
                return dataset

        disable_progress_bars()
        self.model = model
        self.pairs = pairs
        self.device = next(model.parameters()).device
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        firsts = [(*pair.sequences[0], pair.sequences[1][1]) for pair in pairs]
        self.dataset = Dataset.from_list([dict(zip(columns, row, strict=True)) for row in firsts])
        self.folder = tempfile.TemporaryDirectory()
        arguments = DPOConfig(
            output_dir=self.folder.name,
            per_device_train_batch_size=len(pairs),
            precompute_ref_log_probs=True,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=self.device.type == "cpu",
            report_to="none",
            disable_tqdm=True,
        )
        tokenizer = word_tokenizer(max(model.config.vocab_size, 64)).tokenizer
        self.trainer: Any = OnTokenIds(model, args=arguments, train_dataset=self.dataset, processing_class=tokenizer)

    def training(self) -> Side:
        """Collator, loss and backward of all pairs at once, the reference's log-probs read from its columns."""
        rows = [self.trainer.train_dataset[index] for index in range(len(self.pairs))]

        def run() -> None:
            self.model.zero_grad(set_to_none=True)
            inputs = self.trainer._prepare_inputs(self.trainer.data_collator(rows))
            self.trainer.accelerator.backward(self.trainer.compute_loss(self.model, inputs))
            finish(self.device)

        return Side(attending(self.model, "sdpa", run), self._facts())

    def reference(self) -> Side:
        """Its precompute pass, from the data to the data with two further columns."""
        size = len(self.pairs)
        run = attending(self.model, "sdpa", lambda: self.trainer._precompute_ref_logps(self.dataset, "train", size))
        return Side(run, self._facts())

    def restore(self) -> None:
        """Give the model its own forward back."""
        self.model.__dict__.pop("forward", None)
        self.folder.cleanup()

    def _facts(self) -> dict[str, float]:
        """TRL projects all positions through the head, except on CUDA."""
        return plain_facts([pair.sequences[:2] for pair in self.pairs], every_row=self.device.type != "cuda")

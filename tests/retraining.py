"""A world in which retraining takes seconds and its outcome is no accident: answers say `report` or `noise`.

Every prompt holds the word report. The judge, a real HTTP server, prefers the text that covers more of the prompt's words with
fewer of its own: `report` (1/1) beats the gold `report noise` (1/sqrt 2), which beats `noise` (0). The reference says both about
equally often. Pairs that prefer `report` train a better policy, pairs with swapped labels a worse one.
"""

import json
import random
from pathlib import Path
from typing import Any

from srpo_core.settings.retraining import RetrainSettings
from tests.small_training import WORDS

GOOD, BAD, GOLD = "report", "noise", "report noise"


class SmallWorld:
    """Files in a folder: demonstrations, an evaluation set, and a folder in which new pairs arrive."""

    def __init__(self, folder: Path, *, num_prompts: int = 60) -> None:
        self.folder = folder
        self._rng = random.Random(0)
        (folder / "pairs").mkdir(parents=True)
        drafts = [{"prompt": self._prompt(), "completion": (GOOD, BAD)[n % 2]} for n in range(200)]
        revisions = [{"prompt": self._prompt(), "draft": text, "completion": text} for text in (GOOD, BAD) * 50]
        self._write(folder / "demonstrations.jsonl", drafts + revisions)
        self._prompts: list[dict[str, Any]] = []
        self.add_prompts(num_prompts)

    def add_prompts(self, count: int) -> None:
        """More evaluation prompts in the same file."""
        self._prompts += [{"prompt": self._prompt(), "gold": GOLD} for _ in range(count)]
        self._write(self.folder / "prompts.jsonl", self._prompts)

    def add_pairs(self, name: str, count: int, *, swapped: bool = False) -> None:
        """A new file of pairs; `swapped`: the worse answer is called the better one."""
        chosen, rejected = (BAD, GOOD) if swapped else (GOOD, BAD)
        rows = [{"prompt": self._prompt(), "chosen": chosen, "rejected": rejected} for _ in range(count)]
        self._write(self.folder / "pairs" / f"{name}.jsonl", rows)

    def settings(
        self, judge_url: str, *, num_steps: int = 24, promotion: dict[str, Any] | None = None, **more: Any
    ) -> RetrainSettings:
        """Settings of a retraining on these files; `more` are other settings of the retraining."""
        training = {"learning_rate": 0.002, "num_steps": num_steps, "pairs_per_step": 16, "beta": 0.3}
        pipeline = {
            "name": "reports",
            "preferences": {"paths": [str(self.folder / "pairs")], "domain": "reports", "validation_share": 0},
            "demonstrations": {"path": str(self.folder / "demonstrations.jsonl")},
            "evaluation": [{"name": "id", "path": str(self.folder / "prompts.jsonl"), "domain": "reports"}],
            "model": {"small": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 400}, "max_length": 64},
            "supervised": {"learning_rate": 0.01, "num_steps": 120, "examples_per_step": 16},
            "training": training | {"loss_scale": "unit_gradient"},
            "methods": ["dpo"],
            "generation": {"num_revisions": 1, "max_new_tokens": 6},
            "judge": {"kind": "api", "model": "judge", "base_url": judge_url, "api_key_variable": "JUDGE_KEY"},
            "resources": {"threads_per_process": 1},
        }
        return RetrainSettings.model_validate({"pipeline": pipeline, "promotion": promotion or {}} | more)

    def _prompt(self) -> str:
        return f"{self._rng.randrange(10**6)} {' '.join(self._rng.sample(WORDS, 3))} {GOOD}"

    def _write(self, path: Path, rows: list[dict[str, Any]]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

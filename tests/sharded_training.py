"""Trains a tiny model in FSDP2 on CPU processes: `accelerate launch … -m tests.sharded_training FOLDER`.

accelerate offers FSDP on accelerators alone, so its state is told here that this is one; sharding, gathering and checkpoints are
then torch's own, over gloo.
"""

import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from srpo_core.models import save_model
from srpo_core.training_loop import gather_weights
from tests.fakes import byte_tokenizer, tiny_llama
from tests.small_training import objective, train_on


def sharding_accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    return accelerator


def main(folder: Path) -> None:
    """Train twice, the second time from the checkpoint of the first, and save both."""
    accelerator = sharding_accelerator()
    for name in ("first", "resumed"):
        model = tiny_llama(initializer_range=0.2)
        task = objective(13, num_steps=4, pairs_per_step=5, learning_rate=1e-4)
        # micro-batches of about one pair: the two processes have three and two pairs a step, so their rounds differ
        module = train_on(model, task, folder, accelerator=accelerator, tokens_per_microbatch=150, checkpoint_every=2)
        weights = gather_weights(accelerator, module)
        if accelerator.is_main_process:
            save_model(model, byte_tokenizer(), folder / name, weights)
        accelerator.free_memory()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

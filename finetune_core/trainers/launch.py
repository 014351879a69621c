"""How the processes of a training are started: one by itself, several by accelerate's launcher.

The launcher is torchrun's: it gives each process its rank, and ends them all when one dies.
"""

from __future__ import annotations

import sys

from finetune_core.config.sections import TrainingConfig
from finetune_core.config.settings import Settings
from finetune_core.exceptions import Fault, InvalidConfigError
from finetune_core.types import Strategy

STRATEGIES = {
    Strategy.DDP: ("--multi_gpu",),  # without a GPU, processes of the CPU
    # Sharded as ZeRO-3: each block of the model by itself, all of it gathered for a checkpoint, so
    # that a checkpoint is the same files whatever the number of processes.
    Strategy.FSDP: (
        "--use_fsdp",
        "--fsdp_version=2",
        "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
        "--fsdp_state_dict_type=FULL_STATE_DICT",
        "--fsdp_reshard_after_forward=true",
    ),
}


def launcher(config: TrainingConfig) -> list[str]:
    """The command before `-m module arguments`.

    Args:
        config: Says how many processes there are, on how many machines.

    Raises:
        InvalidConfigError: There are several machines, and this one does not know which it is.
    """
    if config.num_processes == 1:
        return [sys.executable]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += STRATEGIES[config.strategy]
    command += [f"--num_processes={config.num_processes}"]
    command += [f"--num_machines={config.num_machines}", *_place(config)]
    return [*command, "--mixed_precision=no", "--dynamo_backend=no"]  # the engine sees to both


def _place(config: TrainingConfig) -> list[str]:
    """Which machine this is, and where the first one is."""
    if config.num_machines == 1:
        return ["--main_process_port=0"]  # any that is free: other jobs run here too
    settings = Settings()
    host, _, port = (settings.main_address or "").rpartition(":")
    if settings.machine_rank is None or not host or not port.isdigit():
        problem = (
            "needs FINETUNE_MACHINE_RANK (0 on the first machine) and FINETUNE_MAIN_ADDRESS "
            "(the first machine's host:port) in the environment of every machine"
        )
        raise InvalidConfigError([Fault("training.num_machines", problem)])
    return [
        f"--machine_rank={settings.machine_rank}",
        f"--main_process_ip={host}",
        f"--main_process_port={port}",
    ]

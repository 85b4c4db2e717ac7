"""recipes/configs: accelerate takes each file, and makes of it what the file says."""

from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"


def launched(name):
    """The arguments of ``accelerate launch`` with this file, every one of its keys read."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(CONFIGS / name))  # refuses keys that accelerate does not know
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), "finetune.py", "--seed", "1"])
    return config, args


def test_there_is_one_for_every_kind():
    assert {path.name for path in CONFIGS.iterdir()} == {
        "deepspeed.yaml",
        "fsdp2.yaml",
        "multi_gpu.yaml",
        "single_gpu.yaml",
    }


@pytest.mark.parametrize(
    ("name", "kind", "processes"),
    [
        ("single_gpu.yaml", "NO", 1),
        ("multi_gpu.yaml", "MULTI_GPU", 2),
        ("fsdp2.yaml", "FSDP", 2),
        ("deepspeed.yaml", "DEEPSPEED", 2),
    ],
)
def test_accelerate_reads_it(name, kind, processes):
    config, args = launched(name)
    assert config.distributed_type.value == kind
    assert (config.num_processes, config.mixed_precision) == (processes, "bf16")
    known = vars(args)
    for key in config.fsdp_config:
        assert key in known, key
    for key in config.deepspeed_config:
        assert key in known, key


def test_fsdp2_as_accelerate_sets_it_up(monkeypatch):
    from accelerate import FullyShardedDataParallelPlugin

    config, _ = launched("fsdp2.yaml")
    for key, value in config.fsdp_config.items():  # what `accelerate launch` hands to the processes
        monkeypatch.setenv(key.upper(), str(value).lower() if isinstance(value, bool) else str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.min_num_params) == (2, True, 10_000_000)

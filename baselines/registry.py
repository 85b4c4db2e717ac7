"""The registry of baselines: by name, by entry point, or in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from context_module.baselines.vae import Baseline
from context_module.errors import CheckpointError
from context_module.io import CONFIG_FILE, load_network, read_json
from context_module.registry import Registry

__all__ = ["available_baselines", "get_baseline", "load_baseline", "register_baseline"]


def _wrong(name: str, thing: Any) -> str | None:
    if isinstance(thing, type) and issubclass(thing, Baseline) and getattr(thing, "name", None) == name:
        return None
    return f"must be a subclass of Baseline whose name is {name!r}, got {thing!r}"


_BASELINES: Registry[type[Baseline]] = Registry(
    "method",
    "context_module.baselines",
    {
        "beta_vae": "context_module.baselines.beta_vae:BetaVAE",
        "tc_vae": "context_module.baselines.tc_vae:TCVAE",
        "dip_vae": "context_module.baselines.dip_vae:DIPVAE",
        "factor_vae": "context_module.baselines.factor_vae:FactorVAE",
        "joint_vae": "context_module.baselines.joint_vae:JointVAE",
        "cascade_vae_c": "context_module.baselines.cascade_vae:CascadeVAEC",
        "cascade_vae": "context_module.baselines.cascade_vae:CascadeVAE",
        "ada_vae": "context_module.baselines.ada_vae:AdaVAE",
        "tvae": "context_module.baselines.tvae:TVAE",
        "supervised_vae": "context_module.baselines.supervised_vae:SupervisedVAE",
        "dear": "context_module.baselines.dear:DEAR",
        "causal_vae": "context_module.baselines.causal_vae:CausalVAE",
        "clap": "context_module.baselines.clap:CLAP",
        "vector_vae": "context_module.baselines.perturbation:VectorVAEMethod",
        "ivae": "context_module.baselines.ivae:IVAE",
        "svae": "context_module.baselines.svae:SVAE",
        "svae_plus": "context_module.baselines.svae:SVAEPlus",
        "sams_vae": "context_module.baselines.sams_vae:SAMSVAE",
        "discrepancy_vae": "context_module.baselines.discrepancy_vae:DiscrepancyVAE",
    },
    _wrong,
)


def register_baseline(cls: type[Baseline]) -> type[Baseline]:
    """Class decorator that makes a method known in this process under its `name`.

    Raises:
        ContextModuleError: for a name that is taken.
        TypeError: for what is no `Baseline`.
    """
    _BASELINES.register(getattr(cls, "name", repr(cls)), cls)
    return cls


def available_baselines() -> list[str]:
    """Names of the methods that are built in, registered, or installed as entry points."""
    return _BASELINES.names()


def get_baseline(name: str) -> type[Baseline]:
    """The class of the method of that name.

    Raises:
        ValueError: for an unknown name; lists the known ones.
        ImportError: for an installed one that cannot be imported; names its package.
        TypeError: for an installed one that is no `Baseline`, or of another name.
    """
    return _BASELINES.get(name)


def load_baseline(directory: str | Path) -> Baseline:
    """What `Baseline.save` wrote, or recipes/train_baseline.py, in eval mode.

    Raises:
        CheckpointError: for files that are missing, broken, of anything else, or do not fit each other.
        ValueError: for a method that is not known here.
    """
    name = read_json(Path(directory) / CONFIG_FILE).get("baseline")
    if not isinstance(name, str):
        raise CheckpointError(f"{directory} does not hold a baseline: its {CONFIG_FILE} names none")
    build, marks = get_baseline(name).from_config, {"baseline": name}
    return load_network(directory, build, f"{name} baseline", marks, uncounted=("images",)).eval()

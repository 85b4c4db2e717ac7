"""The field's other systems as rows of tables: the flags that each trains with, and what was published of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["LECTURE", "LECTURE_COLUMNS", "LECTURE_PUBLISHED", "SYSTEMS", "SYSTEMS_PUBLISHED", "scores_of_codes"]

#: Rows of the paper's tables: beta other than 1, and samples of a context from the aggregate posterior of its images.
SYSTEMS: dict[str, dict[str, Any]] = {
    "TC-VAE": {"method": "tc_vae", "beta": 6.0},
    "Ada-GVAE": {"method": "ada_vae", "beta": 4.0},
    "TVAE": {"method": "tvae", "beta": 4.0},
}
#: Published sliced Wasserstein distances and bits. They do not compare with ours: those models were trained by squared
#: error without an output activation and scored through a sigmoid, so that no image is black or white; that TC-VAE has
#: beta 1, which is a plain VAE; and their samples are of N(0, I), the same in every context.
SYSTEMS_PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "quad": {"TC-VAE": (0.330, 0.346), "Ada-GVAE": (0.335, 0.355, 2.017), "TVAE": (0.334, 0.341)},
    "quad_dependent": {"TC-VAE": (0.366, 0.374), "Ada-GVAE": (0.375, 0.377, 2.443), "TVAE": (0.370, 0.368)},
    "mnist": {"TC-VAE": (0.484,), "Ada-GVAE": (0.500, None, 1.035), "TVAE": (0.486,)},
}

#: Rows of the table on the whole grid of dSprites, by number of continuous dimensions m.
LECTURE: dict[str, dict[str, Any]] = {
    "beta-VAE (m = 5)": {"method": "beta_vae", "latents": 5, "beta": 10.0},
    "beta-VAE (m = 10)": {"method": "beta_vae", "latents": 10, "beta": 4.0},
    "FactorVAE (m = 5)": {"method": "factor_vae", "latents": 5},
    "FactorVAE (m = 10)": {"method": "factor_vae", "latents": 10},
    "CascadeVAE-C (m = 5)": {"method": "cascade_vae_c", "latents": 5, "beta_low": 0.7},
    "CascadeVAE-C (m = 10)": {"method": "cascade_vae_c", "latents": 10, "beta_low": 1.0},
    "JointVAE (m = 6)": {"method": "joint_vae", "latents": 6},
    "JointVAE (m = 4)": {"method": "joint_vae", "latents": 4},
    "CascadeVAE (m = 6)": {"method": "cascade_vae", "latents": 6, "beta_low": 1.0},
    "CascadeVAE (m = 4)": {"method": "cascade_vae", "latents": 4, "beta_low": 2.0},
}
LECTURE_COLUMNS = {"factor_vae": "FactorVAE score", "shape": "shape, unsupervised"}
#: Means over 10 seeds (Jeong & Song, ICML 2019).
LECTURE_PUBLISHED: dict[str, dict[str, float]] = {
    "beta-VAE (m = 5)": {"factor_vae": 0.7011},
    "beta-VAE (m = 10)": {"factor_vae": 0.7441},
    "FactorVAE (m = 5)": {"factor_vae": 0.8109},
    "FactorVAE (m = 10)": {"factor_vae": 0.8215},
    "CascadeVAE-C (m = 5)": {"factor_vae": 0.8169},
    "CascadeVAE-C (m = 10)": {"factor_vae": 0.8174},
    "JointVAE (m = 6)": {"factor_vae": 0.7451, "shape": 0.4479},
    "JointVAE (m = 4)": {"factor_vae": 0.7306, "shape": 0.4399},
    "CascadeVAE (m = 6)": {"factor_vae": 0.9049, "shape": 0.7884},
    "CascadeVAE (m = 4)": {"factor_vae": 0.9134, "shape": 0.7600},
}


def scores_of_codes(report: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a report.json by the keys of `LECTURE_COLUMNS`: of a method without categories, the first alone."""
    scores = {"factor_vae": report["disentanglement"]["factor_vae"]["value"]}
    if report.get("categories"):  # None where it was not measured
        scores["shape"] = report["categories"]["code 1"]["shape"]["value"]
    return scores

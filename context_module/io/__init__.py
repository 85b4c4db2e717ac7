"""Bytes are whole or absent: files, rows of numbers on disk, the Hugging Face Hub, signals."""

from context_module.io.bounds import bounded_by, check_counts
from context_module.io.files import (
    CONFIG_FILE,
    SEAL,
    WEIGHTS_FILE,
    broken_seal,
    file_hash,
    is_finite,
    load_network,
    load_pickled,
    load_strictly,
    load_tensors,
    misfits,
    read_json,
    read_metadata,
    save_network,
    save_tensors,
    sealed,
    unusable,
    write_atomically,
    write_json,
    write_text,
)
from context_module.io.hub import (
    HUB_OPTIONS,
    PLACE_OPTIONS,
    is_hub_id,
    local_folder,
    make_repository,
    recorded,
    upload,
)
from context_module.io.interruption import Interruption, TrainingInterrupted
from context_module.io.lock import FolderLock, only_here
from context_module.io.manifest import MANIFEST, misfitting, write_manifest
from context_module.io.progress import progress_bar
from context_module.io.rendered import rendered_array
from context_module.io.table import MappedArray, MappedTable, cached_table

__all__ = [
    "CONFIG_FILE",
    "HUB_OPTIONS",
    "MANIFEST",
    "PLACE_OPTIONS",
    "SEAL",
    "WEIGHTS_FILE",
    "FolderLock",
    "Interruption",
    "MappedArray",
    "MappedTable",
    "TrainingInterrupted",
    "bounded_by",
    "broken_seal",
    "cached_table",
    "check_counts",
    "file_hash",
    "is_finite",
    "is_hub_id",
    "load_network",
    "load_pickled",
    "load_strictly",
    "load_tensors",
    "local_folder",
    "make_repository",
    "misfits",
    "misfitting",
    "only_here",
    "progress_bar",
    "read_json",
    "read_metadata",
    "recorded",
    "rendered_array",
    "save_network",
    "save_tensors",
    "sealed",
    "unusable",
    "upload",
    "write_atomically",
    "write_json",
    "write_manifest",
    "write_text",
]

"""The Hugging Face Hub: repositories read as local folders, and folders uploaded. Heavy imports only when needed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from context_module.errors import CheckpointError, HubError

__all__ = ["HUB_OPTIONS", "PLACE_OPTIONS", "is_hub_id", "local_folder", "make_repository", "recorded", "upload"]

HUB_OPTIONS = ("revision", "token", "local_files_only")  # as everywhere in huggingface_hub
PLACE_OPTIONS = ("revision", "subfolder", "variant", "encoder", "gguf_file")  # of a base: where it is, not what


def is_hub_id(source: str | Path | None) -> bool:
    """Whether a base's source is the id of a Hub repository, ``name/repository``, and no place on this disk."""
    named = source is not None and re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(source))
    return bool(named) and not Path(str(source)).exists()


def local_folder(
    path: str | Path,
    files: Sequence[str],
    *,
    expected: str = "",
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """A folder or file as it is, without touching the network; or these files of a Hub repository, downloaded.

    Args:
        path: a path, or the id of a Hub repository.
        files: patterns of the files to have.
        expected: what `path` should be, for the message.
        revision, token, local_files_only: as everywhere in huggingface_hub, whose ``HF_HUB_OFFLINE`` counts too.

    Raises:
        CheckpointError: if there is neither.
    """
    if Path(path).exists():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    what = f"{path}: no such file or folder; expected {expected}, or" if expected else f"{str(path)!r} is neither a"
    what += " a Hub repository" if expected else " local folder nor a Hub repository"
    options: dict[str, Any] = {"revision": revision, "token": token, "local_files_only": local_files_only}
    try:
        return Path(snapshot_download(str(path), allow_patterns=list(files), **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{what} that can be read ({_reason(error)})") from error


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of `HUB_OPTIONS` those that say what was read, for a saved configuration: the rest is about who reads."""
    return {"revision": options["revision"]} if options.get("revision") is not None else {}


def make_repository(repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Make a Hub repository if there is none; its whole id, with the name of who is logged in.

    Raises:
        HubError: if nobody is logged in, the Hub cannot be reached, or it refuses.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
    except Exception as error:  # of the network, of the Hub, of the name: all mean that nothing can be uploaded
        raise HubError(
            f"cannot upload to the Hub repository {repo_id!r} ({_reason(error)}): log in with 'hf auth login', check "
            "the name and the connection, or leave out the upload"
        ) from error


def upload(directory: str | Path, repo_id: str, files: Sequence[str], what: str, *, token: str | None = None) -> None:
    """Upload the files of a folder that fit these patterns to a Hub repository that exists.

    Args:
        directory: the folder.
        repo_id: the repository.
        files: patterns.
        what: is uploaded, for the commit message.
        token: as everywhere in huggingface_hub.

    Raises:
        HubError: if it fails; the folder is whole, and the message says how to upload it by hand.
    """
    from huggingface_hub import HfApi

    options: dict[str, Any] = {"commit_message": f"Upload {what}", "allow_patterns": list(files)}
    try:
        HfApi(token=token).upload_folder(repo_id=repo_id, folder_path=directory, **options)
    except Exception as error:  # as above
        raise HubError(
            f"{directory} is whole, but its upload to {repo_id!r} failed ({_reason(error)}): try again with "
            f"'hf upload {repo_id} {directory} {' '.join(f'--include {pattern!r}' for pattern in files)}'"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""The Hub, without a network."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub


def record_uploads(monkeypatch, record):
    """Call `record(repository, file names, private, commit message)` instead of uploading a folder."""
    visibility = {}

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        assert exist_ok
        repo_id = f"me/{repo_id.rpartition('/')[2]}"
        visibility[repo_id] = private
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, commit_message, allow_patterns=None):
        names = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        names = sorted(huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns))
        record(repo_id, names, visibility[repo_id], commit_message)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)

"""Bytes are whole or absent: files, rows of numbers on disk, the Hugging Face Hub, signals."""

__all__: list[str] = []

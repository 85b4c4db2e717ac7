"""Files that are small outside and large inside, that name other places, or that are no files of ours at all."""

import gzip
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from context_module.cli import parse_arguments, run_recipe
from context_module.cli.training import TrainingArguments
from context_module.data import load_data
from context_module.data.mnist import load_mnist
from context_module.errors import CheckpointError, DataError, OutputError
from context_module.io import read_json
from context_module.training import RunDirectory
from helpers.models import wrapped


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 60_000 + "]" * 60_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("\x00", "not valid JSON"),
        ("[1]", "holds a JSON list"),
    ],
)
def test_json_that_is_no_configuration(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "a.json")


def test_json_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(CheckpointError, match="10,000,000,000 bytes: too many for a configuration"):
        read_json(tmp_path / "a.json")


def config(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    parse_arguments(TrainingArguments, description="", argv=["--config", str(tmp_path / name), "--output_dir", "o"])


def bomb(levels):
    lines = ["report_to:", "- &b0 [" + ",".join(["lol"] * 9) + "]"]
    lines += [f"- &b{level} [" + ",".join([f"*b{level - 1}"] * 9) + "]" for level in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", bomb(9), "YAML aliases .* are not read: write the values out"),
        ("a.yaml", "seed: " + "[" * 5_000 + "]" * 5_000, "nested too deeply"),
        ("a.json", '{"seed": ' + "[" * 60_000 + "]" * 60_000 + "}", "nested too deeply"),
        ("a.json", json.dumps({"report_to": [[["long"] * 1000] * 50]}), "must be a value or a list of values, got"),
    ],
)
def test_configurations_that_explode(name, text, message, tmp_path, capsys):
    start = time.monotonic()
    with pytest.raises((SystemExit, ValueError), match=r"2|.*") as caught:
        config(tmp_path, name, text)
    said = capsys.readouterr().err + str(caught.value)
    assert time.monotonic() - start < 10
    assert len(said) < 20_000
    assert re.search(message, said)


def test_a_compressed_file_is_not_inflated_whole(tmp_path):
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        for _ in range(20):
            file.write(bytes(50_000_000))
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="holds more than 784,000,016 bytes, more than a million digits: foreign"):
        load_mnist(tmp_path)


def attributes(tmp_path, header, *rows):
    (tmp_path / "im").mkdir()
    for name in ("0.png", "1.png", "2.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "im" / name)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "secret.png")
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    return load_data("attributes", root=tmp_path / "im", table=tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/passwd"])
def test_a_table_names_no_files_outside_its_folder(name, tmp_path):
    with pytest.raises(DataError, match=r"names files outside .*im, such as"):
        attributes(tmp_path, "file,a", f"{name},0", "0.png,0", "1.png,1", "2.png,1")


def test_a_table_of_very_many_columns_is_refused_at_once(tmp_path):
    header = "file," + ",".join(f"a{number}" for number in range(20_000))
    with pytest.raises(DataError, match="20,000 columns: expected no more than 10,000"):
        attributes(tmp_path, header, "0.png" + ",0" * 20_000)


def test_a_count_of_thousands_of_digits_is_no_count(tmp_path):
    with pytest.raises(DataError, match="no attributes"):
        attributes(tmp_path, "9" * 5000, "0.png 1")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_of_very_many_pixels_are_refused(tmp_path):
    for context in ("obs", "a"):
        (tmp_path / context).mkdir()
        Image.new("1", (10_000, 9_000)).save(tmp_path / context / "0.png")
    with pytest.raises(DataError, match="has 10000 x 9000 pixels, more than 67,108,864: scale it down before"):
        load_data(tmp_path).train.first(1)


def test_an_array_with_a_header_that_lies_is_an_error(tmp_path):
    for context in ("obs", "a"):
        (tmp_path / context).mkdir()
        np.save(tmp_path / context / "0.npy", np.zeros((8, 8), np.uint8))
    path = tmp_path / "a" / "0.npy"
    path.write_bytes(path.read_bytes().replace(b"(8, 8)", b"(9000, 9000)"))
    with pytest.raises(DataError, match=r"cannot read .*0\.npy"):
        load_data(tmp_path).train.first(1)


@pytest.mark.parametrize("temperature", [float("inf"), float("nan"), -1.0, 1e30])
def test_temperatures_that_make_no_images(temperature, make_base):
    with pytest.raises(ValueError, match=r"temperature must be a number from 0 to 1e\+06, got"):
        wrapped(make_base("nvae")).generate(2, temperature=temperature)


# --- folders that cannot be written


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    for folder in (tmp_path, tmp_path / "not" / "there"):
        with pytest.raises(OutputError, match=f"{tmp_path} cannot be written: give an output_dir where files can"):
            RunDirectory(folder)


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path):
    """A limit on a file's size stands in for the disk."""
    script = (
        "import resource, signal, sys, torch; from context_module.io import save_tensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "save_tensors(sys.argv[1], {'a': torch.zeros(10_000)})"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.safetensors")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert f"OutputError: cannot write {tmp_path / 'a.safetensors'}" in said
    assert "make room, or the folder writable" in said
    assert not list(tmp_path.iterdir())


def test_out_of_memory_is_one_line():
    def main():
        raise MemoryError("Unable to allocate 3 TiB")

    with pytest.raises(SystemExit, match=r"^error: out of memory \(Unable to allocate 3 TiB\): fewer images"):
        run_recipe(main)

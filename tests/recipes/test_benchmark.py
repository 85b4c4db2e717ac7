"""recipes/benchmark.py as a user runs it."""

import json
import re

from context_module.adapters.nvae import NVAE, NVAEConfig


def test_benchmark(run, check, tmp_path):
    argv = ["--of", "contexts", "--num_concepts", "2", "--repeats", "2"]
    out = check.succeeded(run("benchmark.py", *argv, cwd=tmp_path))
    rows = re.findall(r"^ +2  (\w+) +([\d.]+)x$", out, flags=re.MULTILINE)
    assert [form for form, _ in rows] == ["reduced", "structural"]
    assert all(float(ratio) > 0 for _, ratio in rows)


def test_inversions(here, check):
    argv = ["--of", "inversion", "--sizes", "8", "64", "--latent_channels", "2", "--repeats", "1"]
    out = check.succeeded(here("benchmark.py", *argv))
    rows = re.findall(r"^ +(2x\d+x\d+) +([\d,]+) +([\d,]+)  ([\d.]+)x$", out, flags=re.MULTILINE)
    assert [shape for shape, *_ in rows] == ["2x8x8", "2x64x64"]
    (_, dense, factorised), (_, large, large_factorised) = [
        (shape, *(int(count.replace(",", "")) for count in counts)) for shape, *counts, _ in rows
    ]
    assert large > 20 * dense
    assert large_factorised < 1.1 * factorised


def test_overhead(here, check):
    argv = ["--of", "overhead", "--base_channels", "32", "--resolution", "16", "--repeats", "1"]
    out = check.succeeded(here("benchmark.py", *argv))
    assert re.search(r"^[\d,]+ parameters, 16x16 images: \+[\d.]+%$", out, flags=re.MULTILINE)


def test_baselines(here, check):
    out = check.succeeded(here("benchmark.py", "--of", "baselines", "--methods", "tvae", "dear", "--repeats", "1"))
    rows = re.findall(r"^ +(\w+)  ([\d.]+)x", out, flags=re.MULTILINE)
    assert [name for name, _ in rows][:2] == ["tvae", "dear"]
    assert all(float(multiple) > 0 for _, multiple in rows)


def test_errors(here, check):
    assert "no concepts given" in check.failed(here("benchmark.py", "--num_concepts", "0"))


def test_help(here):
    code, out, _ = here("benchmark.py", "--help")
    assert code == 0
    assert "--repeats" in out


def test_equations(here, check):
    out = check.succeeded(here("benchmark.py", "--of", "equations", "--blocks", "3", "5", "--repeats", "1"))
    rows = re.findall(r"^ +(\d)  ([\d.]+)x$", out, flags=re.MULTILINE)
    assert [blocks for blocks, _ in rows] == ["3", "5"]
    assert all(float(faster) > 0 for _, faster in rows)


def test_decoding(here, check, tmp_path):
    shape = {"num_scales": 2, "groups_per_scale": 1, "num_blocks": 1, "encoder_channels": 4, "decoder_channels": 4}
    NVAE(NVAEConfig(image_size=8, latent_channels=2, ops="res_bnswish", **shape)).save_pretrained(tmp_path / "net")
    out = check.succeeded(here("benchmark.py", "--of", "decoding", "--nvae", tmp_path / "net", "--repeats", "1"))
    line = r"^decoding with an NVAE: [\d.]+x faster with channels last, [\d.]+x by 128 at a time, [\d.]+x with batch "
    assert re.search(line + "norms folded into convolutions$", out, re.MULTILINE)


def test_reading(here, check):
    out = check.succeeded(here("benchmark.py", "--of", "reading", "--sizes", "16", "600", "--repeats", "1"))
    rows = re.findall(r"^ +(\d+)  ([\d.]+)x faster than whole ones scaled down$", out, flags=re.MULTILINE)
    assert [size for size, _ in rows] == ["16", "600"]
    assert float(rows[0][1]) > 0


def test_scale_is_recorded_and_checked(here, check, tmp_path):
    argv = ["--of", "scale", "--scales", "3"]
    out = check.succeeded(here("benchmark.py", *argv, "--record", "kept/speed.json"))
    (row,) = (line.split() for line in out.splitlines() if re.match(r" +\d", line))
    assert row == ["3", *["1.0"] * 5]
    file = tmp_path / "kept" / "speed.json"
    kept = json.loads(file.read_text())
    assert set(kept) == {f"scale: 3 {what}" for what in ("fit", "step", "generate", "compose", "memory")}
    file.write_text(json.dumps(kept | {"scale: 3 fit": 0.5, "another row": 0.1}))
    failure = check.failed(here("benchmark.py", *argv, "--check", file))
    assert failure.endswith(f"slower than {file} has it: scale: 3 fit (100%)")
    assert "nowhere.json does not exist" in check.failed(here("benchmark.py", *argv, "--check", "nowhere.json"))

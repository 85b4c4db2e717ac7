"""Damaged and hostile versions of files: of their bytes, of what their headers say, of their values."""

import io
import json
import math
import os
import pickle
import struct
import zipfile

import numpy as np

HOSTILE = (
    None,
    True,
    -1,
    0,
    1.5,
    2**31,
    10**9,
    2**63,
    10**400,
    "",
    "x",
    "../../x",
    "\x00",
    "a" * 100_000,
    [],
    {},
    [[]],
)


class Runs:
    """If anything unpickles it, a folder is made."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def bytes_of(content, rng):
    """Some bytes are other ones, gone, or twice there."""
    content = bytearray(content)
    size = len(content)
    if not size:
        return b"x", "no byte became one"
    place = rng.randrange(size)
    if rng.random() < 0.4:
        place = min(size - 1, int(rng.expovariate(1 / 60)))  # headers are in front
    kind = rng.choice(["bit", "bit", "byte", "zeros", "cut", "short", "twice", "noise", "empty", "end"])
    if kind == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        content[place] = rng.randrange(256)
    elif kind == "zeros":
        content[place : place + 40] = bytes(len(content[place : place + 40]))
    elif kind == "cut":
        del content[place : place + rng.randrange(1, 200)]
    elif kind == "short":
        del content[place:]
    elif kind == "twice":
        content[place:place] = content[place : place + 100]
    elif kind == "noise":
        content[place : place + 16] = rng.randbytes(len(content[place : place + 16]))
    elif kind == "empty":
        content.clear()
    else:
        content += rng.randbytes(rng.randrange(1, 100))
    return bytes(content), f"{kind} at {place} of {size}"


def json_of(text, rng):
    """One value of a JSON text is another one; or the text is too deep, or holds a number of thousands of digits."""
    kind = rng.choice(["value", "value", "value", "value", "key", "gone", "deep", "digits", "nan", "twice"])
    if kind == "deep":
        return "[" * 100_000 + "]" * 100_000, kind
    content = json.loads(text)
    places = list(_places(content))
    if not places or kind == "digits":
        return '{"a": ' + "9" * 6000 + "}", "digits"
    holder, key = rng.choice(places)
    said = f"{kind} {key!r}"
    if kind == "gone":
        del holder[key]
    elif kind == "key" and isinstance(holder, dict):
        holder[rng.choice(["", "x", "../x", str(key) + "2"])] = holder.pop(key)
    elif kind == "nan":
        holder[key] = rng.choice([math.nan, math.inf])
    elif kind == "twice" and isinstance(holder, list):
        holder.append(holder[key])
    else:
        value = rng.choice(HOSTILE)
        holder[key] = value
        said += f" {str(value)[:20]}"
    return json.dumps(content), said


def _places(content):
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(entries):
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def safetensors_of(content, rng):
    """A header that says something else of the tensors, or other values in them."""
    (size,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = header[name]
    kind = rng.choice(["dtype", "shape", "offsets", "gone", "name", "metadata", "nan", "inf", "size", "swap"])
    if kind == "dtype":
        entry["dtype"] = rng.choice(["I32", "U8", "BOOL", "F16", "F64", "I64", "C64", "X9"])
    elif kind == "shape":
        entry["shape"] = rng.choice([[], [0], [1, *entry["shape"]], entry["shape"][::-1], [2**40, 2**40], [-1]])
    elif kind == "offsets":
        entry["data_offsets"] = rng.choice([[0, 2**60], [5, 3], [0, 0], [-1, 4]])
    elif kind == "gone":
        del header[name]
    elif kind == "name":
        header[rng.choice(["", "x", "../x", "a" * 10_000])] = header.pop(name)
    elif kind == "metadata":
        entries = header.get("__metadata__", {})
        key = rng.choice([*entries, "format"])
        header["__metadata__"] = {**entries, key: rng.choice(["", "{", "[]", '{"version": 1}', "9" * 6000])}
        if entries.get(key, "").startswith("{"):
            header["__metadata__"][key] = json_of(entries[key], rng)[0]
    elif kind in ("nan", "inf") and entry["dtype"] == "F32" and entry["data_offsets"][1] > entry["data_offsets"][0]:
        start = entry["data_offsets"][0]
        body[start : start + 4] = np.float32(kind).tobytes()
    elif kind == "swap" and len(names) > 1:
        other = rng.choice(names)
        header[name], header[other] = header[other], header[name]
    text = json.dumps(header).encode()
    length = rng.choice([2**62, 0, len(text) + 9]) if kind == "size" else len(text)
    return struct.pack("<Q", length) + text + bytes(body), f"{kind} {name}"


def torch_of(content, rng, marker):
    """A file of torch.save with another pickle, other entries, or tensors of another kind."""
    kind = rng.choice(["pickle", "hostile", "raw hostile", "entry", "missing", "deflated", "outside"])
    if kind == "raw hostile":
        return pickle.dumps(Runs(marker), 2), kind
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).partition("/")[0]
    chosen = rng.choice(list(entries))
    compression = zipfile.ZIP_STORED
    if kind == "pickle":
        entries[f"{root}/data.pkl"] = bytes_of(entries[f"{root}/data.pkl"], rng)[0]
    elif kind == "hostile":
        entries[f"{root}/data.pkl"] = pickle.dumps({"state_dict": Runs(marker), "args": Runs(marker)}, 2)
    elif kind == "entry":
        entries[chosen] = bytes_of(entries[chosen], rng)[0]
    elif kind == "missing":
        del entries[chosen]
    elif kind == "deflated":
        compression = zipfile.ZIP_DEFLATED
        entries[chosen] = bytes(rng.choice([10, 30_000_000]))
    else:
        entries[f"{root}/../../outside"] = b"x"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue(), f"{kind} {chosen}"


def npy_of(content, rng):
    """An NPY header that says something else."""
    end = content.index(b"\n") + 1
    header = content[10:end].decode("latin1").strip()
    fields = eval(header, {}, {})
    kind = rng.choice(["shape", "descr", "order", "text", "length"])
    if kind == "shape":
        fields["shape"] = rng.choice([(), (-1,), (2**62,), (10**9, 10**9), (3,), fields["shape"][::-1]])
    elif kind == "descr":
        fields["descr"] = rng.choice(["|O", "<f8", "|u1", "<c8", "|V900", "x", "<U9"])
    elif kind == "order":
        fields["fortran_order"] = rng.choice([True, None, 3])
    text = str(fields)
    if kind == "text":
        text = rng.choice(["{", "{'descr': (", "[" * 5000, "__import__('os')", "\x00" * 30, "{'shape': 9**9**9}"])
    raw = text.encode() + b"\n"
    length = rng.choice([0, 65_535]) if kind == "length" else len(raw)
    return content[:8] + struct.pack("<H", length) + raw + content[end:], kind


def mutate(path, rng, marker):
    """Change one file; what was done, in words."""
    if rng.random() < 0.04:
        return f"{path.name} {_node(path, rng)}"
    content = path.read_bytes()
    special = {
        ".json": lambda: _texted(json_of, content, rng),
        ".safetensors": lambda: safetensors_of(content, rng),
        ".pt": lambda: torch_of(content, rng, marker),
        ".pth": lambda: torch_of(content, rng, marker),
        ".pkl": lambda: torch_of(content, rng, marker),
        ".bin": lambda: torch_of(content, rng, marker),
        ".npy": lambda: npy_of(content, rng),
        ".sums": lambda: _texted(json_of, content, rng),
    }.get(path.suffix)
    changed, said = special() if special and rng.random() < 0.6 else bytes_of(content, rng)
    path.write_bytes(changed)
    return f"{path.name} {said}"


def _texted(change, content, rng):
    text, said = change(content.decode(), rng)
    return text.encode("utf-8", "surrogatepass"), said


def _node(path, rng):
    """Something else than a file."""
    kind = rng.choice(["gone", "folder", "loop", "dangling", "null", "passwd"])
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        target = {"loop": path.name, "dangling": "/nowhere/x", "null": "/dev/null", "passwd": "/etc/passwd"}[kind]
        path.symlink_to(target)
    return kind

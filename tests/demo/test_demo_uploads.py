"""Files that are uploaded: what is taken, what is not, and that nothing else is touched."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from context_module.demo import Uploads
from context_module.errors import DataError


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path / "uploads")


@pytest.fixture
def incoming(uploads):
    """Writes a file where uploads arrive."""

    def write(name, content):
        path = uploads.folder / "incoming" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def picture(kind="PNG", size=(20, 10), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, 120).save(buffer, format=kind)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that says it is this large, and is a few bytes."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.jpeg", "JPEG"), ("d.webp", "WEBP")]
)
def test_images_are_taken(name, kind, uploads, incoming):
    path, content = incoming(name, picture(kind)), picture(kind)
    key = uploads.take(path)
    assert uploads.find(key).read_bytes() == content
    assert uploads.find(key).name == name.lower()
    assert uploads.find(key).is_relative_to(uploads.folder)
    assert not path.exists()  # it was moved
    assert uploads.take(incoming(name, content)) == key


def test_names_are_made_plain(uploads, incoming):
    key = uploads.take(incoming("..my photo'; é <b>.png", picture()))
    assert uploads.find(key).name == "my_photo_b.png"
    assert uploads.find(uploads.take(incoming("写真.png", picture(size=(9, 9))))).name == "image.png"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"not an image", "a.png cannot be read as an image: it is damaged, or something else"),
        ("a.png", picture()[:-30], "a.png cannot be read as an image"),
        ("a.png", picture("GIF", mode="L"), "a.png cannot be read as an image"),
        ("a.svg", b"<svg/>", "a.svg is not taken: expected an image, .png, .jpg, .jpeg, .webp"),
        ("a.npy", b"\x93NUMPY", "a.npy is not taken"),
        ("a", picture(), "a is not taken"),
        ("a.png", b"\0" * (8 * 2**20 + 1), "a.png has 8.0 MB, of at most 8: save it smaller"),
        ("a.png", png_header(5000, 4000), "a.png has 5000 x 4000 pixels, at most 16,777,216 are taken"),
        (
            "a.png",
            png_header(10_000, 10_000),
            "a.png has too many pixels, at most 16,777,216|a.png has 10000 x 10000 pixels",
        ),
        ("a.png", png_header(60_000, 60_000), "a.png has too many pixels, at most 16,777,216 are taken"),
        ("a.png", picture(size=(9, 1)), "a.png is 9 x 1, too narrow: crop it to at most 8 : 1"),
        ("a.png", png_header(0, 0), "a.png cannot be read as an image"),
    ],
)
def test_what_is_not_taken(name, content, message, uploads, incoming):
    path = incoming(name, content)
    with pytest.raises(DataError) as error:
        uploads.take(path)
    assert any(part in str(error.value) for part in message.split("|"))  # pillow may look at its size first
    assert str(uploads.folder) not in str(error.value)
    assert not path.exists()
    assert not list((uploads.folder / "kept").iterdir())


def test_no_other_file_is_read(uploads, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    (uploads.folder / "link.png").symlink_to(secret)
    for file in (secret, uploads.folder / "link.png", uploads.folder / ".." / "secret.png", "", uploads.folder):
        with pytest.raises(DataError, match="the file is not one that was uploaded: upload it again"):
            uploads.take(file)
    assert secret.read_bytes() == picture()
    for key in ("", "..", "../../secret.png", "0" * 32, "0" * 31 + "\n", "kept", "/etc/passwd"):
        with pytest.raises(DataError, match="the image of this link is not here any more: upload it again"):
            uploads.find(key)


def test_the_one_not_used_for_longest_goes(uploads, incoming):
    rng = np.random.default_rng(0)
    keys = []
    for number in range(34):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(buffer, format="PNG")
        keys.append(uploads.take(incoming("a.png", buffer.getvalue())))
        uploads.find(keys[0])
        assert len(set(keys)) == number + 1
    uploads.find(keys[0])
    uploads.find(keys[3])
    assert len(list((uploads.folder / "kept").iterdir())) == 32
    for key in keys[1:3]:
        with pytest.raises(DataError):
            uploads.find(key)


def test_what_arrives_and_is_not_taken_goes(uploads, incoming):
    for number in range(40):
        incoming(f"{number:02d}.png", b"")
    uploads.make_room()
    left = sorted(path.name for path in (uploads.folder / "incoming").iterdir())
    assert len(left) == 32
    assert left[-1] == "39.png"

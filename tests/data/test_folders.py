import pickle
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from context_module.data import image_folders, load_data, mixed_context_loader, pictures
from context_module.errors import ConceptError, DataError
from helpers.pictures import flat, save_picture


@pytest.fixture
def root(tmp_path):
    """Two images a context, each of one grey value; three file types."""
    for i, context in enumerate(["obs", "smile", "glasses", "smile+glasses"]):
        save_picture(tmp_path / context / "0.png", flat(40 * i))
        save_picture(tmp_path / context / "1.JPG", flat(40 * i + 20), quality=95)
    save_picture(tmp_path / "obs" / "2.npy", flat(250))
    return tmp_path


def test_contexts_concepts_and_images(root):
    data = image_folders(root)
    assert data.concepts == ["glasses", "smile"]
    assert data.train.context_names == ("obs", "glasses", "smile")
    assert data.held_out.context_names == ("glasses+smile",)
    assert (len(data.train), len(data.held_out)) == (7, 2)
    assert data.train.image_shape == data.held_out.image_shape == (3, 8, 8)
    obs = data.train.select("obs")
    assert obs.dtype == torch.float32
    assert (obs.mean((1, 2, 3)) * 255).tolist() == pytest.approx([0, 20, 250], abs=1)
    assert (data.train.select("glasses")[0] * 255).mean() == pytest.approx(80)
    item = data.held_out[0]
    assert item["mask"].tolist() == [True, True]
    assert (item["x"] * 255).mean() == pytest.approx(120)


def test_given_concepts_set_the_order_and_may_lack_a_folder(root):
    data = image_folders(root, concepts=["smile", "hat", "glasses"])
    assert data.train.context_names == ("obs", "smile", "glasses")
    assert data.held_out[0]["mask"].tolist() == [True, False, True]


def test_without_compositions_nothing_is_held_out(root):
    for path in (root / "smile+glasses").iterdir():
        path.unlink()
    (root / "smile+glasses").rmdir()
    assert image_folders(root).held_out is None


def test_loads_by_directory_in_batches_and_from_workers(root):
    data = load_data(root, resolution=4, channels=1)
    train, val = data.train.split(0.5)
    assert (len(train), len(val)) == (3, 4)
    assert torch.equal(pickle.loads(pickle.dumps(train))[0]["x"], train[0]["x"])
    (batch,) = mixed_context_loader(data.train, 6, 0, num_steps=1)
    assert batch["x"].shape == (6, 1, 4, 4)
    assert load_data(str(root)).train.image_shape == (3, 8, 8)
    with pytest.raises(DataError, match="data takes no option 'samples_per_context'; its options: root, concepts"):
        load_data(root, samples_per_context=5)


def test_hidden_entries_are_passed_over_and_other_files_counted(root):
    save_picture(root / ".cache" / "0.png", flat(0))
    (root / "obs" / ".DS_Store").write_text("")
    (root / "README.md").write_text("about")
    assert len(image_folders(root).train) == 7
    (root / "obs" / "notes.txt").write_text("")
    (root / "obs" / "0.heic").write_text("")
    (root / "smile" / "0.HEIC").write_text("")
    with pytest.warns(UserWarning, match="ignored 3 files .*: 2 .heic, 1 .txt, the first one .*0.heic"):
        data = image_folders(root)
    assert len(data.train) == 7
    assert data.describe().endswith("; left out: .cache, 2 .heic, 1 .txt")


def test_folders_of_systems_and_those_without_images_are_no_concepts(root):
    for name in ("@eaDir", "__MACOSX", ".git", ".ipynb_checkpoints"):
        save_picture(root / name / "0.png", flat(0))
        save_picture(root / "obs" / name / "0.png", flat(0))
    (root / "to_do" / "below").mkdir(parents=True)
    data = image_folders(root)
    assert data.describe() == (
        "contexts: obs (3), glasses (2), smile (2); held out: glasses+smile (2); "
        "left out: .git, .ipynb_checkpoints, @eaDir, __MACOSX, to_do (no images)"
    )


def test_images_below_a_context_are_of_that_context_in_the_order_of_their_paths(root):
    save_picture(root / "smile" / "b" / "c" / "0.png", flat(200))
    save_picture(root / "smile" / "a" / "0.png", flat(150))
    (root / "smile" / "again").symlink_to(root / "smile" / "a", target_is_directory=True)
    with pytest.warns(UserWarning, match="ignored 1 files .* the first one .*again"):
        images = image_folders(root).train.select("smile")
    assert (images.mean((1, 2, 3)) * 255).round().tolist() == pytest.approx([40, 60, 150, 200], abs=1)


@pytest.mark.parametrize("name", ["0.webp", "0.bmp", "0.TIF", "0.tiff", "0.gif", "0.PNG", "0.JPeG"])
def test_types_of_files(root, name):
    save_picture(root / "hat" / name, flat(80))
    assert (image_folders(root).train.select("hat") * 255).mean() == pytest.approx(80, abs=1)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_forms_of_unicode_are_one_name(root, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (root / "smile").rename(root / unicodedata.normalize(form, "Bäckchen"))
    (root / "smile+glasses").rename(root / f"glasses+{unicodedata.normalize(other, 'Bäckchen')}")
    for concepts in (None, ["Bäckchen", "glasses"], unicodedata.normalize("NFD", "glasses,Bäckchen")):
        data = image_folders(root, concepts=concepts)
        assert set(data.concepts) == {unicodedata.normalize("NFC", "Bäckchen"), "glasses"}
        assert len(data.held_out) == 2
    save_picture(root / unicodedata.normalize(other, "Bäckchen") / "0.png", flat(0))
    with pytest.raises(DataError, match="two folders of context 'Bäckchen'"):
        image_folders(root)


# --- sizes and channels ------------------------------------------------------------------------------------------


def test_resolution_scales_the_shorter_side_and_crops_the_centre(root):
    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = 200  # the centre square
    save_picture(root / "obs" / "0.png", wide)
    save_picture(root / "obs" / "1.JPG", wide.transpose(1, 0, 2), quality=100)
    for resolution in (4, 16, 32):
        images = image_folders(root, resolution=resolution).train.select("obs")
        assert images.shape == (3, 3, resolution, resolution)
        inner = images[:2, :, 1:-1, 1:-1] * 255  # the outermost pixels mix in what was cropped
        assert (inner - 200).abs().max() < 8
        assert images.min() >= 0
        assert images.max() <= 1


def test_downscaling_is_antialiased(root):
    stripes = flat(0, 64, 64)
    stripes[:, ::2] = 255
    save_picture(root / "obs" / "0.png", stripes)
    x = image_folders(root, resolution=8).train[0]["x"]
    assert (x[:, :, 1:-1] - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("turn", [None, 6])  # by a quarter, as its EXIF says
def test_large_jpegs_are_decoded_at_a_part_of_their_size(root, turn, monkeypatch):
    coarse = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture, exif = Image.fromarray(coarse).resize((360, 240), Image.Resampling.BICUBIC), Image.Exif()
    if turn:
        exif[0x0112] = turn
    (root / "obs" / "0.png").unlink()
    picture.save(root / "obs" / "0.jpg", quality=95, exif=exif)
    data = image_folders(root, resolution=32).train
    sizes, pixels = [], pictures.picture_pixels
    monkeypatch.setattr(pictures, "picture_pixels", lambda *a: sizes.append(a[0].size) or pixels(*a))
    quick = data[0]["x"]
    assert sizes == [(90, 60)]
    upright = np.asarray(picture.rotate(-90, expand=True) if turn else picture)
    whole = pictures.ImageReader((3, 32, 32), True).fit(pictures.as_image(upright, "it"), "it")
    torch.testing.assert_close(quick, whole, rtol=0, atol=0.03)


def test_odd_sizes_come_out_exact(root):
    save_picture(root / "obs" / "0.png", flat(7, 31, 53))
    save_picture(root / "obs" / "1.JPG", flat(7, 53, 31))
    assert image_folders(root, resolution=10).train.select("obs").shape == (3, 3, 10, 10)


def test_differing_sizes_need_a_resolution(root):
    save_picture(root / "smile" / "0.png", flat(0, 8, 9))
    data = image_folders(root)
    with pytest.raises(DataError, match=r"smile.0.png has 8x9 pixels where the first image has 8x8: set resolution"):
        data.train.select("smile")


def test_channels(root):
    coloured = np.zeros((8, 8, 3), dtype=np.uint8)
    coloured[..., 0] = 255
    save_picture(root / "obs" / "0.png", coloured)
    save_picture(root / "obs" / "1.JPG", np.full((8, 8), 100, dtype=np.uint8))  # grey among colours
    save_picture(root / "obs" / "2.npy", np.ones((8, 8)))
    rgb = image_folders(root).train.select("obs")
    assert rgb[0, :, 0, 0].tolist() == [1, 0, 0]
    assert (rgb[1] * 255).mean() == pytest.approx(100, abs=1)
    assert rgb[2].min() == 1
    grey = image_folders(root, channels=1).train.select("obs")
    assert grey.shape == (3, 1, 8, 8)
    assert grey[0].mean() == pytest.approx(0.299)
    for path in root.rglob("*.*"):
        save_picture(path, np.full((8, 8), 100, dtype=np.uint8))
    assert image_folders(root).train.image_shape == (1, 8, 8)
    save_picture(root / "smile+glasses" / "1.JPG", flat(100))  # colour anywhere counts
    assert image_folders(root).train.image_shape == (3, 8, 8)
    with pytest.raises(DataError, match="channels must be 1 .* or 3 .*, got 4"):
        image_folders(root, channels=4)
    with pytest.raises(DataError, match="positive number of pixels, or height and width, got 0"):
        image_folders(root, resolution=0)


def test_picture_modes(root):
    Image.fromarray(flat(50)).quantize(4).save(root / "obs" / "0.png")
    save_picture(root / "obs" / "1.JPG", np.full((8, 8), 50 * 257, dtype=np.uint16), format="png")
    images = image_folders(root).train.select("obs", 2)
    assert (images * 255).round().unique().tolist() == [50]
    Image.fromarray(np.full((8, 8), 0.2, dtype=np.float32)).save(root / "obs" / "0.tif")
    data = image_folders(root)
    with pytest.raises(DataError, match="0.tif has pixels of mode 'F': expected 8 bits per channel, or grey of 16"):
        data.train.select("obs")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_what_is_transparent_is_black(root, mode):
    colours = np.full((8, 8, 4), 200, dtype=np.uint8)
    colours[..., 3] = 255
    colours[:4] = 90, 90, 90, 0
    options = {}
    if mode == "P":
        picture = Image.fromarray((colours[..., 0] > 100).astype(np.uint8), "P")
        picture.putpalette([90, 90, 90, 200, 200, 200])
        options["transparency"] = 0
    else:
        picture = Image.fromarray(colours).convert(mode)
        options |= {"transparency": 90} if mode == "L" else {}
    picture.save(root / "obs" / "0.png", **options)
    (image,) = image_folders(root).train.select("obs", 1) * 255
    assert image[:, :4].unique().tolist() == [0]
    assert image[:, 4:].round().unique().tolist() == [200]


def test_half_transparent_colours_are_half_as_bright(root):
    save_picture(root / "obs" / "0.png", np.full((8, 8, 4), 128, dtype=np.uint8))
    assert (image_folders(root).train.select("obs", 1) * 255).unique().item() == pytest.approx(64, abs=1)


def every_file(root, pixels, suffix=".npy"):
    for path in sorted(path for path in root.rglob("*.*")):
        path.unlink()
        save_picture(path.with_suffix(suffix), pixels)


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_a_set_of_masks_is_white_where_they_are_one(root, suffix):
    mask = np.eye(8, dtype=np.uint8)
    every_file(root, mask, suffix)
    with pytest.warns(UserWarning, match="the largest value in the images beside .*obs.* is 1, of 255"):
        data = image_folders(root)
    for part in (data.train, data.held_out):
        assert part.select(part.context_names[-1])[0, 0].equal(torch.eye(8))
    save_picture((root / "smile" / "2").with_suffix(suffix), 2 * mask)  # pictures, if dark ones
    assert image_folders(root).train.select("obs").max() == pytest.approx(1 / 255)


def test_bool_needs_no_guess_and_black_is_no_mask(root):
    every_file(root, np.eye(8, dtype=bool))
    assert image_folders(root).train.select("obs").max() == 1
    every_file(root, np.zeros((8, 8), dtype=np.uint8))
    assert image_folders(root).train.select("obs").max() == 0


def test_pictures_stand_as_their_exif_says(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save_picture(root / "obs" / "0.png", flat(0, 8, 16), exif=exif)
    assert image_folders(root).train.image_shape == (3, 16, 8)


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [
        (np.full((8, 8), 0.5, dtype=np.float32), (1, 8, 8)),
        (np.full((8, 8, 1), 0.5), (1, 8, 8)),
        (np.full((8, 8, 3), 0.5, dtype=">f4"), (3, 8, 8)),
        (np.full((3, 8, 8), 0.5, dtype=np.float16), (3, 8, 8)),
        (np.full((1, 8, 8), 128, dtype=np.uint8), (1, 8, 8)),
    ],
)
def test_npy_layouts(root, pixels, shape):
    save_picture(root / "obs" / "0.npy", pixels)
    train = image_folders(root, channels=shape[0]).train
    assert train.image_shape == shape
    assert train[0]["x"].numpy() == pytest.approx(0.5, abs=0.01)


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0.5, np.nan]]), "holds NaN or infinite values"),
        (np.array([[0.5, np.inf]]), "holds NaN or infinite values"),
        (np.array([[0.0, 255.0]]), r"holds floats from 0 to 255: expected \[0, 1\]"),
        (np.array([[-0.5, 0.5]]), "holds floats from -0.5 to 0.5"),
        (np.zeros((8, 8), dtype=np.int64), "holds int64: expected an array of uint8, bool, or of floats"),
        (np.zeros((8, 8, 4), dtype=np.uint8), r"has shape \(8, 8, 4\): expected one image"),
        (np.zeros((2, 3, 8, 8), dtype=np.uint8), r"has shape \(2, 3, 8, 8\): expected one image"),
        (np.zeros((0, 8), dtype=np.uint8), r"has shape \(0, 8\)"),
    ],
)
def test_unusable_npy(root, pixels, message):
    save_picture(root / "smile" / "bad.npy", pixels)
    with pytest.raises(DataError, match=r"bad.npy " + message):
        image_folders(root).train.select("smile")
    with pytest.warns(UserWarning, match=r"skipped 1 corrupt or unusable images: .*bad.npy"):
        assert len(image_folders(root, skip_corrupt=True).train) == 7


def test_links_to_nothing_are_skipped(root):
    (root / "smile" / "2.png").symlink_to(root / "nowhere.png")
    with pytest.warns(UserWarning, match=r"skipped 1 corrupt or unusable images: .*2.png"):
        assert len(image_folders(root, skip_corrupt=True).train) == 7
    with pytest.raises(FileNotFoundError, match=r"2\.png"):
        image_folders(root).train.select("smile")


def test_pickled_npy_is_refused_unread(root):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    np.save(root / "smile" / "bad.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"cannot read .*bad.npy.*Python objects in dtype"):
        image_folders(root).train.select("smile")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


@pytest.mark.parametrize("name", ["0.png", "1.JPG", "2.npy"])
def test_corrupt_images_are_named_or_skipped(root, name):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save_picture(root / "smile" / "2.npy", noise)
    save_picture(root / "smile" / "0.png", noise)
    truncate(root / "smile" / name)
    data = image_folders(root)
    with pytest.raises(DataError, match=rf"cannot read .*smile.{name}: .*skip_corrupt=True"):
        data.train.select("smile")
    with pytest.warns(UserWarning, match=rf"skipped 1 corrupt or unusable images: .*smile.{name}"):
        data = image_folders(root, skip_corrupt=True)
    assert len(data.train.select("smile")) == 2
    assert len(data.train) == 7


def test_not_an_image_at_all(root):
    (root / "obs" / "0.png").write_text("hello")
    with pytest.raises(DataError, match=r"cannot read .*obs.0.png"):
        image_folders(root)  # the first image is read at once
    with pytest.warns(UserWarning, match="skipped 1 corrupt"):
        assert len(image_folders(root, skip_corrupt=True).train.select("obs")) == 2


def test_a_context_of_corrupt_images_only(root):
    for path in (root / "smile").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="all 2 images of context 'smile' are corrupt or unusable"):
        image_folders(root, skip_corrupt=True)


def test_folder_errors(root, tmp_path_factory):
    with pytest.raises(DataError, match="no folder .*nowhere: expected one that holds a folder per context"):
        image_folders(root / "nowhere")
    with pytest.raises(ConceptError, match="folder .*smile.*: unknown concept 'smile'"):
        image_folders(root, concepts=["glasses"])
    save_picture(root / "smile+hat" / "0.png", flat(0))
    with pytest.raises(ConceptError, match=r"folder .*smile\+hat: unknown concept 'hat' in context 'smile\+hat'"):
        image_folders(root)
    assert image_folders(root, concepts=["glasses", "smile", "hat"]).held_out.context_names[-1] == "smile+hat"
    save_picture(root / "glasses+smile" / "0.png", flat(0))
    with pytest.raises(DataError, match=r"two folders of context 'glasses\+smile'"):
        image_folders(root, concepts=["glasses", "smile", "hat"])

    other = tmp_path_factory.mktemp("other")
    save_picture(other / "smile" / "0.png", flat(0))
    with pytest.raises(DataError, match="no folder 'obs' in .*; folders with images: smile"):
        image_folders(other)
    (other / "smile").rename(other / "obs")
    with pytest.raises(DataError, match="no folder of a single concept in .*; folders with images: obs"):
        image_folders(other)


def test_without_pillow_npy_still_works(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install context-module\[train\]"):
        image_folders(root)
    for path in root.rglob("*.*"):
        if path.suffix in (".png", ".JPG"):
            save_picture(path.with_suffix(".npy"), flat(0))
            path.unlink()
    assert len(image_folders(root).train.select("obs")) == 3

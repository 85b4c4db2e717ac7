import gc
import importlib
import json
import pickle
import sys
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from context_module.data import load_data, mixed_context_loader
from context_module.data.hub import hub_dataset
from context_module.errors import ConceptError, DataError
from helpers.pictures import flat, rows_of

datasets = importlib.import_module("datasets")

CONTEXTS = ["obs", "smile", "glasses", "smile+glasses", "glasses", "obs", "smile", "obs"]


@pytest.fixture(autouse=True)
def quiet_and_cached_here(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    yield
    if not shown:
        datasets.enable_progress_bars()


def pictures(n=8):
    return [Image.fromarray(flat(10 * i)) for i in range(n)]


def made(contexts=CONTEXTS, images=None, **columns):
    """Image i is of grey value 10 i."""
    images = pictures(len(contexts)) if images is None else images
    data = datasets.Dataset.from_dict({"image": images, "context": contexts, **columns})
    return data.cast_column("image", datasets.Image()) if isinstance(images[0], Image.Image) else data


@pytest.fixture
def save(tmp_path):
    """Writes a data set to disk; returns the folder."""

    def save(data):
        data.save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    return save


def check(data):
    assert data.concepts == ["glasses", "smile"]
    assert data.train.context_names == ("obs", "glasses", "smile")
    assert data.held_out.context_names == ("glasses+smile",)
    assert rows_of(data.train, "obs") == [0, 5, 7]
    assert rows_of(data.train, "glasses") == [2, 4]
    assert rows_of(data.train, "smile") == [1, 6]
    assert rows_of(data.held_out, "smile+glasses") == [3]
    assert data.train.image_shape == data.train[0]["x"].shape == (3, 8, 8)
    assert data.train[0]["x"].dtype == torch.float32


# --- where data comes from ---------------------------------------------------------------------------------------


def test_a_data_set_saved_to_disk(save):
    data = hub_dataset(save(made()))
    check(data)
    assert data.test is None
    assert data.graph is None
    assert data.train.factors is None


def test_a_parquet_file(tmp_path):
    made().to_parquet(tmp_path / "faces.parquet")
    check(hub_dataset(tmp_path / "faces.parquet"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datasets leaves closing metadata.csv to the interpreter
def test_a_folder_of_images_with_metadata(tmp_path):
    root = tmp_path / "faces"
    root.mkdir()
    lines = ["file_name,context"]
    for i, context in enumerate(CONTEXTS):
        Image.fromarray(flat(10 * i)).save(root / f"{i}.png")
        lines.append(f"{i}.png,{context}")
    (root / "metadata.csv").write_text("\n".join(lines))
    check(hub_dataset(str(root)))
    gc.collect()  # while the warning is ignored


def test_a_folder_of_images_in_classes(tmp_path):
    for i, context in enumerate(CONTEXTS):
        (tmp_path / "faces" / context).mkdir(parents=True, exist_ok=True)
        Image.fromarray(flat(10 * i)).save(tmp_path / "faces" / context / f"{i}.png")
    check(hub_dataset(tmp_path / "faces", context_column="label"))


def test_class_labels_and_other_column_names(save):
    data = made().rename_columns({"image": "img", "context": "who"}).class_encode_column("who")
    check(hub_dataset(save(data), context_column="who", image_column="img"))


def test_splits(save):
    test = made(["smile", "glasses+smile", "obs", "smile"])
    path = save(datasets.DatasetDict(train=made(), validation=made(["obs", "smile"]), test=test))
    data = hub_dataset(path)
    check(data)
    assert data.test.context_names == ("obs", "smile")
    assert rows_of(data.test, "smile") == [0, 3]
    assert rows_of(data.test, "obs") == [2]
    on_test = hub_dataset(path, split="test", concepts="glasses,smile")
    assert rows_of(on_test.train, "smile") == [0, 3]
    assert on_test.test is None
    with pytest.raises(DataError, match="no split 'all' in .*; its splits: train, validation, test"):
        hub_dataset(path, split="all")


def test_a_data_set_saved_on_its_own_may_know_its_split(save):
    features = made().features
    data = datasets.Dataset.from_dict(made()[:], features, split=datasets.Split.VALIDATION)
    path = save(data)
    check(hub_dataset(path, split="validation"))
    with pytest.raises(DataError, match="no split 'train' in .*; its splits: validation"):
        hub_dataset(path)


def test_what_cannot_be_loaded(tmp_path, save):
    for path in ("nobody/nothing", "./nowhere"):
        with pytest.raises(
            DataError, match=rf"cannot load the data set '{path}': .* HF_HUB_OFFLINE set must be in the"
        ):
            hub_dataset(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot load the data set .*empty"):
        hub_dataset(tmp_path / "empty")
    path = save(made())
    (path / json.loads((path / "state.json").read_text())["_data_files"][0]["filename"]).write_bytes(b"no arrow")
    with pytest.raises(DataError, match="cannot load the data set .*saved"):
        hub_dataset(path)


def test_without_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install context-module\[data\]"):
        hub_dataset("any")


# --- what it is --------------------------------------------------------------------------------------------------


def test_loads_by_name_in_batches_and_from_workers(save):
    data = load_data("datasets", path=str(save(made())), concepts="smile, glasses", resolution=4, channels=1)
    assert data.concepts == ["smile", "glasses"]
    assert data.train.image_shape == (1, 4, 4)
    (batch,) = mixed_context_loader(data.train, 6, 0, num_steps=1)
    assert batch["x"].shape == (6, 1, 4, 4)
    assert batch["mask"].sum(0).tolist() == [2, 2]
    train, val = pickle.loads(pickle.dumps(data.train)).split(0.5)
    assert torch.equal(train[0]["x"], data.train[train._rows[0].item()]["x"])
    assert len(train) + len(val) == 7


def test_images_stay_on_disk(save):
    noise = np.random.default_rng(0).integers(0, 256, (4, 200, 200, 3), dtype=np.uint8)
    data = hub_dataset(save(made(["obs", "a", "obs", "a"], [Image.fromarray(image) for image in noise])))
    assert len(pickle.dumps(data.train)) < 10_000
    assert torch.equal(
        (data.train.select("a") * 255).round().byte(), torch.from_numpy(noise[[1, 3]]).permute(0, 3, 1, 2)
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("kind", ["array", "lists"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (3, 6, 5)])
def test_columns_of_arrays(save, dtype, kind, shape):
    arrays = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    stored = arrays if dtype == "uint8" else (arrays / 255).astype(dtype)
    if kind == "lists":
        feature = datasets.Value(dtype)
        for _ in shape:
            feature = datasets.Sequence(feature)
    else:
        feature = (datasets.Array2D if len(shape) == 2 else datasets.Array3D)(shape, dtype)
    features = datasets.Features(image=feature, context=datasets.Value("string"))
    contexts = ["obs", "a", "a", "obs"]
    path = save(
        datasets.Dataset.from_dict({"image": stored.tolist(), "context": contexts}, features).with_format("torch")
    )
    images = hub_dataset(path).train.select("a")
    expected = torch.from_numpy(arrays[1:3].reshape(2, -1, 6, 5))
    assert torch.equal((images * 255).round().byte(), expected)


def test_pictures_that_are_stored_encoded_or_turned_or_grey(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = made(images=[Image.fromarray(flat(10 * i, 8, 12)) for i in range(8)])
    path = save(data.cast_column("image", datasets.Image(decode=False)))
    assert hub_dataset(path).train.image_shape == (3, 8, 12)
    grey = [Image.fromarray(flat(10 * i)[..., 0]) for i in range(8)]
    other = hub_dataset(save(made(images=grey)))
    assert other.train.image_shape == (1, 8, 8)
    assert rows_of(other.train, "smile") == [1, 6]


def test_colour_anywhere_in_the_column_counts(save):
    images = [Image.fromarray(flat(10 * i) if i == 5 else flat(10 * i)[..., 0]) for i in range(8)]
    assert hub_dataset(save(made(images=images))).train.image_shape == (3, 8, 8)


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_columns_of_masks(dtype):
    features = datasets.Features(image=datasets.Array2D((4, 4), dtype), context=datasets.Value("string"))
    rows = {"image": [np.eye(4, dtype=dtype).tolist()] * 4, "context": ["obs", "a"] * 2}
    data = datasets.Dataset.from_dict(rows, features)
    if dtype == "bool":
        images = hub_dataset(data).train.select("a")
    else:
        with pytest.warns(UserWarning, match="the largest value in column 'image' is 1, of 255"):
            images = hub_dataset(data).train.select("a")
    assert images[0, 0].equal(torch.eye(4))


# --- data sets that are in Python already


def test_a_data_set_in_memory_and_splits_of_it():
    check(hub_dataset(made()))
    check(load_data("datasets", path=made(), resolution=8))
    splits = {"train": made(), "test": made(["smile", "obs"])}
    for given in (splits, datasets.DatasetDict(splits)):
        data = hub_dataset(given)
        check(data)
        assert data.test.context_names == ("obs", "smile")
    with pytest.raises(DataError, match="no split 'all' in the data set; its splits: train, test"):
        hub_dataset(splits, split="all")
    with pytest.raises(DataError, match="split 'train' is a list: expected a Dataset or an IterableDataset"):
        hub_dataset({"train": [1]})


def streamed(data, kind):
    """A stream that knows its features, or one that does not."""
    if kind == "features":
        return data.to_iterable_dataset()
    return datasets.IterableDataset.from_generator(lambda: iter(data))


@pytest.mark.parametrize("kind", ["features", "plain"])
def test_a_stream_is_read_up_to_a_number_of_examples(kind):
    stream = streamed(made(CONTEXTS * 3, value=range(24), other=["x"] * 24), kind)
    data = hub_dataset(stream, max_examples=8, factor_columns="value")
    check(data)
    assert data.train.factors.flatten().tolist() == [0, 5, 7, 2, 4, 1, 6]
    assert len(hub_dataset(stream).train) == 21
    again = pickle.loads(pickle.dumps(data.train))
    assert again.select("obs").equal(data.train.select("obs"))


def test_a_stream_of_splits_and_of_class_labels():
    labels = datasets.ClassLabel(names=sorted(set(CONTEXTS)))
    stream = made().cast_column("context", labels).to_iterable_dataset()
    check(hub_dataset(datasets.IterableDatasetDict({"train": stream})))


def test_streams_that_cannot_be_used():
    with pytest.raises(DataError, match="max_examples must be at least 1, got 0"):
        hub_dataset(streamed(made(), "features"), max_examples=0)
    with pytest.raises(DataError, match="no column 'photo' in split 'train'; its columns: context"):
        hub_dataset(streamed(made(), "features"), image_column="photo")
    with pytest.raises(DataError, match="split 'train' is a stream without examples"):
        hub_dataset(streamed(made(), "features").skip(8))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_forms_of_unicode_are_one_context(form):
    one, other = (unicodedata.normalize(name, "café") for name in (form, "NFC"))
    data = hub_dataset(made(["obs", one, other, "obs"]))
    assert data.concepts == [unicodedata.normalize("NFC", "café")]
    assert len(data.train.select(unicodedata.normalize("NFC", "café"))) == 2


def test_factors(save):
    age, size = [float(i) for i in range(8)], list(range(0, 16, 2))
    data = hub_dataset(save(made(age=age, size=size)), factor_columns="size,age")
    assert data.train.factor_names == ("size", "age")
    assert data.train.factors.dtype == torch.float32
    assert data.train.factors.tolist() == [[2 * i, i] for i in (0, 5, 7, 2, 4, 1, 6)]
    assert data.held_out.factors.tolist() == [[6, 3]]


# --- errors ------------------------------------------------------------------------------------------------------


def test_columns_that_are_missing_or_of_another_kind(save):
    path = save(made(age=[1.0, None] * 4, note=["a"] * 8))
    for column in ("context_column", "image_column", "factor_columns"):
        with pytest.raises(
            DataError, match=r"no column 'who' in split 'train'; its columns: image, context, age, note\."
        ):
            hub_dataset(path, **{column: ["who"] if column == "factor_columns" else "who"})
    with pytest.raises(DataError, match=r"column 'age' holds Value.*: expected context names, as strings"):
        hub_dataset(path, context_column="age")
    with pytest.raises(
        DataError, match=r"column 'note' holds Value.*: expected images, or arrays .* cast_column\('note'"
    ):
        hub_dataset(path, image_column="note")
    with pytest.raises(DataError, match="row 0 of split 'train' holds float64: expected an array"):
        hub_dataset(path, image_column="age")
    with pytest.raises(DataError, match="column 'note' holds Value.*: expected numbers for a factor"):
        hub_dataset(path, factor_columns=["note"])
    with pytest.raises(DataError, match="no finite number in row 1 of split 'train', column 'age'"):
        hub_dataset(path, factor_columns=["age"])


def test_contexts_that_are_missing(save, tmp_path):
    with pytest.raises(DataError, match="no context 'obs' in column 'context'; contexts found: a, a\\+b"):
        hub_dataset(save(made(["a", "a+b"])))
    with pytest.raises(
        DataError, match="no context of a single concept in column 'context'; contexts found: a\\+b, obs"
    ):
        hub_dataset(save(made(["obs", "a+b"])))
    with pytest.raises(DataError, match="no context in row 2 of split 'train', column 'context': write 'obs' for no"):
        hub_dataset(save(made(["obs", "a", None])))
    labelled = made([0, 1, -1]).cast_column("context", datasets.ClassLabel(names=["obs", "a"]))
    with pytest.raises(DataError, match="no context in row 2 of split 'train', column 'context'"):
        hub_dataset(save(labelled))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("smile + glasses", "row 3 of split 'train', column 'context': unknown concept 'smile ' in context"),
        ("smile+hat", "row 3 of split 'train', column 'context': unknown concept 'hat' in context 'smile\\+hat'"),
        ("smile+", "row 3 of split 'train', column 'context': unknown concept ''"),
        ("smile+smile", "row 3 of split 'train', column 'context': .* names a concept more than once"),
        ("big smile", "column 'context': 'big smile' cannot name a concept"),
        ("", "column 'context': '' cannot name a concept"),
    ],
)
def test_contexts_that_are_no_names(save, context, message):
    with pytest.raises(ConceptError, match=message):
        hub_dataset(save(made(["obs", "smile", "glasses", context])))


def test_images_of_several_sizes_need_a_resolution(save):
    images = pictures()
    images[6] = Image.fromarray(flat(60, 8, 12))
    path = save(made(images=images))
    with pytest.raises(DataError, match="row 6 of split 'train' has 8x12 pixels where the first image has 8x8: set"):
        hub_dataset(path).train.select("smile")
    assert rows_of(hub_dataset(path, resolution=6).train, "smile") == [1, 6]


def test_unreadable_and_missing_images_are_named_by_row(save):
    encoded = made().cast_column("image", datasets.Image(decode=False))[:]["image"]
    encoded[6] = {"bytes": encoded[6]["bytes"][:40], "path": None}
    encoded[4] = None
    features = datasets.Features(image=datasets.Image(), context=datasets.Value("string"))
    data = hub_dataset(save(datasets.Dataset.from_dict({"image": encoded, "context": CONTEXTS}, features)))
    assert rows_of(data.train, "obs") == [0, 5, 7]
    with pytest.raises(DataError, match="cannot read the image in row 6 of split 'train', column 'image': .*Replace"):
        data.train.select("smile")
    with pytest.raises(
        DataError, match="no image in row 4 of split 'train', column 'image': add it or remove the row"
    ):
        data.train.select("glasses")


def test_pixels_out_of_range_are_named_by_row(save):
    arrays = np.zeros((2, 4, 4), dtype=np.float32)
    arrays[0, 0, 0] = 255
    with pytest.raises(DataError, match="row 0 of split 'train' holds floats from 0 to 255"):
        hub_dataset(save(made(["obs", "a"], arrays.tolist())))
    with pytest.raises(DataError, match="column 'image' holds .*int64.*: expected images, or arrays of uint8"):
        hub_dataset(save(made(["obs", "a"], arrays.astype(int).tolist())))

"""Texts in contexts: token ids, views of them, and folders of text files."""

import pickle

import pytest
import torch

from context_module.data import TextContextDataset, load_data, mixed_context_loader, text_folders
from context_module.errors import ConceptError, DataError

END = 9


def tokenize(texts, names=None):
    """A digit per letter, then the end token."""
    for number, text in enumerate(texts):
        if "?" in text:
            raise DataError(f"{names[number] if names else number} cannot be read")
    return [torch.tensor([*(ord(letter) - ord("a") for letter in text), END]) for text in texts]


def dataset(**options):
    texts = ["ab", "c", "abcd", "d", "bb", "aaa"]
    return TextContextDataset(texts, [0, 0, 1, 1, 2, 2], ["obs", "x", "y"], ["x", "y"], **options)


@pytest.fixture
def corpora(tmp_path):
    files = {
        "obs/1.txt": "ab\n\n  c  \n",
        "obs/2.txt": "d\n",
        "x/1.TXT": "aa\nbb\n",
        "y/1.txt": "cd\n",
        "x+y/1.txt": "ac",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def test_items_are_token_ids_filled_up_with_the_end_token():
    data = dataset(tokenize=tokenize)
    assert data[1]["x"].tolist() == [2, END]
    assert data[2]["mask"].tolist() == [True, False]
    assert data.read(torch.tensor([0, 2])).tolist() == [[0, 1, END, END, END], [0, 1, 2, 3, END]]
    assert data.select("y").tolist() == [[1, 1, END, END], [0, 0, 0, END]]
    assert data.kind == "texts"


def test_batches_are_as_long_as_their_longest_text():
    (batch,) = mixed_context_loader(dataset(tokenize=tokenize), 6, 0, num_steps=1)
    assert batch["x"].dtype == torch.int64
    assert batch["x"].shape == (6, 5)
    assert batch["mask"].shape == (6, 2)


def test_views_and_pickles_keep_their_texts():
    data = dataset(tokenize=tokenize)
    assert data.only(["y", "obs"]).texts() == ["ab", "c", "bb", "aaa"]
    assert data.texts("y", 1) == data.only(["y"]).texts(n=1) == ["bb"]
    assert data.of_concepts(["x"]).texts() == ["ab", "c", "abcd", "d"]
    again = pickle.loads(pickle.dumps(data.subset([1, 2, 4])))
    assert again.texts() == ["c", "abcd", "bb"]
    assert again[2]["x"].tolist() == [1, 1, END]
    assert data.fingerprint() == dataset(tokenize=tokenize).fingerprint() != data.subset([1, 0, 2, 4]).fingerprint()


def test_what_texts_cannot_be():
    with pytest.raises(DataError, match="text 1, of context 'x', is empty: leave it out"):
        TextContextDataset(["a", " \n"], [0, 1], ["obs", "x"], ["x"])
    with pytest.raises(DataError, match="1 texts for 2 labels"):
        TextContextDataset(["a"], [0, 1], ["obs", "x"], ["x"])
    with pytest.raises(DataError, match=r"have no token ids: load the data with tokenize=base.tokenize"):
        dataset()[0]
    with pytest.raises(DataError, match="no texts of context 'x\\+y'; contexts here: obs, x, y"):
        dataset().texts("x+y")
    with pytest.raises(DataError, match="texts, which have no image shape: use a language model"):
        _ = dataset().image_shape


def test_folders(corpora):
    data = text_folders(corpora, tokenize=tokenize)
    assert data.train.context_names == ("obs", "x", "y")
    assert data.train.texts() == ["ab", "c", "d", "aa", "bb", "cd"]
    assert data.held_out.texts("x+y") == ["ac"]
    assert data.parser is None
    whole = text_folders(corpora, texts="file", concepts="y,x")
    assert whole.concepts == ("y", "x")
    assert whole.train.texts("obs") == ["ab\n\n  c", "d"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_a_line_ends_with_a_newline_and_nothing_else(corpora, mark):
    (corpora / "obs" / "1.txt").write_bytes(f"a{mark}b\r\nc{mark}\rd\n".encode())
    assert text_folders(corpora).train.texts("obs", 3) == [f"a{mark}b", "c", "d"]


def test_texts_below_a_context_and_folders_of_systems(corpora):
    for name in ("x/more/2.txt", "x/.git/3.txt", "@eaDir/1.txt"):
        (corpora / name).parent.mkdir(parents=True)
        (corpora / name).write_text("ee", encoding="utf-8")
    (corpora / "z").mkdir()
    data = load_data(corpora)
    assert data.train.texts("x") == ["aa", "bb", "ee"]
    assert data.describe() == "contexts: obs (3), x (3), y (1); held out: x+y (1); left out: @eaDir, z (no texts)"


def test_folders_by_their_path(corpora):
    assert load_data(corpora).train.texts("y") == ["cd"]
    assert load_data(str(corpora), tokenize=tokenize, texts="file").train.texts("x") == ["aa\nbb"]
    with pytest.raises(DataError, match="holds texts, which have no size: use a language model"):
        load_data(corpora, resolution=32, channels=3)
    with pytest.raises(DataError, match="the quad data holds images, a language model takes texts"):
        load_data("quad", tokenize=tokenize)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda root: (root / "x" / "1.TXT").unlink(),
            ConceptError,
            r"folder .*x\+y: .*'x'.*; left out: x \(no texts",
        ),
        (
            lambda root: (root / "x" / "1.TXT").write_text("\n"),
            DataError,
            "no texts of context 'x', such as in .*1.TXT",
        ),
        (lambda root: (root / "x" / "1.TXT").write_bytes(b"a\xff"), DataError, "1.TXT is not UTF-8 .*at byte 1"),
        (lambda root: (root / "x" / "1.TXT").write_text("a\n\nb?\n"), DataError, "1.TXT, line 3 cannot be read"),
        (lambda root: (root / "x+y").rename(root / "x+z"), ConceptError, r"folder .*x\+z: .*'z'"),
        (lambda root: (root / "obs").rename(root / "z"), DataError, "no folder 'obs' in .* for texts without"),
    ],
)
def test_folders_that_cannot_be_used(corpora, change, error, message):
    change(corpora)
    with pytest.raises(error, match=message):
        text_folders(corpora, tokenize=tokenize)


def test_empty_files_bad_options_and_other_files(corpora):
    with pytest.raises(DataError, match="texts must be 'line' .* or 'file' .*, got 'word'"):
        text_folders(corpora, texts="word")
    (corpora / "y" / "notes.md").write_text("")
    with pytest.warns(UserWarning, match=r"ignored 1 files in .* not .txt: 1 .md, the first one .*notes.md"):
        text_folders(corpora)
    (corpora / "y" / "notes.md").rename(corpora / "y" / "2.txt")
    assert text_folders(corpora).train.texts("y") == ["cd"]
    with pytest.raises(DataError, match="2.txt is empty: write a text into it, or remove it"):
        text_folders(corpora, texts="file")

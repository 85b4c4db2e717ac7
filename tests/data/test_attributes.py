import os
import pickle
import unicodedata
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from context_module.data import load_data, mixed_context_loader
from context_module.data.attributes import PRESETS, attributes
from context_module.errors import ConceptError, DataError
from helpers.pictures import flat, rows_of, save_picture

# every combination of three attributes twice; image i is of grey value 10 i
ROWS = list(product([0, 1], repeat=3)) * 2
COLUMNS = ("Smiling", "Male", "Wavy Hair")
HEADER = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry
Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young
"""
CELEBA = tuple(HEADER.split())


def name(i):
    return f"{i:06d}.png"


def write_csv(path, rows=ROWS, columns=COLUMNS, names=None):
    names = names or [name(i) for i in range(len(rows))]
    lines = [",".join(["image_id", *columns])]
    lines += [",".join([file, *map(str, row)]) for file, row in zip(names, rows, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def root(tmp_path):
    for i in range(len(ROWS)):
        save_picture(tmp_path / "images" / name(i), flat(10 * i))
    return tmp_path / "images"


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "table.csv")


# --- contexts ----------------------------------------------------------------------------------------------------


def test_an_image_is_in_the_context_of_exactly_its_concepts(root, table):
    data = attributes(root, table, concepts=["Male", "Smiling"])
    assert data.train.context_names == ("obs", "Male", "Smiling")
    assert data.held_out.context_names == ("Male+Smiling",)
    assert rows_of(data.train, "obs") == [0, 1, 8, 9]
    assert rows_of(data.train, "Male") == [2, 3, 10, 11]
    assert rows_of(data.train, "Smiling") == [4, 5, 12, 13]
    assert rows_of(data.held_out, "Smiling+Male") == [6, 7, 14, 15]
    assert data.graph is None
    assert data.test is None
    assert data.simulator is None


def test_factors_are_all_attributes(root, table):
    data = attributes(root, table, concepts=["Male", "Smiling"])
    assert data.train.factor_names == data.held_out.factor_names == ("Smiling", "Male", "Wavy_Hair")
    assert data.train.factors.dtype == torch.float32
    assert data.train.factors.tolist() == [list(ROWS[i]) for i in [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13]]
    assert data.held_out.factors.tolist() == [list(ROWS[i]) for i in [6, 7, 14, 15]]


def test_all_images_in_one_context_for_those_who_learn_from_labels(root, table):
    data = attributes(
        root, table, concepts=["Male", "Smiling"], observational=True, target="Smiling", spurious="Wavy_Hair"
    )
    assert data.train.context_names == ("obs",)
    assert data.held_out is None
    assert data.concepts == ("Male", "Smiling")
    assert rows_of(data.train, "obs") == list(range(16))
    assert data.train.factors.tolist() == [list(ROWS[i]) for i in range(16)]
    assert (data.target, data.spurious) == ("Smiling", "Wavy_Hair")
    with pytest.raises(DataError, match=r"no column 'Wavy_Hare' in .*Did you mean 'Wavy_Hair'"):
        attributes(root, table, spurious="Wavy_Hare")


def test_all_attributes_are_concepts_by_default_and_compositions_are_ordered(root, table):
    data = attributes(root, table)
    assert data.concepts == ["Smiling", "Male", "Wavy_Hair"]
    pairs = ("Smiling+Male", "Smiling+Wavy_Hair", "Male+Wavy_Hair")
    assert data.held_out.context_names == (*pairs, "Smiling+Male+Wavy_Hair")
    assert rows_of(data.held_out, "Smiling+Wavy_Hair") == [5, 13]


def test_white_space_in_names_is_an_underscore_and_a_list_may_have_commas(root, table):
    for concepts in ("Wavy Hair, Male", ["Wavy_Hair", "Male"]):
        assert attributes(root, table, concepts=concepts).concepts == ["Wavy_Hair", "Male"]
    assert attributes(root, table, concepts="Male").held_out is None


@pytest.mark.parametrize(
    "spelling", [("0", "1"), ("-1", "1"), ("0.0", "1.0"), ("-1.0", "1.0"), ("False", "True"), ("false", " TRUE")]
)
def test_spellings_of_labels(root, table, spelling):
    write_csv(table, [[spelling[label] for label in row] for row in ROWS])
    data = attributes(root, table, concepts=["Male", "Smiling"])
    assert rows_of(data.train, "Male") == [2, 3, 10, 11]
    assert data.train.factors.unique().tolist() == [0, 1]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_celebas_own_layout_and_presets(root, tmp_path, ending):
    def write(preset):
        concepts = PRESETS[preset][0]
        has = np.zeros((16, 40), dtype=int)
        for i in range(2, 16):  # two observational images, two of each concept, one pair
            has[i, CELEBA.index(concepts[min(i // 2 - 1, 5)])] = 1
        has[[14, 15], CELEBA.index(concepts[0])] = 1
        lines = ["16", " ".join(CELEBA) + " "]
        lines += [f"{name(i)} " + " ".join(f"{2 * label - 1:2d}" for label in row) for i, row in enumerate(has)]
        path = tmp_path / "list_attr_celeba.txt"
        path.write_bytes((ending.join(lines) + ending).encode())
        return path

    data = attributes(root, write("smile"), preset="smile")
    names = ["Smiling", "Male", "High_Cheekbones", "Mouth_Slightly_Open", "Narrow_Eyes", "Chubby"]
    assert data.concepts == names
    assert set(data.graph) == {(names[i], names[j]) for i, j in [(0, 2), (0, 3), (0, 4), (0, 5), (1, 4)]}
    assert rows_of(data.train, "Mouth_Slightly_Open") == [8, 9]
    assert data.held_out.context_names == ("Smiling+Chubby",)
    assert data.train.factor_names == CELEBA
    assert [CELEBA.index(concept) for concept in names] == [31, 20, 19, 21, 23, 13]
    assert data.train.factors.sum(0).nonzero().flatten().tolist() == [13, 19, 20, 21, 23, 31]

    data = attributes(root, write("age"), preset="age")
    assert [CELEBA.index(concept) for concept in data.concepts] == [39, 20, 28, 18, 13, 3]
    edges = [(0, 2), (0, 3), (0, 4), (0, 5), (1, 2), (1, 3)]
    assert set(data.graph) == {(data.concepts[i], data.concepts[j]) for i, j in edges}
    cut = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()[:-3]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(cut))
    with pytest.raises(DataError, match=r"celeba.txt has 13 rows, where its first line says 16: is the file complete"):
        attributes(root, tmp_path / "list_attr_celeba.txt", preset="age")


def test_presets_refuse_what_does_not_fit(root, table):
    with pytest.raises(DataError, match="preset must be 'smile' or 'age', .* got preset='smiles' and concepts=None"):
        attributes(root, table, preset="smiles")
    with pytest.raises(DataError, match=r"without concepts, got preset='age' and concepts=\['Male'\]: give one"):
        attributes(root, table, preset="age", concepts=["Male"])
    with pytest.raises(
        DataError, match="no column 'High_Cheekbones' in .*table.csv; its columns: Smiling, Male, Wavy"
    ):
        attributes(root, table, preset="smile")


# --- small contexts ----------------------------------------------------------------------------------------------


def test_small_compositions_are_left_out_and_small_training_contexts_refused(root, table):
    write_csv(table, ROWS[:8] + [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)] + [(0, 0, 0)] * 3)
    with pytest.warns(UserWarning, match=r"left out 3 compositions of fewer than 2 images: .*Hair, Smi"):
        data = attributes(root, table)
    assert data.held_out.context_names == ("Smiling+Male",)
    assert len(data.train) + len(data.held_out) == 13
    assert data.describe().endswith("; left out: 3 compositions of fewer than 2 images")
    assert len(attributes(root, table, min_images=1).held_out) == 5
    with pytest.raises(DataError, match="context 'Smiling' has 2, context 'Male' has 2, .* at least 3 with just that"):
        attributes(root, table, min_images=3)
    with pytest.raises(DataError, match="min_images must be at least 1, got 0"):
        attributes(root, table, min_images=0)


def test_concepts_that_never_come_alone_are_refused(root, table):
    write_csv(table, [(a, b or a, c) for a, b, c in ROWS])
    with pytest.raises(DataError, match="context 'Smiling' has 0, expected at least 2 .* Choose fewer or other"):
        attributes(root, table, concepts="Smiling,Male")


# --- files -------------------------------------------------------------------------------------------------------


def test_loads_by_name_in_batches_and_from_workers(root, table):
    data = load_data("attributes", root=str(root), table=str(table), concepts="Male,Smiling", resolution=4, channels=1)
    assert data.train.image_shape == (1, 4, 4)
    (batch,) = mixed_context_loader(data.train, 6, 0, num_steps=1)
    assert batch["x"].shape == (6, 1, 4, 4)
    assert batch["mask"].sum(0).tolist() == [2, 2]
    train, val = pickle.loads(pickle.dumps(data.train)).split(0.5)
    assert torch.equal(train[1]["x"], data.train[train._rows[1].item()]["x"])
    assert torch.equal(val.factors, data.train.factors[val._rows])
    with pytest.raises(DataError, match="the attributes data needs table: give --data_options table="):
        load_data("attributes", root=str(root))


def test_the_table_may_name_subfolders(root, table):
    names = [f"{'ab'[i % 2]}/{name(i)}" for i in range(16)]
    for i, file in enumerate(names):
        save_picture(root / file, flat(10 * i))
        (root / name(i)).unlink()
    write_csv(table, names=names)
    assert rows_of(attributes(root, table, concepts="Male").train, "Male") == [2, 3, 6, 7, 10, 11, 14, 15]


def test_folders_are_listed_and_no_image_read_before_it_is_asked_for(root, table, monkeypatch):
    opened = []
    monkeypatch.setattr(Image, "open", lambda path, open=Image.open: opened.append(path) or open(path))
    scanned = []
    monkeypatch.setattr(os, "scandir", lambda path, scandir=os.scandir: scanned.append(path) or scandir(path))
    data = attributes(root, table, concepts="Male")
    assert len(scanned) == 1
    assert opened == [root / name(0), root / name(1)]  # for the shape; and the first is black, as masks might be
    data.train[3]
    assert len(opened) == 3


def test_images_that_the_table_does_not_name_are_ignored(root, table):
    save_picture(root / "x.png", flat(0))
    save_picture(root / ".hidden.png", flat(0))
    (root / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"ignored 1 images in .* not in .*table.csv, the first one x.png"):
        assert len(attributes(root, table, concepts="Male").train) == 16


def test_files_that_are_missing_are_named(root, table, tmp_path):
    for i in range(3, 8):
        (root / name(i)).unlink()
    with pytest.raises(DataError, match=r"5 of the 16 files in .*: '000003.png', .*, '000005.png', \.\.\.; the"):
        attributes(root, table)
    write_csv(table, ROWS[:1], names=["nowhere/0.png"])
    with pytest.raises(DataError, match="1 of the 1 files .*: 'nowhere/0.png'; the table's first column"):
        attributes(root, table)
    with pytest.raises(DataError, match="no folder .*elsewhere: expected the one that holds the images of"):
        attributes(tmp_path / "elsewhere", table)
    with pytest.raises(DataError, match=r"no file .*none.csv: expected a table of attributes"):
        attributes(root, tmp_path / "none.csv")


def test_corrupt_images_are_skipped_with_their_labels(root, table):
    for i in (2, 6):
        (root / name(i)).write_bytes(b"")
    data = attributes(root, table, concepts="Male,Smiling")
    with pytest.raises(DataError, match=r"cannot read .*000002.png: .*skip_corrupt=True"):
        data.train.select("Male")
    with pytest.warns(UserWarning, match=r"skipped 2 corrupt or unusable images: .*000002.png"):
        data = attributes(root, table, concepts="Male,Smiling", skip_corrupt=True)
    assert rows_of(data.train, "Male") == [3, 10, 11]
    assert rows_of(data.held_out, "Male+Smiling") == [7, 14, 15]
    assert data.held_out.factors.tolist() == [list(ROWS[i]) for i in (7, 14, 15)]
    with (
        pytest.warns(UserWarning, match="skipped 2"),
        pytest.raises(DataError, match="context 'Male' has 3, expected at least 4"),
    ):
        attributes(root, table, concepts="Male,Smiling", skip_corrupt=True, min_images=4)


def test_images_of_several_sizes_need_a_resolution(root, table):
    save_picture(root / name(2), flat(20, 8, 12))
    with pytest.raises(DataError, match="000002.png has 8x12 pixels where the first image has 8x8: set resolution"):
        attributes(root, table, concepts="Male").train.select("Male")
    assert attributes(root, table, concepts="Male", resolution=6).train.select("Male").shape == (8, 3, 6, 6)


# --- tables that are wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f,a,b\n0.png,0,2\n", r"line 2, column 'b': '2' is no binary label here: expected 0 and 1, or -1 and 1"),
        ("f,a,b\n0.png,0,1\n1.png,0.5,0\n", r"line 3, column 'a': '0.5' is no binary label"),
        ("f,a,b\n\n0.png,0,\n", r"line 3, column 'b': '' is no binary label"),
        ("f,a,b\n0.png,1,-1\n1.png,1,0\n", r"line 3, column 'b': '0' is no binary label .* in the whole table"),
        ("f,a,b\n0.png,0,1\n1.png,-1,1\n", r"line 2, column 'a': '0' is no binary label .* in the whole table"),
        ("f,a,b\n0.png,0,1\n1.png,0\n", r"line 3: 2 cells, where the header has 3"),
        ("f,a,b\n0.png,0,1,1\n", r"line 2: 4 cells, where the header has 3"),
        ("f,a,b\n0.png,0,1\n1.png,0,1\n0.png,0,1\n", r"line 4: '0.png' is already on line 2"),
        ("f,a,b\n", r"line 1: the table ends without a row"),
        ("", r"line 1: no attributes: expected a column of file names and one for each attribute"),
        ("f\n0.png\n", r"line 1: no attributes"),
        ("f;a\n0.png;1\n", r"line 1: no attributes: .* with commas between"),
        ("f,a b,a_b\n0.png,0,1\n", r"line 1: every attribute needs a name of its own, got more than one 'a_b'"),
        ("f,a,\n0.png,0,1\n", r"line 1: every attribute needs a name of its own, got one without a name"),
        ("f,a,,\n0.png,0,1\n", r"line 1: every attribute needs a name of its own, got one without a name"),
        ("1\na b\n0.png 1 -1 1\n", r"line 3: 4 cells, where the header has 3"),
        ("2\na b\n0.png 1 -1\n\n1.png 1 x\n", r"line 5, column 'b': 'x' is no binary label"),
        ("0\na b\n", r"line 2: the table ends without a row"),
    ],
)
def test_malformed_tables_are_named_by_line(root, table, text, message):
    table.write_text(text)
    with pytest.raises(DataError, match=r"table.csv, " + message):
        attributes(root, table)


def test_a_table_that_is_no_text(root, table):
    table.write_bytes(b"f,a\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="is no table of text .*: expected a CSV file"):
        attributes(root, table)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_columns_in_either_form_of_unicode(root, table, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    write_csv(table, columns=[unicodedata.normalize(form, "Zöpfe") if name == "Male" else name for name in COLUMNS])
    data = attributes(root, table, concepts=unicodedata.normalize(other, "Zöpfe,Smiling"))
    assert data.concepts == [unicodedata.normalize("NFC", "Zöpfe"), "Smiling"]


def test_a_table_of_masks(tmp_path):
    mask = np.eye(8, dtype=np.uint8)
    for i in range(4):
        save_picture(tmp_path / f"{i}.npy", mask)
    (tmp_path / "table.csv").write_text("file,a\n0.npy,0\n1.npy,0\n2.npy,1\n3.npy,1\n")
    with pytest.warns(UserWarning, match="taken for masks"):
        assert attributes(tmp_path, tmp_path / "table.csv").train.select("a").max() == 1


def test_byte_order_mark_and_quotes(root, table):
    table.write_bytes(b"\xef\xbb\xbf" + table.read_text().replace("Wavy Hair", '"Wavy Hair"').encode())
    assert attributes(root, table).concepts == ["Smiling", "Male", "Wavy_Hair"]


def test_unknown_concepts_and_columns_that_cannot_be_one(root, table):
    with pytest.raises(DataError, match=r"no column 'smiling' in .*; its columns: Smil.*\. Did you mean 'Smiling'\?"):
        attributes(root, table, concepts=["Male", "smiling"])
    with pytest.raises(ConceptError, match="named more than once: Male"):
        attributes(root, table, concepts="Male,Male")
    write_csv(table, columns=("a+b", "Male", "c"))
    with pytest.raises(ConceptError, match=r"'a\+b' cannot name a concept"):
        attributes(root, table)
    assert attributes(root, table, concepts="Male").train.factor_names == ("a+b", "Male", "c")

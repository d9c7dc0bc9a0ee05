"""CIFAR-10 and WikiText-2: the offline copies as they are read, and what is said where there is none."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nestgrad_lab.data import cifar, load, public
from nestgrad_lab.data import text as text_module
from nestgrad_lab.data.dataset import thinned
from nestgrad_lab.errors import DataError, OptionError

HERE = Path(os.environ.get("NESTGRAD_DATA") or "none")
needs_images = pytest.mark.skipif(not (HERE / "cifar-10-subset").is_dir(), reason="no NESTGRAD_DATA/cifar-10-subset")
needs_text = pytest.mark.skipif(not (HERE / "text").is_dir(), reason="no NESTGRAD_DATA/text")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty cache and an empty NESTGRAD_DATA."""
    monkeypatch.setattr(public, "cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("NESTGRAD_DATA", str(tmp_path / "data"))
    text_module._texts.cache_clear()
    yield tmp_path
    text_module._texts.cache_clear()


@needs_images
def test_the_subset_is_the_public_rows_standardised_by_colour():
    data = load("cifar-10-subset")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [3600, 400, 1000]
    assert (data.outputs, data.classes[6], data.train.x.dtype) == (10, "frog", np.float32)
    seen = data.merged.x.reshape(4000, 3, -1)
    np.testing.assert_allclose(seen.mean((0, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(seen.std((0, 2)), 1.0, rtol=1e-4)
    raw = gzip.decompress((HERE / "cifar-10-subset" / "data_batch_1.first4000.bin.gz").read_bytes())
    last = np.frombuffer(raw, np.uint8).reshape(4000, 3073)[-1]
    assert last[0] == data.valid.y[-1]
    np.testing.assert_allclose(data.valid.x[-1] * data.x_scale + data.x_shift, last[1:], atol=1e-3)


def archive_of(folder, parts):
    """A public archive with these files."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / cifar.ARCHIVE, "w:gz", compresslevel=1) as archive:
        for name, content in parts.items():
            about = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return folder / cifar.ARCHIVE


def test_the_whole_set_is_read_from_its_archive_and_the_subset_cut_from_it(places, monkeypatch):
    import pooch

    rows = np.random.default_rng(0).integers(0, 10, (6, 1100, cifar.ROW), dtype=np.uint8)
    parts = {name: rows[k].tobytes() for k, name in enumerate([*cifar.TRAIN, *cifar.TEST])}
    path = archive_of(places / "data" / "cifar-10", parts)
    with pytest.raises(DataError, match=r"SHA-256 .*, limit: c4a38c50a1bc…\. Remedy: remove it"):
        load("cifar-10")
    monkeypatch.setattr(cifar, "SHA256", pooch.file_hash(str(path), alg="sha256"))
    data = load("cifar-10")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [500, 5000, 1100]
    np.testing.assert_array_equal(data.valid.y[-3:], rows[4, -3:, 0])
    subset = load("cifar-10-subset")
    np.testing.assert_array_equal(subset.train.y[:3], rows[0, :3, 0])
    np.testing.assert_array_equal(subset.test.y, rows[5, :1000, 0])


@needs_images
def test_a_damaged_subset_is_refused(places):
    folder = places / "data" / "cifar-10-subset"
    folder.mkdir(parents=True)
    name = next(iter(cifar.SUBSET))
    (folder / name).write_bytes(b"no gzip")
    with pytest.raises(DataError, match="Not a gzipped file"):
        load("cifar-10-subset")
    (folder / name).write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match="unpacked it has SHA-256"):
        load("cifar-10-subset")


@needs_text
def test_the_text_is_windows_and_the_words_that_follow():
    data = load("wikitext-2", window=20, vocabulary=2000)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [104431, 10882, 12278]
    assert (data.outputs, data.words, data.classes[:3]) == (2000, True, ("<unk>", "the", ","))
    for part in (data.train, data.valid, data.test):
        np.testing.assert_array_equal(part.x.ravel()[1:], part.y.ravel()[:-1])
        assert part.x.min() >= 0
        assert part.x.max() < 2000
    raw = gzip.decompress((HERE / "text" / "wikitext-2-test.txt.gz").read_bytes()).decode()
    words = raw.replace("\n", " <eos> ").split()[:20]
    known = [word if word in data.classes else "<unk>" for word in words]
    assert [data.classes[number] for number in data.test.x[0]] == known
    whole = load("wikitext-2")
    assert (whole.outputs, len(whole.features)) == (33_278, 70)


@needs_text
@pytest.mark.parametrize(("name", "value"), [("window", 0), ("vocabulary", 1), ("vocabulary", 33_279)])
def test_a_window_or_vocabulary_that_cannot_be_is_named(name, value):
    with pytest.raises(OptionError, match=f"wikitext-2: {name} {value}, limit: "):
        load("wikitext-2", **{name: value})


def test_without_the_text_it_says_where_to_put_it(places):
    with pytest.raises(DataError, match=r"wikitext-2-train.txt.gz is in none of 2 places: .*Remedy: put"):
        load("wikitext-2")


@pytest.mark.parametrize("packed", [True, False])
def test_another_text_is_refused(places, packed):
    folder = places / "cache" / "text"
    folder.mkdir(parents=True)
    content = b"two words"
    name = "wikitext-2-train.txt"
    (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"2 words, 2 different ones, limit: 2088628 and 33278"):
        load("wikitext-2")


def test_only_a_text_has_windows():
    with pytest.raises(OptionError, match="data 'digits': window 5, vocabulary None, limit: wikitext-2 alone"):
        load("digits", window=5)


@needs_text
def test_nestgrad_tune_refuses_a_text(lab):
    result = lab("tune", "--data", "wikitext-2")
    assert result.exit_code == 2
    assert "--data wikitext-2: a text, limit: rows of numbers" in result.stderr


def test_held_rows_are_thinned_evenly():
    data = load("digits")
    found = thinned(data, 10)
    assert (len(found.valid), len(found.test), found.train) == (10, 10, data.train)
    at = np.arange(10) * len(data.valid) // 10
    np.testing.assert_array_equal(found.valid.x, data.valid.x[at])
    assert thinned(data, None).test is data.test

"""Checkpoints: what is damaged is never loaded, and no code in a file is run."""

import json
import pickle
import random

import numpy as np
import pytest

from nestgrad_lab.errors import CheckpointCorrupt, CheckpointFormat
from nestgrad_lab.storage import checkpoints as module
from nestgrad_lab.storage.atomic import watch_boundaries, write_atomically
from nestgrad_lab.storage.checkpoints import Checkpoints

FLIPS, CUTS = 1000, 500


def arrays(seed):
    draw = np.random.default_rng(seed)
    return {
        "weights": draw.normal(size=(3, 4)).astype("float32"),
        "count": np.array(seed),
        "flags": draw.random(5) > 0.5,
        "empty": np.empty((0, 2)),
    }


@pytest.fixture
def two(tmp_path):
    """Two checkpoints, of steps 10 and 20."""
    store = Checkpoints(tmp_path / "store")
    for step in (10, 20):
        store.save(step, arrays(step), {"finished": False, "note": f"step {step}"})
    return store


def test_what_is_saved_is_loaded_bit_for_bit(two):
    found = two.newest()
    assert (found.step, found.about) == (20, {"finished": False, "note": "step 20"})
    for name, value in arrays(20).items():
        assert found.arrays[name].dtype == value.dtype
        assert found.arrays[name].shape == value.shape
        np.testing.assert_array_equal(found.arrays[name], value)


def test_the_two_newest_are_kept(two):
    two.save(30, arrays(30), {})
    assert sorted(path.name for path in two.folder.iterdir()) == [
        f"step-{step:09d}.{kind}" for step in (20, 30) for kind in ("json", "safetensors")
    ]


def test_nothing_was_saved(tmp_path):
    assert Checkpoints(tmp_path).newest() is None
    assert Checkpoints(tmp_path / "missing").newest() is None


def damaged(two, damage, times):
    """How the store answers each of so many damages of a file of the newest checkpoint."""
    files = [two.folder / f"step-{20:09d}.{kind}" for kind in ("json", "safetensors")]
    whole = [path.read_bytes() for path in files]
    draw = random.Random(0)  # noqa: S311
    for number in range(times):
        path, content = files[number % 2], whole[number % 2]
        path.write_bytes(damage(draw, content))
        found = two.newest()
        assert found.step == 10, f"damage {number} of {path.name} was loaded"
        np.testing.assert_array_equal(found.arrays["weights"], arrays(10)["weights"])
        assert list(two.damaged) == [files[0].name]
        path.write_bytes(content)
    assert two.newest().step == 20


def test_a_thousand_flipped_bits_are_all_noticed_and_the_older_checkpoint_taken(two):
    def flip(draw, content):
        at = draw.randrange(8 * len(content))
        changed = bytearray(content)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    damaged(two, flip, FLIPS)


def test_five_hundred_truncations_are_all_noticed_and_the_older_checkpoint_taken(two):
    damaged(two, lambda draw, content: content[: draw.randrange(len(content))], CUTS)


def test_without_a_whole_one_it_says_so(two):
    for path in two.folder.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointCorrupt, match=r"2 checkpoints, 0 of them whole, limit: 1. Remedy: remove the folder"):
        two.newest()


def test_a_later_format_is_refused_and_not_passed_over(two, monkeypatch):
    monkeypatch.setattr(module, "FORMAT", 2)
    monkeypatch.setattr(Checkpoints, "_load", lambda self, path: None)
    two.save(30, arrays(30), {})
    monkeypatch.undo()
    with pytest.raises(CheckpointFormat, match=r"format 2, limit: 1. Remedy: upgrade nestgrad-lab"):
        two.newest()


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        b'!!python/object/apply:os.system ["exit 1"]',
        b"[" * 100_000,
        b"{}",
        b"null",
        b"[1, 2]",
        b'{"format": 1}',
        b'{"format": NaN}',
        b"\xff\xfe\x00",
        json.dumps({"format": 1, "step": 20, "file": "../../elsewhere", "sha256": "", "about": {}}).encode(),
    ],
    ids=["pickle", "yaml", "deep", "empty", "null", "list", "no seal", "NaN", "no UTF-8", "another place"],
)
def test_hostile_manifests_are_refused(two, content):
    (two.folder / f"step-{20:09d}.json").write_bytes(content)
    assert two.newest().step == 10


def test_files_have_the_users_permissions_and_an_error_leaves_the_old_one(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    write_atomically(tmp_path / "file", b"old")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode

    def fail(name):
        if name == "rename":
            raise OSError(28, "No space left on device")

    watch_boundaries(fail)
    try:
        with pytest.raises(OSError, match="No space left"):
            write_atomically(tmp_path / "file", b"new")
    finally:
        watch_boundaries(None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old", "other": b""}

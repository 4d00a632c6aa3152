"""What every reader must satisfy: the same item gives the same bytes; whatever is wrong is refused with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from members import READER_MEMBERS

from headstart import errors
from headstart._base.constraints import invalid_values
from headstart.errors import OptionError, UnknownName, UnreadableItem
from headstart.readers import READERS, Clip, Reader, reader
from headstart.readers.base import file_kind

pytest.importorskip("soundfile", reason="the audio reader needs soundfile (headstart[audio])")
members = pytest.mark.parametrize("name", READER_MEMBERS)


def _jpeg() -> bytes:
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _flac() -> bytes:
    import soundfile

    out = io.BytesIO()
    sound = np.sin(np.arange(6000) / 9) * np.linspace(0, 0.9, 6000)
    soundfile.write(out, np.stack((sound, sound[::-1]), 1), 22050, format="FLAC")
    return out.getvalue()


def _npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.linspace(-1, 1, 50).reshape(5, 10))
    return out.getvalue()


# one good file of each modality, its usual suffix, and options that change what comes out
FILES = {
    "image": (_jpeg(), ".jpg", {"mode": "L", "size_hint": (20, 20)}),
    "audio": (_flac(), ".flac", {"sample_rate": 16000}),
    "text": ("Zwölf Boxkämpfer jagen Viktor.\r\n".encode(), ".txt", {}),
    "vector": (_npy(), ".npy", {}),
}


def image_bytes(value) -> bytes:
    """What a reader gave, as bytes: equal exactly when it is equal to the last bit."""
    if isinstance(value, Clip):
        return f"{value.sample_rate} {value.samples.dtype} ".encode() + value.samples.tobytes()
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return f"{value.dtype} {value.shape} ".encode() + value.tobytes()


@pytest.fixture
def file(tmp_path, name) -> Path:
    content, suffix, _ = FILES[name]
    path = tmp_path / f"an item – ä{suffix}"
    path.write_bytes(content)
    return path


def refused(name: str, item) -> str:
    """The reason for which a reader refuses an item; fails when it does not."""
    with pytest.raises(UnreadableItem) as caught:
        reader(name).read(item)
    reason = caught.value.reason
    assert 3 < len(reason) < 200, reason
    assert "\n" not in reason and "object at 0x" not in reason, reason
    name_length = len(str(item)) if isinstance(item, Path) else 100
    assert str(caught.value).endswith(reason) and len(str(caught.value)) < 210 + name_length
    return reason


def test_every_member_has_a_sample():
    assert set(READER_MEMBERS) == set(FILES) == set(READERS)


@members
def test_it_is_a_reader_of_its_modality(name):
    result = reader(name)
    assert isinstance(result, Reader) and result.modality == name
    assert dataclasses.is_dataclass(result) and result == reader(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.modality = "other"


@members
def test_same_item_same_bytes(name, file):
    """Twice, from a fresh reader, from a pickled one, and from eight threads at once."""
    first = reader(name)
    want = image_bytes(first.read(file))
    copy = pickle.loads(pickle.dumps(first))
    assert image_bytes(first.read(file)) == image_bytes(copy.read(file)) == image_bytes(reader(name).read(file)) == want
    with ThreadPoolExecutor(8) as pool:
        assert {image_bytes(value) for value in pool.map(first.read, [file] * 64)} == {want}


@members
def test_a_path_and_its_bytes_give_the_same(name, file):
    result = reader(name, **FILES[name][2])
    want = image_bytes(result.read(file))
    content = file.read_bytes()
    for item in (content, bytearray(content), memoryview(content)):
        assert image_bytes(result.read(item)) == want
    if name != "text":  # there, a string is the text itself
        assert image_bytes(result.read(str(file))) == want


@members
def test_the_suffix_says_nothing(name, file, tmp_path):
    result = reader(name)
    want = image_bytes(result.read(file))
    for suffix in ("", ".png", ".wav", ".raw", ".mp4", ".txt"):
        renamed = tmp_path / f"renamed{suffix}"
        renamed.write_bytes(file.read_bytes())
        assert image_bytes(result.read(renamed)) == want, suffix


@members
def test_the_item_is_left_as_it_was(name, file):
    before = file.read_bytes()
    reader(name).read(file)
    assert file.read_bytes() == before


@members
def test_missing(name, tmp_path):
    assert refused(name, tmp_path / "nothing.here") == "no such file"


@members
def test_a_folder(name, tmp_path):
    assert "folder" in refused(name, tmp_path)


@members
def test_empty(name, tmp_path):
    path = tmp_path / "empty"
    path.touch()
    assert refused(name, path) == refused(name, b"") == "empty file"


@members
def test_links(name, tmp_path, file):
    good, dangling, loop = (tmp_path / word for word in ("good", "dangling", "loop"))
    try:
        good.symlink_to(file)
    except OSError:
        pytest.skip("links cannot be made here")
    dangling.symlink_to(tmp_path / "gone")
    loop.symlink_to(loop)
    assert image_bytes(reader(name).read(good)) == image_bytes(reader(name).read(file))
    assert refused(name, dangling) == "no such file"
    assert "cannot be opened" in refused(name, loop)


@members
def test_impossible_names(name, tmp_path):
    assert "cannot be opened" in refused(name, tmp_path / "nul\0byte")
    assert "cannot be opened" in refused(name, tmp_path / ("long" * 200))


@members
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.timeout(20)
def test_a_pipe_and_a_device_are_not_waited_for(name, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "pipe" in refused(name, pipe)
    if Path("/dev/zero").exists():
        assert "device" in refused(name, Path("/dev/zero"))


@members
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(name, file):
    file.chmod(0)
    assert "permission" in refused(name, file)


@members
@pytest.mark.parametrize("item", [None, 3, 1.5, [1, 2], {"path": "x"}, object()], ids=lambda item: type(item).__name__)
def test_things_that_are_no_items(name, item):
    assert "neither" in refused(name, item)


@members
@pytest.mark.parametrize("other", sorted(FILES))
def test_another_modality_is_refused_and_named(name, other, tmp_path):
    if name == other:
        return
    path = tmp_path / "mistaken"
    path.write_bytes(FILES[other][0])
    assert file_kind(FILES[other][0]) in refused(name, path) or other == "text"


@members
def test_what_is_no_item_of_any_kind(name):
    for blob in (bytes(4096), b"\xff" * 4096, bytes(range(256)) * 8, b"\x00\x01", b"\xff"):
        refused(name, blob)


@members
@given(position=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused_or_the_whole_thing(name, position):
    """No reader gives part of an item. A text cut between two characters is a text, though."""
    content = FILES[name][0]
    cut = content[: int(position * len(content))]
    if name == "text":
        with contextlib.suppress(UnreadableItem):
            assert FILES[name][0].startswith(reader(name).read(cut).encode())
    else:
        refused(name, cut)


@members
@settings(max_examples=150)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_give_an_item_or_a_refusal(name, flips):
    content = bytearray(FILES[name][0])
    for position, mask in flips:
        content[int(position * len(content))] ^= mask
    result = reader(name)
    try:
        value = result.read(bytes(content))
    except UnreadableItem as error:
        assert "\n" not in error.reason and 3 < len(error.reason) < 200
    else:
        assert type(value) is type(result.read(FILES[name][0]))
        assert image_bytes(value) == image_bytes(result.read(bytes(content)))


@members
@given(blob=st.binary(min_size=1, max_size=400), head=st.integers(0, 80))
def test_noise_after_a_good_beginning(name, blob, head):
    """Nothing but UnreadableItem comes out, whatever follows the first bytes."""
    try:
        reader(name).read(FILES[name][0][:head] + blob)
    except UnreadableItem as error:
        assert error.reason


@members
def test_an_error_travels(name, tmp_path):
    """Between processes, with the path as it was given."""
    path = tmp_path / "gone"
    with pytest.raises(UnreadableItem) as caught:
        reader(name).read(path)
    back = pickle.loads(pickle.dumps(caught.value))
    assert back.item == path and back.reason == "no such file" and str(back) == str(caught.value)


@members
def test_large_items_are_not_printed(name):
    with pytest.raises(UnreadableItem) as caught:
        reader(name).read(b"\x00\xfe" * 50_000)
    assert caught.value.item == "100,000 bytes"


@members
def test_the_recipe_is_plain_and_says_what_changes_the_outcome(name):
    plain, changed = reader(name), reader(name, **FILES[name][2])
    assert json.loads(json.dumps(plain.recipe())) == plain.recipe()
    assert plain.recipe() == reader(name).recipe()
    assert plain.recipe()["reader"] == name
    assert (changed.recipe() == plain.recipe()) == (not FILES[name][2])
    item = FILES[name][0]
    assert (image_bytes(changed.read(item)) == image_bytes(plain.read(item))) == (not FILES[name][2])


@members
def test_a_misspelt_option_gets_the_nearest_name(name):
    field = dataclasses.fields(READERS[name])[0].name
    with pytest.raises(OptionError, match=f"did you mean '{field}'"):
        reader(name, **{field + "s": 1})


@members
def test_values_that_are_not_allowed(name):
    cases = list(invalid_values(READERS[name]))
    assert cases
    for field, value in cases:
        with pytest.raises(OptionError, match=field):
            reader(name, **{field: value})


def test_an_unknown_modality():
    with pytest.raises(UnknownName, match="did you mean 'image'"):
        reader("imges")


def test_readers_load_no_torch(tmp_path):
    """Import and use of every reader, in a fresh process."""
    for name, (content, suffix, _) in FILES.items():
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    code = (
        "import sys\nfrom pathlib import Path\nfrom headstart.readers import READERS, reader\n"
        f"for path in Path({str(tmp_path)!r}).iterdir(): reader(path.stem).read(path)\n"
        "heavy = {'torch', 'timm', 'torchvision', 'transformers'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_foreign_errors_never_pass(monkeypatch):
    """Whatever a decoder raises, also when memory runs out, leaves as UnreadableItem."""
    from headstart.readers.base import translate_errors

    for raised in (ValueError("x"), OSError("y"), MemoryError(), RecursionError("z"), KeyError("k"), Exception()):
        with pytest.raises(UnreadableItem) as caught, translate_errors("item"):
            raise raised
        assert caught.value.__cause__ is raised and caught.value.reason
    for passed in (errors.MissingPackage("needs a package"), OptionError("no"), KeyboardInterrupt(), GeneratorExit()):
        with pytest.raises(type(passed)), translate_errors("item"):
            raise passed

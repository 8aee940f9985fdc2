"""Files of PyTorch and pickled arrays, read without PyTorch and without running what they name."""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxlm.convert import torch_files
from jaxlm.convert.released import convert
from jaxlm.convert.torch_weights import TorchWeights
from jaxlm.support import pickles

TYPES = {"float32": "FloatStorage", "int64": "LongStorage", "bool": "BoolStorage", "float16": "HalfStorage"}


class Stored:
    """A tensor as `torch.save` describes it; `claims` replaces offset, size, stride or the number of elements."""

    def __init__(self, array, **claims):
        self.array, self.claims = np.asarray(array), claims


def saved(content, *, archive, compression=zipfile.ZIP_STORED, names=None):
    """Bytes that `torch.save` would have written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*arguments):
        raise AssertionError("never called")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    for name in TYPES.values():
        kind = type(name, (), {"__module__": "torch"})
        setattr(torch, name, kind)
    storages = {}

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return value[1] if isinstance(value, tuple) and value[:1] == (storages,) else None

        def reducer_override(self, value):
            return NotImplemented

        def save(self, value, save_persistent_id=True):
            if isinstance(value, Stored):
                key, array = str(len(storages)), value.array
                storages[key] = array
                kind = getattr(torch, TYPES[array.dtype.name])
                count = value.claims.get("count", array.size)
                identity = ("storage", kind, key, "cpu", count, *([] if archive else [None]))
                steps = tuple(np.array(array.strides) // array.itemsize)
                window = {"offset": 0, "size": array.shape, "stride": tuple(map(int, steps)), **value.claims}
                arguments = ((storages, identity), window["offset"], window["size"], window["stride"], False, {})
                return self.save_reduce(rebuild, arguments)
            return super().save(value, save_persistent_id)

    def pickled(value):
        buffer = io.BytesIO()
        Pickler(buffer, 2).dump(value)
        return buffer.getvalue()

    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        body = pickled(content)
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    buffer = io.BytesIO()
    if archive:
        with zipfile.ZipFile(buffer, "w", compression) as file:
            entries = {"data.pkl": body, "byteorder": b"little", "version": b"3\n"}
            entries |= {f"data/{key}": array.tobytes() for key, array in storages.items()}
            for name, text in entries.items():
                if names is None or name in names:
                    file.writestr(f"model/{name}", text)
        return buffer.getvalue()
    for value in (torch_files._MAGIC, 1001, {"little_endian": True}):
        buffer.write(pickle.dumps(value, 2))
    buffer.write(body + pickle.dumps(list(storages), 2))
    for array in storages.values():
        buffer.write(struct.pack("<q", array.size) + array.tobytes())
    return buffer.getvalue()


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.pth"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("archive", [True, False])
def test_tensors_of_both_forms(tmp_path, archive):
    rng = np.random.default_rng(0)
    weights = collections.OrderedDict(
        plain=Stored(rng.normal(size=(3, 4, 2)).astype(np.float32)),
        half=Stored(np.array([0.5, -2.0], np.float16)),
        count=Stored(np.array(7)),
        mask=Stored(np.array([True, False])),
        none=Stored(np.zeros((0, 3), np.float32)),
        part=Stored(np.arange(12, dtype=np.float32), offset=2, size=(2, 3), stride=(5, 1)),
        transposed=Stored(np.arange(6, dtype=np.float32), size=(3, 2), stride=(1, 3)),
    )
    content = {"epoch": 3, "state_dict": weights, "best": np.float64(0.5), "curve": np.arange(3.0), "args": None}
    found = torch_files.load(written(tmp_path, saved(content, archive=archive)))
    assert found["epoch"] == 3 and found["best"] == 0.5 and found["args"] is None
    np.testing.assert_array_equal(found["curve"], [0, 1, 2])
    state = found["state_dict"]
    for name in ("plain", "half", "count", "mask", "none"):
        np.testing.assert_array_equal(state[name], weights[name].array)
        assert state[name].dtype == weights[name].array.dtype and state[name].shape == weights[name].array.shape
    np.testing.assert_array_equal(state["part"], [[2, 3, 4], [7, 8, 9]])
    np.testing.assert_array_equal(state["transposed"], [[0, 3], [1, 4], [2, 5]])
    taken = TorchWeights(tmp_path / "file.pth")
    assert taken.take("half", (2,)).dtype == np.float32 and taken.shape_of("none") == (0, 3)


def test_bfloat16():
    np.testing.assert_array_equal(torch_files._Type("bfloat16").read(b"\x80\x3f\x00\xc0"), [1.0, -2.0])


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"offset": 1}, "reaches beyond its storage"),
        ({"offset": -1}, "without the elements"),
        ({"stride": (3,)}, "reaches beyond its storage"),
        ({"size": (2**20, 2**20), "stride": (0, 0)}, "without the elements"),  # 4 TiB of one element
        ({"size": (-4,)}, "it holds the shape"),
        ({"size": (4.0,)}, "it holds the shape"),
        ({"count": 5}, "needs? 20|ends before"),
        ({"count": 2**39}, "need|ends before"),
    ],
)
def test_a_tensor_that_claims_what_is_not_there(tmp_path, archive, claims, message):
    content = saved({"w": Stored(np.arange(4, dtype=np.float32), **claims)}, archive=archive)
    with pytest.raises(ValueError, match=rf"file\.pth is not a file of PyTorch weights alone \(.*({message})"):
        torch_files.load(written(tmp_path, content))


def test_archives_that_are_not_pytorch_s(tmp_path):
    content = {"w": Stored(np.zeros(4, np.float32))}
    for options, message in (
        ({"compression": zipfile.ZIP_DEFLATED}, "is compressed"),
        ({"names": ("data.pkl",)}, r"lacks data/0"),
        ({"names": ("data/0",)}, r"lacks data\.pkl"),
    ):
        with pytest.raises(ValueError, match=message):
            torch_files.load(written(tmp_path, saved(content, archive=True, **options)))
    for archive in (True, False):
        whole = saved(content, archive=archive)
        with pytest.raises(ValueError, match="not a file of PyTorch weights alone"):
            torch_files.load(written(tmp_path, whole[:-9]))
    with pytest.raises(ValueError, match="does not exist"):
        torch_files.load(tmp_path / "none.pth")


def text(*lines: str) -> bytes:
    """A pickle of protocol 0."""
    return "".join(lines).encode()


EVIL = {
    "a call": text("cos\nsystem\n(S'touch ran'\ntR."),
    "a call by name": text('c__builtin__\neval\n(S\'open("ran","w")\'\ntR.'),
    "an instance": text("(S'touch ran'\nios\nsystem\n."),
    "a changed function": text("c_codecs\nencode\n(N(dS'__defaults__'\n(I1\ntstb."),
    "a changed class": text("cnumpy\nndarray\n(N(dS'finish'\nNstb."),
    "an object array": pickle.dumps(np.array([{}], object)),
    "text": pickle.dumps({"a": np.array(["text"])}),
    "too few bytes": text("cnumpy\nndarray\n(I0\ntRp0\n(I1\n(I99999999\ntcnumpy\ndtype\n(S'f8'\ntRI00\nS'ab'\ntb."),
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent identity": text("Psomething\n."),
    "bytes that are not there": b"\x80\x05\x96\x00\x00\x00\x00\x04\x00\x00\x00.",  # 16 GiB
    "a far memo": b"\x80\x02]r\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("name", EVIL)
def test_nothing_is_run_and_nothing_is_changed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, EVIL[name])
    with pytest.raises(ValueError, match=r"file\.pth (is not a pickle of arrays only|holds)"):
        pickles.load_arrays(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", EVIL[name])
    if name not in ("text", "a far memo"):
        with pytest.raises(ValueError, match="not a file of PyTorch weights alone"):
            torch_files.load(path)
    assert not Path("ran").exists() and pickles._encoded.__defaults__ is None and callable(pickles._Array.finish)
    good = tmp_path / "good.pkl"
    good.write_bytes(pickle.dumps({"a": np.arange(3)}))
    np.testing.assert_array_equal(pickles.load_arrays(good)["a"], [0, 1, 2])


def test_what_refers_to_one_thing_often_stays_small(tmp_path):
    """30 lists, each of which holds the one before ten times; and a list that holds itself."""
    deep: list = [np.zeros(1)]
    for _ in range(30):
        deep = [deep] * 10
    path = written(tmp_path, pickle.dumps({"a": deep}))
    with pytest.raises(ValueError, match=r"file\.pth"):
        TorchWeights(path)
    twice: list = [collections.OrderedDict(a=1), collections.OrderedDict(a=1)]
    for _ in range(60):  # each holds the two before it
        twice.append(collections.OrderedDict(a=twice[-1], b=twice[-2]))
    start = time.perf_counter()
    with pytest.raises(ValueError, match="no state_dict"):
        TorchWeights(written(tmp_path, saved({"state_dict": twice[-1]}, archive=True)))
    assert time.perf_counter() - start < 5
    wide: list = [1.0] * 10
    for _ in range(9):
        wide = [wide] * 10
    with pytest.raises(ValueError, match="not numeric"):
        pickles.load_arrays(written(tmp_path, pickle.dumps({"a": wide})))
    own: list = []
    own.append(own)
    with pytest.raises(ValueError, match="holds itself"):
        pickles.load_arrays(written(tmp_path, pickle.dumps({"a": own})))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i2", "?", "u1", "<c8"])
def test_arrays_of_every_protocol(tmp_path, protocol, dtype):
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    path = written(tmp_path, pickle.dumps(array, protocol))
    if array.dtype.kind == "c":
        with pytest.raises(ValueError, match="not numeric"):
            pickles.load_arrays(path)
        return
    found = pickles.load_arrays(path)[""]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    scalars = pickle.dumps({"a": np.float32(2.5), "b": 3, "c": [1, 2]}, protocol)
    found = pickles.load_arrays(written(tmp_path, scalars))
    assert found["a"] == 2.5 and found["b"] == 3 and found["c"].tolist() == [1, 2]


FUZZ = """
import sys
from pathlib import Path
import numpy as np
from jaxlm.convert import torch_files
from jaxlm.support import pickles
folder, rng, refused = Path(sys.argv[1]), np.random.default_rng(0), 0
for name in ("archive", "sequence", "pickle"):
    whole = np.frombuffer((folder / name).read_bytes(), np.uint8)
    for _ in range(700):
        changed = whole.copy()
        kind = rng.integers(3)
        if kind == 0:
            changed[rng.integers(len(changed), size=rng.integers(1, 8))] = rng.integers(256)
        elif kind == 1:
            changed = changed[: rng.integers(len(changed))]
        else:
            start, length = rng.integers(len(changed), size=2)
            changed = np.concatenate([changed[:start], changed[start // 2 : start // 2 + length % 64], changed[start:]])
        path = folder / "changed"
        path.write_bytes(changed.tobytes())
        try:
            (pickles.load_arrays if name == "pickle" else torch_files.load)(path)
        except ValueError as error:
            assert "changed" in str(error), error
            refused += 1
print(refused)
"""


def test_damaged_files_end_in_one_sentence(tmp_path):
    content = {"state_dict": {name: Stored(np.arange(6, dtype=np.float32)) for name in "ab"}, "epoch": 3}
    (tmp_path / "archive").write_bytes(saved(content, archive=True))
    (tmp_path / "sequence").write_bytes(saved(content, archive=False))
    (tmp_path / "pickle").write_bytes(pickle.dumps({"mean": np.arange(5.0), "std": np.ones(5)}, 2))
    # In a process of its own, which a crash would end, with 4 GiB of memory.
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n{FUZZ}"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", limited, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 1000


def test_released_weights_need_no_pytorch(real_data, tmp_path):
    convert("tddfa_v2", real_data / "tddfa_v2", tmp_path / "run")
    assert (tmp_path / "run" / "config.json").exists() and "torch" not in sys.modules

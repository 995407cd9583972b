"""Nothing in a foreign file is ever run. Every hostile pickle here works: a control runs it by `pickle.loads` first."""

import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from models.unpickle import Record, TorchFile, read_torch_file


def archive(path, pickled, storages=None, compression=zipfile.ZIP_STORED, **more):
    """A torch zip file with this pickle and these storages (key -> bytes)."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for key, raw in (storages or {}).items():
            file.writestr(f"archive/data/{key}", raw)
        for name, raw in more.items():
            file.writestr(f"archive/{name}", raw)
    return path


class Calls:
    """Pickles as a call of `function`; whoever unpickles it makes the call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class CarriesState:
    """Pickles as an object whose state is whatever is given."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return (collections.OrderedDict, (), self.state)


def _touch(marker):
    return f"open({str(marker)!r}, 'w').close()"


def by_system(marker):
    return Calls(os.system, f"touch {marker}")


def by_eval(marker):
    return Calls(eval, _touch(marker))


def by_exec_in_a_list(marker):
    return {"model": [1, {"deep": (Calls(exec, _touch(marker)),)}]}


def by_subclass_of_path(marker):
    return Calls(Path.touch, Path(marker))


def by_torch_load(marker):
    inner = Path(marker).with_suffix(".inner")
    inner.write_bytes(pickle.dumps(by_system(marker)))
    return Calls(pickle.load, Calls(io.BytesIO, inner.read_bytes()))


def by_map(marker):
    return Calls(list, Calls(map, eval, [_touch(marker)]))


def by_key_of_ordered_dict(marker):
    return Calls(collections.OrderedDict, [[Calls(eval, _touch(marker)), 1]])


def by_state(marker):
    return CarriesState({"hook": Calls(exec, _touch(marker))})


HOSTILE = [
    by_system,
    by_eval,
    by_exec_in_a_list,
    by_torch_load,
    by_map,
    by_key_of_ordered_dict,
    by_state,
    by_subclass_of_path,
]


def assert_refused(pickled, marker):
    """The pickle creates `marker` when Python runs it, is refused here, and then creates nothing."""
    pickle.loads(pickled)
    assert marker.exists(), "the control did not run: this attack tests nothing"
    marker.unlink()
    path = archive(marker.with_name("hostile.pt"), pickled)
    with pytest.raises(UserError, match="nothing in it was run"):
        read_torch_file(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_file_is_refused_and_runs_nothing(attack, protocol, tmp_path):
    marker = tmp_path / "ran"
    assert_refused(pickle.dumps(attack(marker), protocol), marker)


def test_refusal_names_what_the_file_asked_for(tmp_path):
    path = archive(tmp_path / "hostile.pt", pickle.dumps(Calls(eval, "1"), 2))
    with pytest.raises(UserError, match=r"hostile\.pt: its pickle asks for __builtin__\.eval") as error:
        read_torch_file(path)
    assert error.value.todo


def assembled(*parts):
    """A pickle from opcodes: text is a GLOBAL line or a literal opcode, tuples are strings to push."""
    return b"\x80\x02" + b"".join(parts) + b"."


def push(text):
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


REDUCE, BUILD, NEWOBJ, EMPTY_TUPLE, EMPTY_DICT, SETITEM, TUPLE1, TUPLE2, MARK, OBJ = (
    b"R",
    b"b",
    b"\x81",
    b")",
    b"}",
    b"s",
    b"\x85",
    b"\x86",
    b"(",
    b"o",
)
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def test_a_chain_of_getattr_is_refused_and_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    imported = name("builtins", "__import__") + push("os") + TUPLE1 + REDUCE
    system = name("builtins", "getattr") + imported + push("system") + TUPLE2 + REDUCE
    assert_refused(assembled(system, push(f"touch {marker}"), TUPLE1, REDUCE), marker)


@pytest.mark.parametrize(
    "pickled",
    [
        # A record is no function.
        assembled(name("models.common", "Conv"), EMPTY_TUPLE, REDUCE, EMPTY_TUPLE, REDUCE),
        # Nor is text, or a storage type.
        assembled(push("os.system"), push("true"), TUPLE1, REDUCE),
        assembled(name("torch", "FloatStorage"), EMPTY_TUPLE, REDUCE),
        # The state of a function or class could replace its defaults or its methods.
        assembled(REBUILD, EMPTY_DICT, push("__defaults__"), EMPTY_TUPLE, SETITEM, BUILD),
        assembled(name("models.common", "Conv"), EMPTY_DICT, push("__setstate__"), push("x"), SETITEM, BUILD),
        # Older opcodes that call: INST, OBJ; and the extension registry.
        assembled(MARK, push("true"), b"ios\nsystem\n"),
        assembled(MARK, name("models.common", "Conv"), OBJ),
        assembled(b"\x82\x01"),
        # A persistent id that is no storage, and one as text.
        assembled(push("anything"), b"Q"),
        assembled(b"Pstorage\n"),
        # Names made up from what is not text; keys that are not scalar.
        assembled(b"N", b"N", b"\x93"),
        assembled(EMPTY_DICT, EMPTY_TUPLE, b"N", SETITEM),
        # Allowed names with arguments they do not take.
        assembled(REBUILD, push("x"), TUPLE1, REDUCE),
        assembled(name("torch._utils", "_rebuild_parameter"), push("x"), TUPLE1, REDUCE),
        assembled(name("collections", "OrderedDict"), push("xy"), TUPLE1, REDUCE),
        # Broken stacks.
        assembled(),
        assembled(b"R"),
        assembled(b"h\x07"),
        assembled(b"t"),
        assembled(b"0"),
        b"\x80\x02",
        b"",
    ],
)
def test_malformed_or_abused_opcodes_are_user_errors(pickled, tmp_path):
    with pytest.raises(UserError):
        read_torch_file(archive(tmp_path / "odd.pt", pickled))


def test_an_allowed_class_stays_inert_whatever_its_state_says(tmp_path):
    state = EMPTY_DICT + b"".join(
        push(key) + push("os.system") + SETITEM
        for key in ("__class__", "__setstate__", "__reduce__", "forward", "path", "args")
    )
    path = archive(tmp_path / "a.pt", assembled(name("models.common", "Conv"), EMPTY_TUPLE, NEWOBJ, state, BUILD))
    record = read_torch_file(path)
    assert type(record) is Record
    assert record.path == "models.common.Conv"
    assert record.kind == "Conv"
    assert record.args == ()
    assert record.state["__setstate__"] == "os.system"


def test_an_allowed_prefix_does_not_lead_out_of_its_package(tmp_path):
    """Python's own unpickler follows the dots of a name out of an allowed module; here a name is only text."""
    marker = tmp_path / "ran"
    module = types.ModuleType("models.doorway")
    module.os = os
    sys.modules["models.doorway"] = module
    stack_global = push("models.doorway") + push("os.system") + b"\x93"
    pickled = b"\x80\x04" + stack_global + push(f"touch {marker}") + TUPLE1 + REDUCE + b"."
    try:
        pickle.loads(pickled)
        assert marker.exists(), "the control did not run"
        marker.unlink()
        record = read_torch_file(archive(tmp_path / "a.pt", pickled))
    finally:
        del sys.modules["models.doorway"]
    assert record.args == (f"touch {marker}",)
    assert not marker.exists()


def test_nesting_deeper_than_the_stack_is_no_crash(tmp_path):
    deep = EMPTY_TUPLE + TUPLE1 * 300_000
    assert isinstance(read_torch_file(archive(tmp_path / "deep.pt", assembled(deep))), tuple)
    with pytest.raises(UserError, match="key"):
        read_torch_file(archive(tmp_path / "key.pt", assembled(EMPTY_DICT, deep, b"N", SETITEM)))


# Tensors.


def tensor_pickle(offset, size, stride, count, kind="FloatStorage", key="0"):
    def number(value):
        return b"J" + struct.pack("<i", value)

    def tuple_of(*items):
        return MARK + b"".join(items) + b"t"

    storage = tuple_of(push("storage"), name("torch", kind), push(key), push("cpu"), number(count)) + b"Q"
    arguments = tuple_of(storage, number(offset), tuple_of(*map(number, size)), tuple_of(*map(number, stride)))
    return assembled(REBUILD, arguments, REDUCE)


FLOATS = struct.pack("<6f", 0, 1, 2, 3, 4, 5)


def test_a_view_of_a_storage_is_rebuilt(tmp_path):
    path = archive(tmp_path / "t.pt", tensor_pickle(1, (2, 2), (1, 3), 6), {"0": FLOATS})
    assert torch.equal(read_torch_file(path), torch.tensor([[1.0, 4.0], [2.0, 5.0]]))


@pytest.mark.parametrize(
    ("pickled", "storages", "told"),
    [
        (tensor_pickle(0, (7,), (1,), 6), {"0": FLOATS}, "larger than its storage"),
        (tensor_pickle(3, (4,), (1,), 6), {"0": FLOATS}, "larger than its storage"),
        (tensor_pickle(-1, (2,), (1,), 6), {"0": FLOATS}, "not a whole number"),
        (tensor_pickle(0, (2,), (-1,), 6), {"0": FLOATS}, "not a whole number"),
        (tensor_pickle(0, (2, 2), (1,), 6), {"0": FLOATS}, "size, stride"),
        (tensor_pickle(0, (1 << 30, 1 << 30), (0, 0), 6), {"0": FLOATS}, "larger than its storage"),
        (tensor_pickle(0, (6,), (1,), 1 << 30), {"0": FLOATS}, "24 bytes"),
        (tensor_pickle(0, (6,), (1,), 5), {"0": FLOATS}, "24 bytes"),
        (tensor_pickle(0, (6,), (1,), -6), {"0": FLOATS}, "outside"),
        (tensor_pickle(0, (6,), (1,), 6, kind="DoubleStorage"), {"0": FLOATS}, "24 bytes"),
        (tensor_pickle(0, (6,), (1,), 6, kind="UntypedStorage"), {"0": FLOATS}, "UntypedStorage"),
        (tensor_pickle(0, (6,), (1,), 6, key="../data.pkl"), {"0": FLOATS}, "lacks its entry"),
        (tensor_pickle(0, (6,), (1,), 6), {}, "lacks its entry archive/data/0"),
    ],
)
def test_tensors_that_reach_outside_their_storage_are_refused(pickled, storages, told, tmp_path):
    with pytest.raises(UserError, match=told):
        read_torch_file(archive(tmp_path / "t.pt", pickled, storages))


def test_compressed_entries_are_refused_before_they_are_unpacked(tmp_path):
    bomb = {"0": bytes(4 << 20)}
    path = archive(tmp_path / "bomb.pt", tensor_pickle(0, (1 << 20,), (1,), 1 << 20), bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UserError, match="compressed or too long"):
        read_torch_file(path)


def test_big_endian_files_are_refused(tmp_path):
    path = archive(tmp_path / "t.pt", tensor_pickle(0, (6,), (1,), 6), {"0": FLOATS}, byteorder=b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_torch_file(path)


# Files torch itself writes.


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    content = {
        "epoch": 3,
        "names": ["a", "b"],
        "none": None,
        "flags": (True, False, 1.5),
        "set": {1, 2},
        "half": torch.arange(4).half(),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "scalar": torch.tensor(7),
        "bool": torch.tensor([True]),
        "empty": torch.zeros(0, 3),
        "model": module,
        "state": module.state_dict(),
    }
    path = tmp_path_factory.mktemp("genuine") / "a.pt"
    torch.save(content, path)
    return path, content


def test_a_file_of_torch_reads_back_as_what_it_holds(genuine):
    path, content = genuine
    found = read_torch_file(path)
    for key in ("epoch", "names", "none", "flags", "set"):
        assert found[key] == content[key]
    for key in ("half", "transposed", "bool", "scalar", "empty"):
        assert found[key].dtype == content[key].dtype
        assert torch.equal(found[key], content[key])
    for key, tensor in content["state"].items():
        assert torch.equal(found["state"][key], tensor)
    conv = found["model"].state["_modules"]["0"]
    assert conv.path == "torch.nn.modules.conv.Conv2d"
    assert conv.state["kernel_size"] == (3, 3)
    assert torch.equal(conv.state["_parameters"]["weight"], content["model"][0].weight)


def test_mentions_lists_the_names_without_reading_a_tensor(genuine):
    path, _ = genuine
    with TorchFile(path) as file:
        assert {"torch.nn.modules.conv.Conv2d", "collections.OrderedDict", "epoch"} <= file.mentions()
        assert not file._storages


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damage_anywhere_gives_data_or_a_user_error_never_a_crash(data, genuine, tmp_path):
    path, _ = genuine
    with zipfile.ZipFile(path) as file:
        prefix = file.namelist()[0].split("/")[0]
        entries = {
            entry.removeprefix(f"{prefix}/data/"): file.read(entry)
            for entry in file.namelist()
            if entry.startswith(f"{prefix}/data/")
        }
        pickled = bytearray(file.read(f"{prefix}/data.pkl"))
    for _ in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        read_torch_file(archive(tmp_path / "damaged.pt", bytes(pickled), entries))


def test_truncated_and_foreign_files_are_user_errors(genuine, tmp_path):
    path, _ = genuine
    raw = path.read_bytes()
    broken = tmp_path / "b.pt"
    for content in (b"", raw[:100], raw[:-1], raw[: len(raw) // 2], b"not a zip", raw[10:]):
        broken.write_bytes(content)
        with pytest.raises(UserError):
            read_torch_file(broken)
    with pytest.raises(UserError, match="does not exist"):
        read_torch_file(tmp_path / "absent.pt")
    with zipfile.ZipFile(broken, "w") as file:
        file.writestr("readme", "hello")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read_torch_file(broken)


@pytest.mark.parametrize("one", [b"}", b"N", b"J\0\0\0\0", b"(", b"]", b"h\0a"], ids=repr)
def test_a_pickle_of_nothing_but_instructions_is_given_up_in_two_seconds(one: bytes, tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.pt", b"\x80\x02]q\0" + one * (60_000_000 // len(one)) + b".")
    began = time.process_time()
    with pytest.raises(UserError, match=r"more than 1,000,000 instructions|heaps up more values"):
        read_torch_file(path)
    assert time.process_time() - began < 2


def test_an_archive_of_nothing_but_entries_is_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "many.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        for number in range(120_000):
            file.writestr(f"archive/{number:040}", b"")
    began = time.process_time()
    with pytest.raises(UserError, match="lists more entries than a checkpoint has"):
        read_torch_file(path)
    assert time.process_time() - began < 1

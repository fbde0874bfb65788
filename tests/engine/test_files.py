"""Files that grow by lines, YAML made into structures, fingerprints: what must not be lost or mistaken."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from engine.command.append_log import AppendLog, read_lines
from engine.errors import InputError
from engine.json_file import read_object, read_object_if_any
from engine.model.fingerprint import fingerprint
from engine.rows_file import read_rows
from engine.struct_file import read_struct
from engine.whole_file import write_whole


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    size: int = 0


class Tree(msgspec.Struct):
    one: Inner
    two: Inner
    all: dict[str, Inner] = {}


def steps(path: Path) -> list[int]:
    with path.open("rb") as file:
        return [line.value["step"] for line in read_lines(file, "f", lambda value: "step" in value)]


@pytest.mark.parametrize("torn", [b'{"step": 2', b"\0" * 50, b"\0" * 50 + b"\n", b"[" * 100_000])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    (tmp_path / "f").write_bytes(b'{"step": 1}\n' + torn)
    assert steps(tmp_path / "f") == [1]


@pytest.mark.parametrize("foreign", [b'{"foo": 1}\n', b"[" * 100_000 + b"\n", b'{"foo": 1}\n{"step": 2}\n'])
def test_a_whole_line_of_something_else_is_no_torn_one(tmp_path, foreign):
    """Taken for torn it would be overwritten: the file may be another program's."""
    (tmp_path / "f").write_bytes(foreign)
    with pytest.raises(InputError, match="f:1: is no line of this program"):
        steps(tmp_path / "f")


def test_what_a_full_disk_did_not_take_is_nowhere(tmp_path):
    """Half a line, or one that comes with a later write, would be a row twice when it is tried again."""
    code = f"""
import resource, signal
from pathlib import Path
from engine.command.append_log import AppendLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AppendLog(Path({str(tmp_path / "f")!r}))
log.append(b'{{"step": 1}}\\n')
resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
try:
    log.append(b'{{"step": 2, "text": "' + b"x" * 100 + b'"}}\\n')
except OSError:
    print("full")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(b'{{"step": 3}}\\n')
log.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "full\n"
    assert (tmp_path / "f").read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_a_log_reads_what_it_wrote(tmp_path):
    log = AppendLog(tmp_path / "f")
    places = [log.append(b'{"step": %d}\n' % i) for i in range(1000)]
    for i in (0, 999, 500):
        log.file.seek(places[i])
        assert log.file.readline() == b'{"step": %d}\n' % i
    assert log.cut(places[10])
    assert log.append(b'{"step": 10}\n') == places[10]
    log.close()
    assert steps(tmp_path / "f") == list(range(11))


def test_anchors_that_hold_merges(tmp_path):
    """PyYAML merges in place: what was merged once looks like a key given twice when it is met again."""
    (tmp_path / "f.yaml").write_text("one: &a {<<: &b {name: x, size: 1}, name: y}\ntwo: {<<: *a, name: z}\n")
    tree = read_struct(tmp_path / "f.yaml", Tree)
    assert (tree.one.name, tree.two.name, tree.two.size) == ("y", "z", 1)
    (tmp_path / "f.yaml").write_text("one: {name: x, size: 1,\n name: y}\n")
    with pytest.raises(InputError, match="line 2: 'name' is given twice"):
        read_struct(tmp_path / "f.yaml", Tree)


@pytest.mark.parametrize("text", ["!!bool foo", '!!int ""', "!!timestamp foo", "[" * 5000, "a: [1", "\ttab: 1"])
def test_whatever_yaml_cannot_read_is_one_line(tmp_path, text):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(InputError, match=r"f\.yaml: not YAML: .") as told:
        read_struct(tmp_path / "f.yaml", Tree)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("=5", "must look like section.name=value"),
        ("one..name=5", "must look like section.name=value"),
        ("one.nmae=5", r"unknown setting one\.nmae; did you mean name\?"),
        ("one.size=x", "one.size is 'x': expected `int`"),
        ("all.k.size=x", r"all\[\.\.\.\]\.size: Expected `int`"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path, override, message):
    (tmp_path / "f.yaml").write_text("one: {name: x}\ntwo: {name: y}\nall: {k: {name: z}}\n")
    with pytest.raises(InputError, match=message):
        read_struct(tmp_path / "f.yaml", Tree, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one: {name: x, size: 1" + "0" * 400 + "}", r"line 1: '1000.* is beyond 64 bits"),
        ("one: {name: x, size: 1" + "0" * 5000 + "}", r"line 1: '1000.* is beyond 64 bits"),
        ("one: {name: x}\ntwo: {name: x, 1: y}", "two has a name that is no text"),
        ("one: {name: x}\ntwo: {name: x, null: y}", "two has a name that is no text"),
        ("one: {name: x}\ntwo: {name: x, 'a`) - at `$.x': y}", r"unknown setting two\.a`\) - at `\$\.x"),
        ('one: {name: x}\ntwo: {name: x, "a\\nb\\e[1m": y}', r"unknown setting two\.a\\nb\\x1b\[1m; known: name, size"),
    ],
)
def test_what_yaml_can_write_and_no_setting_is(tmp_path, text, message):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as told:
        read_struct(tmp_path / "f.yaml", Tree)
    assert str(told.value).isprintable()


def read_all(path: Path) -> None:
    list(read_rows(path))


def read_tree(path: Path) -> None:
    read_struct(path, Tree)


@pytest.mark.parametrize("read", [read_object, read_object_if_any, read_tree, read_all, fingerprint])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_only_regular_files_are_read(tmp_path, kind, read):
    """Nobody writes into the pipe: what opened it as a file would wait for ever."""
    path = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    if read is fingerprint and kind == "folder":
        return  # folders have no part in it
    with pytest.raises(InputError, match=rf"config\.json.* (is a {kind}; give a regular file)"):
        read(tmp_path if read is fingerprint else path)


def test_files_without_an_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.json_file._MOST_BYTES", 100)
    monkeypatch.setattr("engine.struct_file._MOST_BYTES", 100)
    monkeypatch.setattr("engine.input_file.MAX_LINE_BYTES", 100)
    for name, read in (("a.json", read_object), ("a.yaml", read_tree)):
        (tmp_path / name).write_text("{}" + " " * 99)
        with pytest.raises(InputError, match=rf"{name} is larger than 100 bytes"):
            read(tmp_path / name)
    (tmp_path / "a.jsonl").write_text("{}\n" + " " * 97 + "{}\n" + " " * 101)
    rows = read_rows(tmp_path / "a.jsonl")
    assert [next(rows), next(rows)] == [(1, {}), (2, {})]
    with pytest.raises(InputError, match=r"a\.jsonl:3: the line is longer than 100 bytes"):
        next(rows)


def test_numbers_that_python_does_not_read_are_named(tmp_path):
    for name, read in (("a.json", read_object), ("a.jsonl", read_rows)):
        (tmp_path / name).write_text('{"size": 1' + "0" * 5000 + "}")
        try:
            (_, row) = next(read(tmp_path / name))  # type: ignore[call-overload]
            told = row.reason
        except InputError as error:
            told = str(error)
        assert "a whole number has more than 4,300 digits" in told


def test_a_byte_order_mark_is_no_part_of_what_is_read(tmp_path):
    """Of rows, also inside a file that was put together of several; of JSON; of YAML."""
    (tmp_path / "f.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\xef\xbb\xbf{"a": 2}\n')
    assert [row for _, row in read_rows(tmp_path / "f.jsonl")] == [{"a": 1}, {"a": 2}]
    (tmp_path / "f.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(tmp_path / "f.json") == {"a": 1}
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_struct(tmp_path / "f.yaml", Inner) == Inner("x")


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    assert len(fingerprint(tmp_path)) == 16
    (tmp_path / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        fingerprint(tmp_path)


def test_a_whole_file_keeps_its_mode_and_is_read_by_nobody_else_meanwhile(tmp_path):
    path, seen = tmp_path / "results.jsonl", []
    path.touch(0o640)

    def content():
        for number in range(2):
            seen.extend(other.stat().st_mode & 0o777 for other in tmp_path.iterdir() if other != path)
            yield b"%d\n" % number

    write_whole(path, content())
    assert path.read_bytes() == b"0\n1\n" and path.stat().st_mode & 0o777 == 0o640
    assert seen == [0o600, 0o600] and list(tmp_path.iterdir()) == [path]


def test_a_whole_file_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "report.json"
    write_whole(path, "before")

    def content():
        yield b"half"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_whole(path, content())
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]

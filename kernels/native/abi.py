"""The C interface of the native library, declared once.

`python -m kernels.native.abi` writes `csrc/cpu/abi.h` from what stands here and from the columns of
`kernels.thinking_tables` and `kernels.sampling_tables`; ctypes gets its structures and signatures from the same text.
The header carries a hash of itself, which the library answers: one that was built from another interface is refused.
"""

import ctypes
import hashlib
import re
import textwrap
from enum import IntEnum
from pathlib import Path
from typing import Any

from kernels.sampling_tables import Real, Whole
from kernels.thinking_tables import Finish, Kind, Param, Phase, Record, State, Stop, Text, Trait

HEADER = Path(__file__).resolve().parents[2] / "csrc" / "cpu" / "abi.h"
_ENUMS: tuple[type[IntEnum], ...] = (State, Param, Phase, Text, Finish, Stop, Record, Kind, Trait, Real, Whole)

_STRUCTS = """\
enum S1Type : int32_t { S1_FLOAT32 = 0, S1_BFLOAT16 = 1, S1_INT8 = 2 };

// A weight [rows, cols] packed by s1_<level>_pack: panels of 32 rows, columns innermost but one, see linear.cpp.
struct S1Weight {
  void* data;          // panels, of `type`
  const float* bias;   // [panels * 32] or null
  const float* scale;  // [panels * 32], int8 only
  int64_t rows, cols;
  int32_t type;
};

// One layer of a decoder: packed products, norms [hidden], of query and key heads [2, head_dim] or null, and its pages
// [num_pages, num_kv, page_size, head_dim], with page_stride elements from one to the next. Activations, norms and
// pages hold the type of S1Decoder.
struct S1Layer {
  const void* input_norm;
  const S1Weight* qkv;
  const void* qk_norm;
  const S1Weight* output;
  const void* mlp_norm;
  const S1Weight *gate_up, *down;
  void *k_cache, *v_cache;
};

struct S1Decoder {
  const S1Layer* layers;
  const float* cos_sin;  // [max_pos, head_dim], cos | sin
  const void* norm;      // [hidden]
  int64_t num_layers, hidden, features, num_q, num_kv, head_dim, page_size, page_stride;
  float eps, scale;
  int32_t type;
};

// The parts of a layer in the order in which they run; the last norm of a model counts as NORM too.
enum S1Part : int32_t { S1_NORM, S1_QKV, S1_APPEND, S1_ATTENTION, S1_OUTPUT, S1_GATE_UP, S1_DOWN, S1_PARTS };

// The tokens of one step: `decodes` rows of one token each, then `chunks` rows of several; tables and lengths in that
// order.
struct S1Tokens {
  void* x;                      // [n, hidden]: embeddings in, the sum of all layers out
  void* y;                      // [n, hidden]: x after the last norm
  const int64_t* positions;     // [n]
  const int64_t* slots;         // [n]: page * page_size + offset, negative: write nothing
  const int32_t* block_tables;  // [decodes + chunks, pages]
  const int32_t* context_lens;  // [decodes + chunks]
  const int32_t* cu_q;          // [chunks + 1], from 0
  double* seconds;              // [S1_PARTS], to which what each part takes is added, or null
  int64_t n, decodes, chunks, pages;
};

// MachineTables of kernels/thinking_tables.py; strides are the tables' last dimensions. No marks: no text.
struct S1Machine {
  int32_t *state, *params, *strings, *trigger_last, *trigger_lead, *stop_ids, *history, *eos_ids;
  const uint8_t* traits;
  const int16_t* next;
  int32_t* marks;
  int64_t string_len, triggers, stops, history_len, eos, vocab;
};
"""

_OPERATORS = """\
void pack(const S1Weight* w, const void* from, int32_t threads);
void linear(const S1Weight* w, const void* x, const void* residual, void* y, int64_t n, int32_t type, int32_t epilogue,
            int32_t threads);
void rms_norm(const void* x, const void* residual, const void* weight, void* y, void* sum, int64_t n, int64_t hidden,
              float eps, int32_t type, int32_t threads);
void rope_append(const void* qkv, const float* cos_sin, const int64_t* positions, const int64_t* slots, void* q,
                 void* k_cache, void* v_cache, int64_t n, int64_t num_q, int64_t num_kv, int64_t head_dim,
                 int64_t page_size, int64_t page_stride, const void* qk_norm, float eps, int32_t type,
                 int32_t threads);
void attention(const void* q, const void* k_cache, const void* v_cache, const int32_t* block_tables,
               const int32_t* context_lens, const int32_t* cu_q, void* out, int64_t rows, int64_t pages, int64_t num_q,
               int64_t num_kv, int64_t head_dim, int64_t page_size, int64_t page_stride, float scale, int32_t type,
               int32_t threads);
void silu_mul(const void* x, void* y, int64_t n, int64_t features, int32_t type, int32_t threads);
void embedding(const int64_t* ids, const void* weight, void* y, int64_t n, int64_t rows, int64_t width, int64_t start);
void embedding_of_panels(const int64_t* ids, const S1Weight* w, void* y, int64_t n, int64_t start);
void decode_inputs(const int64_t* inputs, int64_t stride, const int32_t* state, const int32_t* history,
                   int64_t history_len, int32_t* blocks, int64_t blocks_len, int64_t page_size, int64_t width,
                   int64_t* rows, int32_t* tables, int32_t* lens, int64_t n);
void decoder(const S1Decoder* model, const S1Tokens* in, int32_t threads);
void sample(const S1Machine* tables, float* logits, const int64_t* slots, const float* real, const int32_t* whole,
            int64_t* draw, int64_t* masked, uint8_t* bad, int64_t rows, int64_t columns, int64_t vocab,
            int32_t filters, int32_t wants_masked, int32_t threads);
void thinking_step(const S1Machine* tables, const int64_t* slots, const int64_t* draw, const int64_t* masked,
                   const uint8_t* bad, int32_t* records, int64_t rows);
void read(const void* p, int64_t bytes, float* total, int32_t threads);
"""

_HEADER = """\
// Made by `python -m kernels.native.abi`; change that file, not this one.
//
// The C interface that kernels/native/library.py binds with ctypes: every operator once per instruction set, as
// s1_<level>_<operator>. Pointers are raw, sizes are in elements, `type` fields say what a pointer holds.
// Callers have checked shapes; nothing here allocates except scratch that grows to the largest call seen.
#pragma once

#include <cstdint>

// A hash of this file's other lines; kernels/native/library.py refuses a library that answers another one.
#define S1_INTERFACE {hash}ull

{structs}
// Columns and values of the tables; each namespace is the enumeration of that name in kernels/.
{enums}
#define S1_CONCAT_(a, b, c) a##b##c
#define S1_CONCAT(a, b, c) S1_CONCAT_(a, b, c)
#define S1_EXPORT(name) extern "C" __attribute__((visibility("default"))) name
// s1_<level>_<operator>
#define S1_OP(op) S1_EXPORT(void S1_CONCAT(s1_, S1_LEVEL, _##op))

#ifdef S1_LEVEL
{operators}#endif
"""
_SCALARS: dict[str, Any] = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float}


def _enum(columns: type[IntEnum]) -> str:
    names = ", ".join(f"{c.name} = {int(c)}" for c in columns)
    values = textwrap.fill(f"{names}, COUNT = {len(columns)}", 118, initial_indent="  ", subsequent_indent="  ")
    return f"namespace {columns.__name__} {{\nenum : int32_t {{\n{values}\n}};\n}}\n"


def header() -> str:
    """The text of `csrc/cpu/abi.h`."""
    return _HEADER.format(
        hash=f"0x{INTERFACE:016x}",
        structs=_STRUCTS,
        enums="".join(map(_enum, _ENUMS)),
        operators=re.sub(r"^void (\w+)", r"S1_OP(\1)", _OPERATORS, flags=re.MULTILINE),
    )


INTERFACE = int.from_bytes(
    hashlib.sha256((_STRUCTS + _OPERATORS + "".join(map(_enum, _ENUMS))).encode()).digest()[:8], "big"
)
"""What the library must answer."""


def _declared(text: str) -> list[tuple[str, Any]]:
    """(name, ctypes type) of declarations such as `const float *a, *b` or `int64_t n`."""
    kind, rest = re.fullmatch(r"(?:const )?(\w+)(.*)", text.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    pointers = rest.startswith("*")
    names = [name.strip() for name in rest.removeprefix("*").split(",")]
    return [
        (name.lstrip("*"), ctypes.c_void_p if pointers or name.startswith("*") else _SCALARS[kind]) for name in names
    ]


def fields(struct: str) -> list[tuple[str, Any]]:
    """`_fields_` of a structure of the header."""
    found = re.search(rf"struct {struct} {{(.*?)^}};", _STRUCTS, re.DOTALL | re.MULTILINE)
    assert found is not None
    body = re.sub(r"//.*", "", found[1])
    return [field for line in body.split(";") if line.strip() for field in _declared(line)]


SIGNATURES: dict[str, list[Any]] = {
    name: [_declared(argument)[0][1] for argument in arguments.split(",")]
    for name, arguments in re.findall(r"^void (\w+)\((.*?)\);", _OPERATORS, re.DOTALL | re.MULTILINE)
}
"""`argtypes` of every operator."""


if __name__ == "__main__":
    HEADER.write_text(header())

// All layers of a step in one call. Twin of engine.model.decoder.Decoder.forward on one rank, and bit for bit what it
// gives operator by operator: the same parts in the same order, without leaving the team of threads in between.
#include <chrono>

#include "operators.h"

namespace S1_LEVEL {

namespace {

// Activations between the operators of a layer, used again by the next.
struct Buffers {
  void *y, *qkv, *q, *attended, *wide, *gated, *shared;
};

using Clock = std::chrono::steady_clock;

struct Forward {
  const S1Decoder& model;
  const S1Tokens& in;
  Buffers at;
  int id, threads;
  Clock::time_point since = Clock::now();

  // All threads have done a part of the layer.
  void done(S1Part part) {
    barrier();
    if (in.seconds && id == 0) {
      const Clock::time_point now = Clock::now();
      in.seconds[part] += std::chrono::duration<double>(now - since).count();
      since = now;
    }
  }

  int64_t token_bytes() const { return model.type == S1_BFLOAT16 ? 2 : 4; }

  void norm(const void* weight, void* y) {
    rms_norm_part({in.x, nullptr, weight, y, nullptr, in.n, model.hidden, model.eps, model.type}, id, threads);
    done(S1_NORM);
  }

  void product(S1Part part, const S1Weight* w, const void* x, const void* residual, void* y, Epilogue epilogue) {
    linear_part({w, x, residual, y, in.n, model.type, epilogue}, id, threads, at.shared);
    done(part);
  }

  Attention attention(const S1Layer& layer, int64_t token, int64_t row, int64_t rows, const int32_t* cu_q) const {
    const int64_t skip = token * model.num_q * model.head_dim * token_bytes();
    return {(const char*)at.q + skip, layer.k_cache, layer.v_cache, in.block_tables + row * in.pages,
            in.context_lens + row, cu_q, (char*)at.attended + skip, rows, in.pages, model.num_q, model.num_kv,
            model.head_dim, model.page_size, model.page_stride, model.scale, model.type};
  }

  void attend(const S1Layer& layer) {
    rope_append_part({at.qkv, model.cos_sin, in.positions, in.slots, at.q, layer.k_cache, layer.v_cache, in.n,
                      model.num_q, model.num_kv, model.head_dim, model.page_size, model.page_stride, layer.qk_norm,
                      model.eps, model.type},
                     id, threads);
    done(S1_APPEND);
    if (in.decodes) decode_attention_part(attention(layer, 0, 0, in.decodes, nullptr), id, threads, at.shared);
    if (in.chunks)
      prefill_attention_part(attention(layer, in.decodes, in.decodes, in.chunks, in.cu_q), id, threads);
    done(S1_ATTENTION);
  }

  void mlp(const S1Layer& layer) {
    if (model.features % 32 == 0) {
      product(S1_GATE_UP, layer.gate_up, at.y, nullptr, at.gated, SILU_MUL);
    } else {
      product(S1_GATE_UP, layer.gate_up, at.y, nullptr, at.wide, PLAIN);
      silu_mul_part({at.wide, at.gated, in.n, model.features, model.type}, id, threads);
      done(S1_GATE_UP);
    }
    product(S1_DOWN, layer.down, at.gated, in.x, in.x, PLAIN);
  }

  void run() {
    for (int64_t i = 0; i < model.num_layers; ++i) {
      const S1Layer& layer = model.layers[i];
      norm(layer.input_norm, at.y);
      product(S1_QKV, layer.qkv, at.y, nullptr, at.qkv, PLAIN);
      attend(layer);
      product(S1_OUTPUT, layer.output, at.attended, in.x, in.x, PLAIN);
      norm(layer.mlp_norm, at.y);
      mlp(layer);
    }
    norm(model.norm, in.y);
  }
};

}  // namespace
}  // namespace S1_LEVEL

S1_OP(decoder)(const S1Decoder* model, const S1Tokens* in, int32_t threads) {
  using namespace S1_LEVEL;
  const int64_t size = model->type == S1_BFLOAT16 ? 2 : 4, heads = model->num_q + 2 * model->num_kv;
  const int64_t queries = model->num_q * model->head_dim, inner = model->features;
  int64_t widest = model->hidden > queries ? model->hidden : queries;
  widest = widest > inner ? widest : inner;
  Attention lengths{};
  lengths.rows = in->decodes, lengths.context_lens = in->context_lens;
  lengths.num_q = model->num_q, lengths.num_kv = model->num_kv, lengths.head_dim = model->head_dim;
  const size_t decode = decode_shared_bytes(lengths), wide = in->n * (widest + 1) * sizeof(float);

  const auto rounded = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t rows[] = {size_t(model->hidden), size_t(heads * model->head_dim), size_t(queries), size_t(queries),
                         size_t(2 * inner), size_t(inner)};
  size_t total = 0;
  for (const size_t width : rows) total += rounded(width * in->n * size);
  char* next = (char*)scratch(STEP, total);
  void* taken[6];
  for (int i = 0; i < 6; ++i) {
    taken[i] = next;
    next += rounded(rows[i] * in->n * size);
  }
  const Buffers at{taken[0], taken[1], taken[2], taken[3], taken[4], taken[5],
                   scratch(SHARED, decode > wide ? decode : wide)};
  // Below this many products a layer waking a second thread takes longer than the work.
  const bool small = in->n * model->hidden * inner * 3 < 131072;
  parallel(small ? 1 : threads, [&](int id, int count) { Forward{*model, *in, at, id, count}.run(); });
}

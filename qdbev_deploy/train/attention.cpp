// Deformable attention on a CPU, forward and backward in one pass each. What `ops/deform_attn.py` computes with
// `_attend`, on contiguous tensors:
//
//   value [batch, tokens, heads, dim], references [batch, queries, anchors, 2] with anchors 1 or points,
//   offsets [batch, queries, heads, levels, points, 2], weights [batch, queries, heads, levels, points],
//   shapes [levels, 2] as height, width, out and grad [batch, queries, heads * dim].
//
// attend_backward adds to grad_value, which begins as zeros, and sets the others. The gradient of a reference is the sum
// of its offsets', times the level's size.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// The four pixels around a place: rows of the map (-1 outside), weights, and how these change along x and y.
struct Corners {
  int64_t index[4];
  float weight[4], dx[4], dy[4];
};

// Pixel coordinates; false where all four pixels lie outside, or a coordinate is not a number.
inline bool corners(float x, float y, int64_t height, int64_t width, Corners& c) {
  if (!(x > -1.0f && y > -1.0f && x < static_cast<float>(width) && y < static_cast<float>(height))) return false;
  const float x0 = std::floor(x), y0 = std::floor(y);
  const float fx = x - x0, fy = y - y0;
  const int64_t ix = static_cast<int64_t>(x0), iy = static_cast<int64_t>(y0);
  for (int k = 0; k < 4; ++k) {
    const int64_t cx = ix + (k & 1), cy = iy + (k >> 1);
    const bool inside = cx >= 0 && cy >= 0 && cx < width && cy < height;
    const float wx = (k & 1) ? fx : 1.0f - fx, wy = (k >> 1) ? fy : 1.0f - fy;
    c.index[k] = inside ? cy * width + cx : -1;
    c.weight[k] = wx * wy;
    c.dx[k] = ((k & 1) ? 1.0f : -1.0f) * wy;
    c.dy[k] = ((k >> 1) ? 1.0f : -1.0f) * wx;
  }
  return true;
}

struct Sizes {
  int64_t batch, tokens, heads, dim, queries, levels, points, anchors, threads;
  int64_t row() const { return heads * dim; }
};

// Every query of every head, in turn: `query(at)` with where its channels begin, then for each place that it samples
// `place(at, i, base, inside, c)`: the place's number, where its level's map begins, its corners if any is inside.
template <typename Query, typename Place>
void each_place(const Sizes& size, const float* references, const float* offsets, const int64_t* shapes,
                const Query& query, const Place& place) {
  const int64_t row = size.row();
  // Each thread has batch entries and heads of its own, so that no two add to the same place.
#pragma omp parallel for collapse(2) num_threads(size.threads)
  for (int64_t n = 0; n < size.batch; ++n)
    for (int64_t h = 0; h < size.heads; ++h)
      for (int64_t q = 0; q < size.queries; ++q) {
        const int64_t first = ((n * size.queries + q) * size.heads + h) * size.levels * size.points;
        const float* reference = references + (n * size.queries + q) * size.anchors * 2;
        const int64_t at = (n * size.queries + q) * row + h * size.dim;
        query(at);
        int64_t start = 0;
        for (int64_t l = 0; l < size.levels; ++l) {
          const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
          const int64_t base = (n * size.tokens + start) * row + h * size.dim;
          for (int64_t p = 0; p < size.points; ++p) {
            const int64_t i = first + l * size.points + p;
            const float* ref = reference + (size.anchors > 1 ? 2 * p : 0);
            Corners c;
            const bool inside = corners(ref[0] * width + offsets[2 * i] - 0.5f,
                                        ref[1] * height + offsets[2 * i + 1] - 0.5f, height, width, c);
            place(at, i, base, inside, c);
          }
          start += height * width;
        }
      }
}

}  // namespace

extern "C" {

void attend_forward(const float* value, const float* references, const float* offsets, const float* weights,
                    const int64_t* shapes, float* out, int64_t batch, int64_t tokens, int64_t heads, int64_t dim,
                    int64_t queries, int64_t levels, int64_t points, int64_t anchors, int64_t threads) {
  const Sizes size{batch, tokens, heads, dim, queries, levels, points, anchors, threads};
  const int64_t row = size.row();
  each_place(
      size, references, offsets, shapes, [=](int64_t at) { std::memset(out + at, 0, sizeof(float) * dim); },
      [=](int64_t at, int64_t i, int64_t base, bool inside, const Corners& c) {
        if (!inside) return;
        float* result = out + at;
        for (int k = 0; k < 4; ++k) {
          if (c.index[k] < 0) continue;
          const float scale = c.weight[k] * weights[i];
          const float* source = value + base + c.index[k] * row;
#pragma omp simd
          for (int64_t d = 0; d < dim; ++d) result[d] += scale * source[d];
        }
      });
}

void attend_backward(const float* value, const float* references, const float* offsets, const float* weights,
                     const int64_t* shapes, const float* grad, float* grad_value, float* grad_offsets,
                     float* grad_weights, int64_t batch, int64_t tokens, int64_t heads, int64_t dim, int64_t queries,
                     int64_t levels, int64_t points, int64_t anchors, int64_t threads) {
  const Sizes size{batch, tokens, heads, dim, queries, levels, points, anchors, threads};
  const int64_t row = size.row();
  each_place(
      size, references, offsets, shapes, [](int64_t) {},
      [=](int64_t at, int64_t i, int64_t base, bool inside, const Corners& c) {
        const float* incoming = grad + at;
        float along_x = 0.0f, along_y = 0.0f, along_weight = 0.0f;
        for (int k = 0; inside && k < 4; ++k) {
          if (c.index[k] < 0) continue;
          const float* source = value + base + c.index[k] * row;
          float* target = grad_value + base + c.index[k] * row;
          const float scale = c.weight[k] * weights[i];
          float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
          for (int64_t d = 0; d < dim; ++d) {
            dot += incoming[d] * source[d];
            target[d] += scale * incoming[d];
          }
          along_weight += c.weight[k] * dot;
          along_x += c.dx[k] * dot;
          along_y += c.dy[k] * dot;
        }
        grad_weights[i] = along_weight;
        grad_offsets[2 * i] = along_x * weights[i];
        grad_offsets[2 * i + 1] = along_y * weights[i];
      });
}
}

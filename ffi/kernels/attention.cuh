// What attention over f32 and over f16 share: rotation of what comes in, and the merging of softmaxes.
#pragma once

#include "layout.cuh"

// Entry d of one head of a query or key, turned by the cosines and sines of its position, [2, size/2], or as it is.
SD_INLINE float turned(const float* head, int d, int size, const float* rotation) {
  if (!rotation) return head[d];
  int half = size / 2;
  return d < half ? head[d] * rotation[d] - head[d + half] * rotation[half + d]
                  : head[d] * rotation[d - half] + head[d - half] * rotation[d];
}

// What has been seen of a softmax: its largest score, and the sum of exp(score − largest), to base e or 2.
struct Seen {
  float largest, total;
};

// The factors of what was known and of what is new. `fresh` has seen something.
struct Merge {
  Seen seen;
  float known, fresh;
};

// Powers of e, and of 2.
struct Natural {
  SD_INLINE static float power(float x) { return expf(x); }
};
struct Binary {
  SD_INLINE static float power(float x) { return exp2_approx(x); }
};

template <class Base>
SD_INLINE Merge merge(Seen known, Seen fresh) {
  float largest = fmaxf(known.largest, fresh.largest);
  float a = Base::power(known.largest - largest), b = Base::power(fresh.largest - largest);
  return {{largest, fmaf(fresh.total, b, known.total * a)}, a, b};
}

SD_INLINE float merged(Merge m, float known, float fresh) { return fmaf(fresh, m.fresh, known * m.known); }

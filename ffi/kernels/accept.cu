// Drafts drawn and tested where the laws are: `propose.ts` and `verify` of `acceptance.ts` on the device. Which rule
// makes which test is decided there; here are three tests.

#include "draw.cuh"
#include "faults.cuh"

constexpr int THREADS = 1024;

// What the decisions of a round depend on: the length of the text before it, and the seed.
struct Round {
  uint32_t start, seed_low, seed_high;
};

SD_INLINE NoiseKey key_of(const Round* round, uint32_t purpose, uint32_t offset) {
  return {round->seed_low, round->seed_high, purpose, round->start + offset};
}

// out[r] = a token of law p[r], with the noise of position start + offset + r: by a race, or by inversion of the
// uniform whose draw is the length of the text, which tells rounds apart. Grid: rows.
SD_KERNEL(THREADS, draw, int* out, const float* p_rows, int columns, const Round* round, uint32_t purpose,
          uint32_t offset, int by_race) {
  grid_dependency_wait();
  const float* p = p_rows + (size_t)blockIdx.x * padded(columns);
  const NoiseKey key = key_of(round, purpose, offset + blockIdx.x);
  const int token = by_race ? race_winner(p, columns, key)
                            : invert(columns, uniform(key, round->start), [&](int v) -> double { return p[v]; });
  if (threadIdx.x == 0) out[blockIdx.x] = token < 0 ? undrawn(p[0]) : token;
}

// masses[r] = the sum of row r: of p's n + 1 rows, then of q's. −1 if an entry is negative. Grid: rows.
SD_KERNEL(THREADS, weigh, double* masses, const float* p_rows, const float* q_rows, int columns, int n) {
  grid_dependency_wait();
  const int r = blockIdx.x;
  const float* row = r <= n ? p_rows + (size_t)r * padded(columns) : q_rows + (size_t)(r - n - 1) * padded(columns);
  double sum = 0;
  int negative = 0;
  for (int v = threadIdx.x; v < columns; v += blockDim.x) {
    sum += row[v];
    negative |= row[v] < 0;
  }
  sum = block_sum(sum);
  negative = block_fold(negative, [](int a, int b) { return a | b; });
  if (threadIdx.x == 0) masses[r] = negative ? -1 : sum;
}

// How a draft is tested.
enum Test { EACH = 0, JOINT = 1, DRAWN = 2 };

// The two laws at one position of a draft; q is null for a point mass at x.
struct Pair {
  const float *p, *q;
  double p_mass, q_mass;
  int x;

  // p(x)/q(x)
  SD_INLINE double ratio() const {
    double px = p[x] / p_mass;
    return q ? px * q_mass / q[x] : px;
  }
  // What is left of scale·p at v
  SD_INLINE double left(int v, double scale_p, double scale_q) const {
    if (!q && v == x) return 0;
    double left = p[v] * scale_p - (q ? q[v] * scale_q : 0);
    return left > 0 ? left : 0;
  }
};

// out = how many of the n drafted tokens are kept, the token after them or why there is none, whether it follows a draft
// kept as a whole, and the draft. One block.
//
// `use_q` [n]: where it is 0 a token is a point mass; null: nowhere. So are all where `q_rows` is null. `masses`: as
// `weigh` leaves them, and room for n + 1 more. `drawn` [n + 1]: for DRAWN, the target's own tokens.
SD_KERNEL(THREADS, accept, int* out, const float* p_rows, const float* q_rows, int columns, const int* draft,
          const int* use_q, int n, const Round* round, int test, uint32_t accepting, uint32_t replacing,
          double* masses, const int* drawn) {
  grid_dependency_wait();
  auto lesser = [](int a, int b) { return a < b ? a : b; };
  const size_t stride = padded(columns);
  double* product = masses + 2 * n + 1;  // [n + 1], for JOINT
  int kept = n, token = -1, strange = n + 1;
  auto usable = [](double mass) { return mass > 0 && mass < INFINITY; };
  auto pair = [&](int j) -> Pair {
    const bool point = !q_rows || (use_q && !use_q[j]);
    return {p_rows + j * stride, point ? nullptr : q_rows + j * stride, masses[j],
            point ? 1 : masses[n + 1 + j], draft[j]};
  };
  auto makes_sense = [&](const Pair& at) {
    return at.x >= 0 && at.x < columns && usable(at.p_mass) && usable(at.q_mass) && (!at.q || at.q[at.x] > 0);
  };
  auto chance = [&](uint32_t purpose, int offset, uint32_t draw) {
    return uniform(key_of(round, purpose, offset), draw);
  };

  // what says itself why it cannot be tested: drafted tokens, then laws
  int told = 2 * n + 1;
  for (int j = threadIdx.x; j <= n; j += blockDim.x) {
    if (j < n && is_fault(draft[j])) told = min(told, j);
    if (is_no_law(p_rows[j * stride])) told = min(told, n + j);
  }
  told = block_fold(told, lesser, 2 * n + 1);

  if (told <= 2 * n) {
    token = told < n ? draft[told] | DRAFTED : undrawn(p_rows[(told - n) * stride]);
  } else if (test == DRAWN) {
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
      if (drawn[j] != draft[j]) kept = min(kept, j);
    }
    kept = block_fold(kept, lesser, n);
    token = drawn[kept];
  } else {
    // one after the other up to the first rejection; together, all of them count
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
      const Pair at = pair(j);
      if (!makes_sense(at)) {
        strange = min(strange, j);
      } else if (test == JOINT) {
        product[j + 1] = at.ratio();
      } else if (!(chance(accepting, j, 0) < at.ratio())) {
        kept = min(kept, j);
      }
    }
    strange = block_fold(strange, lesser, n + 1);
    kept = block_fold(kept, lesser, n);
    const bool broken = strange <= kept;
    double scale = 1;
    if (test == JOINT && !broken) {
      if (threadIdx.x == 0) {
        product[0] = 1;
        for (int j = 0; j < n; j++) product[j + 1] = min(1.0, product[j] * product[j + 1]);
      }
      syncthreads();
      auto passes = [&](int j, double probability) {
        return chance(accepting, j - 1, round->start) < probability;
      };
      while (kept > 0) {
        if (kept == n && passes(n, product[n])) break;
        kept--;
        scale = product[kept];
        // A prefix passes with probability r/(r + 1 − scale), which is at most scale, as r, the mass of what is left of
        // scale·p, is: where the same uniform is not below that, by more than r may be rounded, the vocabulary need not
        // be walked. Nor where nothing is kept, which passes always: `invert` sums up what is left once more.
        if (kept == 0 || !passes(kept, scale * (1 + 0x1p-30))) continue;
        const Pair at = pair(kept);
        double r = 0;
        for (int v = threadIdx.x; v < columns; v += blockDim.x) {
          r += at.left(v, scale / at.p_mass, 1 / at.q_mass);
        }
        r = block_sum(r);
        if (passes(kept, r > 0 ? r / (r + 1 - scale) : 0)) break;
      }
    }
    const float* row = p_rows + kept * stride;
    if (!broken && kept < n) {
      const Pair at = pair(kept);
      const double scale_p = scale / at.p_mass, scale_q = 1 / at.q_mass;
      token = invert(columns, chance(replacing, kept, 0), [&](int v) { return at.left(v, scale_p, scale_q); });
    }
    // the bonus token; or nothing is left, as q equals p up to rounding
    if (!broken && token < 0 && usable(masses[kept])) {
      token = invert(columns, chance(replacing, kept, 0), [&](int v) -> double { return row[v]; });
    }
    if (threadIdx.x == 0 && token < 0) {
      if (strange > n) strange = n;
      const Pair at = strange < n ? pair(strange) : Pair{row, nullptr, masses[n], 1, 0};
      const double mass = usable(at.p_mass) ? at.q_mass : at.p_mass;
      if (mass == -1) token = fault(NEGATIVE_WEIGHT, 0);
      else if (!usable(mass)) token = fault(MASS_OF_LAW, float_to_bits((float)mass) >> 5);
      else if (at.x < 0 || at.x >= columns) token = fault(STRANGE_TOKEN, at.x);
      else token = fault(DRAFTED_UNLIKELY, at.x);
    }
  }
  for (int j = threadIdx.x; j < n; j += blockDim.x) out[3 + j] = draft[j];
  if (threadIdx.x != 0) return;
  out[0] = kept;
  out[1] = token;
  out[2] = kept == n;
}

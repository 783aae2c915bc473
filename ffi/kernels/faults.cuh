// What a kernel finds wrong with its data stands where its result would: a row that is no law is NaN, a token that
// cannot be drawn is negative, and either says why. So it is told to whoever reads the result, and to nobody else.
// `src/backend/cuda/faults.ts` reads it.

#pragma once
#include "device.cuh"

enum FaultCode {
  LOGITS = 0,  // as an entry of a law says it
  NO_WEIGHT = 1,
  NEGATIVE_WEIGHT = 2,
  MASS_OF_LAW = 3,  // bits 5 … 31 of the float
  DRAFTED_UNLIKELY = 4,
  STRANGE_TOKEN = 5,
  DRAFTED = 6,  // added to LOGITS or NO_WEIGHT: it is the draft that could not be drawn
};

// In place of a token: three bits of code, 27 of detail, and 10 in front, which no id has.
SD_INLINE int fault(FaultCode code, int detail) {
  return (int)(1u << 31 | ((uint32_t)detail & 0x7ffffff) << 3 | code);
}
SD_INLINE bool is_fault(int token) { return (uint32_t)token >> 30 == 2; }

// In place of each entry of a law: a NaN that neither arithmetic nor a conversion makes, with 21 bits of detail that are
// not 0. 1: the largest logit is −∞; 2: it is +∞; 3 + v: that of token v is not a number.
SD_INLINE float no_law(uint32_t detail) { return bits_to_float(0x7fc00000u | detail); }
SD_INLINE bool is_no_law(float entry) { return float_to_bits(entry) - 0x7fc00001u < 0x1fffffu; }

// Why nothing can be drawn from a law that begins with `entry`.
SD_INLINE int undrawn(float entry) {
  return is_no_law(entry) ? fault(LOGITS, float_to_bits(entry) & 0x1fffff) : fault(NO_WEIGHT, 0);
}

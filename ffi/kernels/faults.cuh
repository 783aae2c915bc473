// What a kernel found wrong with its data. The first report stands until the host, at its next wait, throws it.

#pragma once
#include "device.cuh"

enum FaultCode {
  STRANGE_TOKEN = 1,
  LOGIT_NOT_A_NUMBER = 2,
  LARGEST_LOGIT = 3,
  NO_WEIGHT = 4,
  NEGATIVE_WEIGHT = 5,
  MASS_OF_LAW = 6,
  DRAFTED_UNLIKELY = 7,
};

// In memory of the host that the device sees.
struct Fault {
  int code, detail;
};

SD_INLINE void report(volatile Fault* fault, int code, int detail) {
  if (fault->code != 0) return;
  fault->detail = detail;
  fault->code = code;
}

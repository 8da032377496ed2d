// What launchers of Hopper's kernels ask of the driver and the device.
#pragma once

#include <cuda.h>

#include "cuda/kernels.h"

namespace quest::cuda {

// Whether the current GPU runs code for sm_90a (compute capability 9.0 exactly), this build has it, and the driver can make
// tensor maps.
bool gpu_has_wgmma();

int multiprocessors();  // of the current GPU

// A tensor map over `rows` consecutive rows of `width` halves, read in boxes of [box_rows, 64] with the 128-byte swizzle; what
// lies outside arrives as zeros. Needs gpu_has_wgmma(), 16-byte alignment, width a multiple of 8, box_rows <= 256.
CUtensorMap map_rows(const void* data, Half type, int64_t width, int64_t rows, int box_rows);

}  // namespace quest::cuda

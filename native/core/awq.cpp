#include "core/awq.h"

#include "core/error.h"

namespace quest {

void check_int4(const std::string& name, int64_t rows, int64_t cols, int64_t group, DType scales) {
  const auto refuse = [&](const std::string& what) {
    throw Error("E_QUANTIZATION", "4-bit tensor " + name + ": " + what,
                "supported: groups of 32, 64 or 128 that divide the inputs, outputs in multiples of 8, fp16 scales");
  };
  if (group != 32 && group != 64 && group != 128) refuse("groups of " + std::to_string(group) + " weights");
  if (rows < 8 || rows % 8 != 0) refuse(std::to_string(rows) + " outputs");
  if (cols < group || cols % group != 0) refuse(std::to_string(cols) + " inputs in groups of " + std::to_string(group));
  if (scales != DType::fp16) refuse(std::string("scales in ") + dtype_name(scales));
}

}  // namespace quest

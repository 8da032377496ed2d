// The runtime's errors: a code that TypeScript turns into a QuestError, a message that names the value seen and the value
// wanted, and a hint.
#pragma once

#include <stdexcept>
#include <string>

namespace quest {

class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message, std::string hint = "")
      : std::runtime_error(message), code(std::move(code)), hint(std::move(hint)) {}

  const std::string code;  // e.g. "E_TOKEN_ID"
  const std::string hint;
};

}  // namespace quest

// SPDX-License-Identifier: MIT
// read_model_file PATH...: prints one line a file: "ok <hash>" or "<error code>: <message>".
// Fails only when a file ends it in another way than an Error.
#include <cstdio>

#include "gruengine/error.h"
#include "io/model_file.h"

int main(int argc, char** argv) {
  constexpr const char* kCodes[] = {"InvalidArgument", "InvalidType", "InvalidFile",
                                    "Unsupported",     "Busy",        "Io",
                                    "Internal",        "Interrupted"};
  for (int i = 1; i < argc; ++i) {
    try {
      const auto file = gruengine::ModelFile::open(argv[i]);
      std::printf("ok %s\n", file->hash().c_str());
    } catch (const gruengine::Error& error) {
      std::printf("%s: %s\n", kCodes[static_cast<int>(error.code())], error.what());
    }
  }
  return 0;
}

// SPDX-License-Identifier: MIT
// fuzz_io [COUNT [SEED [START]]]: gives each parser of cpp/src/io COUNT mutants of a small file,
// and prints how many it read and refused. Built with sanitizers, it ends at the first that harms.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <utility>

#include "gruengine/error.h"
#include "io/graph_json.h"
#include "io/json.h"
#include "io/model_file.h"
#include "io/safetensors.h"
#include "io_seed.h"

// Where a sanitizer says that the process ends; absent without one.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace gruengine::test {
namespace {

using Random = std::mt19937_64;

const char* parser_name = "";
uint64_t mutant_number = 0;

void tell_mutant() {
  std::fprintf(stderr, "%s: mutant %llu\n", parser_name,
               static_cast<unsigned long long>(mutant_number));
}

size_t below(Random& random, size_t bound) { return bound == 0 ? 0 : random() % bound; }

// Pieces of text on which parsers take another path.
const std::string& token(Random& random) {
  static const std::string kTokens[] = {"[",
                                        "]",
                                        "{",
                                        "}",
                                        ",",
                                        ":",
                                        "\"",
                                        "\\",
                                        "\\u0000",
                                        "\\ud800",
                                        "null",
                                        "true",
                                        "-1",
                                        "0",
                                        "1e999",
                                        "9223372036854775807",
                                        "-9223372036854775808",
                                        "18446744073709551616",
                                        "0.5",
                                        "\xff",
                                        "\xf0\x9f",
                                        "[[[[",
                                        "\"x\"",
                                        "\"N\"",
                                        "\"tensors\"",
                                        "\"shape\"",
                                        "32",
                                        "4294967296",
                                        "\"F32\"",
                                        "\"\""};
  return kTokens[below(random, std::size(kTokens))];
}

std::string mutated(std::string text, Random& random) {
  const size_t changes = size_t{1} << below(random, 3);
  for (size_t i = 0; i < changes; ++i) {
    const size_t at = below(random, text.size() + 1);
    const size_t length = std::min(text.size() - at, size_t{1} << below(random, 8));
    switch (below(random, 8)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(random, 8)));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, text.substr(at, length));
        break;
      case 4:
        text.insert(at, token(random));
        break;
      case 5:
        text.replace(at, std::min(length, size_t{4}), token(random));
        break;
      case 6: {  // a digit, most of which are sizes, offsets and places
        const size_t digit = text.find_first_of("0123456789", at);
        if (digit != std::string::npos) text[digit] = static_cast<char>('0' + below(random, 10));
        break;
      }
      default: {  // a copy from elsewhere
        const std::string piece = text.substr(below(random, text.size()), length);
        text.replace(at, length, piece);
      }
    }
  }
  return text;
}

// Memory of exactly this size, so that a sanitizer sees the first byte read past the end.
Bytes exact(const std::string& text) { return Bytes(text.begin(), text.end()); }

std::string as_text(const Bytes& bytes) { return std::string(bytes.begin(), bytes.end()); }

void walk(JsonReader& reader, const std::string& text) {
  // The first character decides what is expected; a wrong guess is an error like any other.
  const size_t first = text.find_first_not_of(" \t\r\n");
  const char kind = first == std::string::npos ? ' ' : text[first];
  if (kind == '{') {
    reader.object([&](const std::string&) {
      if (reader.next_is_string()) {
        reader.string();
      } else {
        reader.skip();
      }
    });
  } else if (kind == '[') {
    reader.array([&] { reader.number(); });
  } else {
    reader.integer();
  }
  reader.end();
}

void read_json(const std::string& text) {
  const Bytes bytes = exact(text);
  const std::string_view view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  JsonReader reader(view, "the text");
  walk(reader, text);
}

struct Parser {
  const char* name;
  std::function<std::string(Random&)> make;
  std::function<void(const std::string&)> read;
};

std::vector<Parser> parsers() {
  const std::string numbers = "[1, -2.5, 1e3, 0, 123456789012345678, 1.7976931348623157e308]";
  return {
      {"json",
       [=](Random& random) {
         return mutated(below(random, 2) == 0 ? seed_description() : numbers, random);
       },
       read_json},
      {"description", [](Random& random) { return mutated(seed_description(), random); },
       [](const std::string& text) { parse_description(text); }},
      {"container", [](Random& random) { return mutated(as_text(seed_file()), random); },
       [](const std::string& text) { parse_safetensors(exact(text)); }},
      {"container, sound length",
       [](Random& random) {
         return as_text(container(mutated(seed_header(seed_description()), random), seed_data()));
       },
       [](const std::string& text) { parse_safetensors(exact(text)); }},
      {"model file",
       [](Random& random) { return as_text(seed_file(mutated(seed_description(), random))); },
       [](const std::string& text) { ModelFile::from_memory(exact(text))->hash(); }},
  };
}

bool fuzz(const Parser& parser, uint64_t seed, uint64_t start, uint64_t count) {
  uint64_t read = 0, refused = 0;
  parser_name = parser.name;
  for (mutant_number = start; mutant_number < start + count; ++mutant_number) {
    Random random(seed * 1'000'003 + mutant_number);
    const std::string text = parser.make(random);
    try {
      parser.read(text);
      ++read;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInvalidFile) {
        tell_mutant();
        std::fprintf(stderr, "another error: %s\n", error.what());
        return false;
      }
      ++refused;
    }
  }
  std::printf("%-24s %10llu read %10llu refused\n", parser.name,
              static_cast<unsigned long long>(read), static_cast<unsigned long long>(refused));
  // Where nothing is read, or nothing refused, the mutants test little.
  return count < 1000 || (read > 0 && refused > 0);
}

}  // namespace
}  // namespace gruengine::test

int main(int argc, char** argv) {
  const auto argument = [&](int index, uint64_t otherwise) {
    return argc > index ? std::strtoull(argv[index], nullptr, 10) : otherwise;
  };
  const uint64_t count = argument(1, 5000), seed = argument(2, 1), start = argument(3, 0);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(gruengine::test::tell_mutant);
  }
  bool good = true;
  for (const auto& parser : gruengine::test::parsers()) {
    good = gruengine::test::fuzz(parser, seed, start, count) && good;
  }
  return good ? 0 : 1;
}

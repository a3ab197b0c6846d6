// SPDX-License-Identifier: MIT
// The model file: what it holds, and that no damage to it does more than an Error.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "check.h"
#include "gruengine/error.h"
#include "io/json.h"
#include "io/model_file.h"
#include "io/sha256.h"
#include "io_seed.h"

namespace gruengine::test {
namespace {

// The message with which a file is refused; "" when it is read.
std::string refusal(Bytes bytes) {
  try {
    // Memory of exactly this size, so that a sanitizer sees the first byte read past the end.
    bytes.shrink_to_fit();
    ModelFile::from_memory(std::move(bytes))->hash();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kInvalidFile, "%s", error.what());
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void test_contents() {
  const auto file = ModelFile::from_memory(seed_file());
  CHECK(file->graph.nodes.size() == 2, "%zu nodes", file->graph.nodes.size());
  const Node& pick = file->graph.nodes[0];
  const auto& branch = std::get<std::shared_ptr<const Graph>>(pick.attributes.at("then_branch"));
  CHECK(branch->nodes.at(0).op == "Neg", "%s", branch->nodes[0].op.c_str());
  CHECK(std::get<std::vector<int64_t>>(pick.attributes.at("numbers")) == (Dims{1, -2}), "is");
  CHECK(std::get<std::vector<double>>(pick.attributes.at("floats"))[1] == 0.5, "fs");
  CHECK(std::get<std::vector<std::string>>(pick.attributes.at("texts"))[0] == "a", "ss");
  CHECK(file->graph.inputs[0].shape[0].symbol == "T", "named size");
  CHECK(file->graph.inputs[0].shape[2].value == 1, "fixed size");
  CHECK(file->state.size() == 1 && file->state[0].output == "hn", "state");
  CHECK(file->tensors.size() == 3, "%zu tensors", file->tensors.size());
  CHECK(*static_cast<const float*>(file->tensors.at("W").data) == 1.0f, "W");
  CHECK(*static_cast<const float*>(file->tensors.at("R").data) == 0.5f, "R");
  CHECK(file->tensors.at("flag").dims.empty(), "scalar");
  CHECK(file->parity.inputs.at("x").dims == (Dims{2, 1, 1}), "parity");
  CHECK(file->parity.oracle == "nobody", "%s", file->parity.oracle.c_str());
  CHECK(file->provenance_json == R"({"source":"test","opset":17})", "%s",
        file->provenance_json.c_str());
  const std::string other = replaced(seed_description(), "\"opset\":17", "\"opset\":18");
  CHECK(ModelFile::from_memory(seed_file(other))->hash() == file->hash(), "provenance in the hash");
  const std::string renamed = replaced(seed_description(), "Neg", "Abs");
  CHECK(ModelFile::from_memory(seed_file(renamed))->hash() != file->hash(), "operator not hashed");
}

void test_sha256() {
  const auto hex = [](const std::string& text, size_t part) {
    Sha256 sha;
    for (size_t i = 0; i < text.size(); i += part) {
      sha.update(text.data() + i, std::min(part, text.size() - i));
    }
    return sha.finish();
  };
  // The examples of FIPS 180-4.
  CHECK(hex("", 1) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "empty");
  CHECK(hex("abc", 2) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc");
  const std::string long_text(1'000'000, 'a');
  for (size_t part : {1, 63, 64, 65, 1000, 1'000'000}) {
    CHECK(
        hex(long_text, part) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "a million letters in parts of %zu", part);
  }
  for (size_t size = 50; size < 140; ++size) {
    const std::string text(size, 'x');
    CHECK(hex(text, 7) == hex(text, size), "%zu letters", size);
  }
}

void test_json() {
  const std::string text =
      R"( {"a" : "\u00e9\ud83d\ude42\n", "b":[-0, 1E2, -9223372036854775808]})";
  JsonReader json(text, "text");
  std::string seen;
  json.object([&](const std::string& key) {
    seen += key;
    if (key == "a") {
      seen += json.string();
    } else {
      int index = 0;
      json.array([&] {
        if (index == 0) CHECK(!std::signbit(json.number()), "-0 is an integer");
        if (index == 1) CHECK(json.number() == 100.0, "1E2");
        if (index == 2) CHECK(json.integer() == INT64_MIN, "the least integer");
        ++index;
      });
      CHECK(index == 3, "%d elements", index);
    }
  });
  json.end();
  CHECK(seen == "a\u00e9\U0001F642\nb", "%s", seen.c_str());
  CHECK(quoted("a\x01\xFF\u00e9") == "'a??\u00e9'", "%s", quoted("a\x01\xFF\u00e9").c_str());
  CHECK(quoted(std::string(1000, 'a')).size() < 100, "not shortened");
}

void test_truncation() {
  const Bytes seed = seed_file();
  CHECK(refusal(seed).empty(), "%s", refusal(seed).c_str());
  for (size_t size = 0; size < seed.size(); ++size) {
    CHECK(!refusal(Bytes(seed.begin(), seed.begin() + static_cast<std::ptrdiff_t>(size))).empty(),
          "cut at %zu was read", size);
  }
}

void test_flipped_bits() {
  const Bytes seed = seed_file();
  const size_t header = seed.size() - seed_data().size();
  long refused = 0;
  for (size_t i = 0; i < header; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes bytes = seed;
      bytes[i] = static_cast<uint8_t>(bytes[i] ^ 1 << bit);
      const bool bad = !refusal(std::move(bytes)).empty();
      CHECK(bad || i >= 8, "bit %d of length byte %zu was read", bit, i);
      refused += bad;
    }
  }
  // Names, operators and numbers may become others; brackets, keys and references may not.
  CHECK(refused > static_cast<long>(header) * 6, "%ld of %zu", refused, header * 8);
}

void test_alignment() {
  for (size_t spaces = 0; spaces < 8; ++spaces) {
    const std::string header = seed_header(seed_description()) + std::string(spaces, ' ');
    const auto file = ModelFile::from_memory(container(header, seed_data()));
    for (const auto& [name, tensor] : file->tensors) {
      const auto address = reinterpret_cast<uintptr_t>(tensor.data);
      CHECK(address % static_cast<uintptr_t>(size_of(tensor.dtype)) == 0, "%s", name.c_str());
    }
    CHECK(*static_cast<const float*>(file->tensors.at("W").data) == 1.0f, "W moved");
    CHECK(*static_cast<const float*>(file->tensors.at("R").data) == 0.5f, "R is no half");
  }
}

// Changes of the description, each with a part of the message.
void test_descriptions() {
  const std::vector<std::vector<std::string>> changes = {
      {"\"format\":1", "\"format\":2", "format 2"},
      {"\"state\":[[\"h\",\"hn\"]],", "", "needs the keys"},
      {"\"state\"", "\"extra\":1,\"state\"", "key 'extra'"},
      {"\"opset\":17", "\"opset\":17,\"opset\":17", "occurs twice"},
      {"\"opset\":17", "\"opset\":" + std::string(200, '['), "deeper"},
      {"[\"h\",\"hn\"]", "[\"h\",\"y\"]", "different dtypes or sizes"},
      {"[\"h\",\"hn\"]", "[\"h\",\"hn\"],[\"h\",\"hn\"]", "another pair"},
      {"[\"x2\",", "[\"x3\",", "'x3' is not defined before"},
      {"[\"flag\"],\"outputs\"", "[\"y\"],\"outputs\"", "'y' is not defined before"},
      {"\"outputs\":[\"t\"]", "\"outputs\":[\"x\"]", "already defined"},
      {"\"outputs\":[\"x2\"]", "\"outputs\":[\"W\"]", "already defined"},
      {"\"outputs\":[\"x2\"]", "\"outputs\":[\"\"]", "no output"},
      {"[\"R\",\"W\",\"flag\"]", "[\"R\",\"W\"]", "listed nowhere"},
      {"[\"R\",\"W\",\"flag\"]", "[\"R\",\"R\",\"W\",\"flag\"]", "listed twice"},
      {"{\"x\":\"in\"}", "{\"x\":\"out\"}", "listed twice"},
      {"\"oracle\":\"nobody\",\"inputs\":{\"x\":\"in\"},\"outputs\":{\"y\":\"out\"}",
       "\"oracle\":\"nobody\",\"inputs\":{\"x\":\"out\"},\"outputs\":{\"y\":\"in\"}",
       "another dtype or other sizes"},
      {"{\"y\":\"out\"}", "{\"q\":\"out\"}", "does not have"},
      {"{\"i\":1}", "{\"i\":2}", "allowed: [1, 2, 1]"},
      {"{\"i\":1}", "{\"i\":4611686018427387905}", "hidden_size"},
      {"{\"s\":\"rnn\"}", "{\"s\":\"lstm\"}", "allowed: 3 each"},
      {"[\"Tanh\"]", "[\"Exp\"]", "activation 'Exp'"},
      {"\"clip\":{\"f\":1.5}", "\"clip\":{\"f\":-1}", "clip"},
      {"\"clip\"", "\"Clip\"", "'Clip' is not known"},
      {",\"nibbles\":{\"R\":[1,1,1]}", "", "without a shape of nibbles"},
      {",\"scales\":{\"R\":\"scale\"}", "", "without a scale"},
      {"{\"R\":[1,1,1]}", "{\"W\":[1,1,1]}", "not in the file"},
      {"{\"R\":[1,1,1]}", "{\"R\":[1,1,2]}", "allowed: [1, 1, 1]"},
      {"{\"R\":[1,1,1]}", "{\"R\":[1,1,3]}", "has no shape [2], as 3 nibbles have"},
      {"{\"R\":[1,1,1]}", "{\"R\":[1,1,0]}", "has no shape [0]"},
      {"{\"R\":[1,1,1]}", "{\"R\":[0,4611686018427387904,4]}", "beyond 64 bits"},
      {"{\"R\":[1,1,1]}", "{\"R\":[1,1,-1]}", "integers >= 0"},
  };
  for (const auto& change : changes) {
    const std::string text = replaced(seed_description(), change[0], change[1]);
    const std::string message = refusal(seed_file(text));
    CHECK(contains(message, change[2]), "%s: %s", change[1].c_str(), message.c_str());
  }
}

// One tensor whose header lies.
void test_tensors() {
  Bytes spare = seed_data();
  spare.back() = 0x11;
  const std::string both = refusal(container(seed_header(seed_description()), spare));
  CHECK(contains(both, "nibble too many"), "%s", both.c_str());
  const std::vector<std::vector<std::string>> entries = {
      {"\"F32\"", "[4294967296,4294967296]", "[0,0]", "beyond 64 bits"},
      {"\"F32\"", "[4611686018427387904,4,1]", "[0,4]", "beyond 64 bits"},
      {"\"F32\"", "[0,9223372036854775807,9223372036854775807]", "[0,0]", "beyond 64 bits"},
      {"\"I64\"", "[1152921504606846976]", "[0,0]", "beyond 64 bits"},
      {"\"F32\"", "[2251799813685248]", "[0,4]", "needs 9007199254740992 bytes"},
      {"\"F32\"", "[1]", "[9223372036854775804,9223372036854775807]", "two in order"},
      {"\"F32\"", "[1]", "[4,8]", "two in order"},
      {"\"F32\"", "[0]", "[4,4]", "hole"},
      {"\"F32\"", "[]", "[0,4,4]", "up to 2"},
      {"\"F64\"", "[]", "[0,4]", "allowed: F32"},
      {"\"BOOL\"", "[4]", "[0,4]", "other than 0 and 1"},
  };
  for (const auto& entry : entries) {
    const std::string header = "{\"a\":{\"dtype\":" + entry[0] + ",\"shape\":" + entry[1] +
                               ",\"data_offsets\":" + entry[2] + "}}";
    const std::string message = refusal(container(header, {0, 0, 0, 2}));
    CHECK(contains(message, entry[3]), "%s: %s", header.c_str(), message.c_str());
  }
  Bytes huge(9, '{');
  CHECK(contains(refusal(huge), "not a safetensors file"), "%s", refusal(huge).c_str());
  for (const char* open : {"[", "{\"a\":"}) {
    std::string text = "{\"format\":1,\"provenance\":";
    for (int i = 0; i < 200'000; ++i) text += open;
    CHECK(contains(refusal(seed_file(text)), "deeper"), "%s", open);
  }
}

// A file on disk, removed at the end.
struct TemporaryFile {
  char path[32] = "/tmp/gruengine-XXXXXX";
  explicit TemporaryFile(const Bytes& bytes) {
    const int descriptor = mkstemp(path);
    const bool written = descriptor >= 0 && write(descriptor, bytes.data(), bytes.size()) ==
                                                static_cast<ssize_t>(bytes.size());
    CHECK(written, "cannot write %s", path);
    close(descriptor);
  }
  ~TemporaryFile() { unlink(path); }
};

std::pair<ErrorCode, std::string> open_error(const std::string& path) {
  try {
    ModelFile::open(path);
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {ErrorCode::kInternal, "opened"};
}

void test_files() {
  const TemporaryFile good(seed_file());
  const auto file = ModelFile::open(good.path);
  CHECK(file->hash() == ModelFile::from_memory(seed_file())->hash(), "mapped and in memory");
  for (const char* path : {"/tmp", "/dev/null", "/nonexistent/model", ""}) {
    const auto [code, message] = open_error(path);
    CHECK(code == ErrorCode::kIo && contains(message, path), "%s: %s", path, message.c_str());
  }
  const TemporaryFile empty(Bytes{});
  CHECK(contains(open_error(empty.path).second, "0 bytes"), "an empty file");
  TemporaryFile pipe(Bytes{});
  unlink(pipe.path);
  CHECK(mkfifo(pipe.path, 0600) == 0, "mkfifo");
  CHECK(contains(open_error(pipe.path).second, "not a regular file"), "a named pipe");
}

}  // namespace
}  // namespace gruengine::test

int main() {
  using namespace gruengine::test;
  test_contents();
  test_sha256();
  test_json();
  test_truncation();
  test_flipped_bits();
  test_alignment();
  test_descriptions();
  test_tensors();
  test_files();
  return REPORT();
}

// SPDX-License-Identifier: MIT
// A small valid model file that the tests of cpp/src/io change.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gruengine::test {

using Bytes = std::vector<uint8_t>;

// The file with this header, whatever it says, and these data.
inline Bytes container(const std::string& header, const Bytes& data) {
  Bytes bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<uint8_t>(header.size() >> (8 * i)));
  bytes.insert(bytes.end(), header.begin(), header.end());
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

// Replaces every `from`, which must occur.
inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  if (at == std::string::npos) return "no " + from;  // not JSON: the test that uses it fails
  for (; at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

inline std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c == '\n' ? ' ' : c;
  }
  return result;
}

// An RNN of one unit with a branch, a carried state, a parity sample and a weight in half a byte.
inline const std::string& seed_description() {
  static const std::string text = R"({"format":1,"graph":{"inputs":[
{"name":"x","dtype":"float32","shape":["T","N",1]},
{"name":"h","dtype":"float32","shape":[1,"N",1]}],"outputs":[
{"name":"y","dtype":"float32","shape":["T",1,"N",1]},
{"name":"hn","dtype":"float32","shape":[1,"N",1]}],"nodes":[
{"op":"If","name":"pick","inputs":["flag"],"outputs":["x2"],"attrs":{
"then_branch":{"g":{"inputs":[],"outputs":[{"name":"t","dtype":"float32","shape":["T","N",1]}],
"nodes":[{"op":"Neg","name":"","inputs":["x"],"outputs":["t"],"attrs":{}}]}},
"numbers":{"is":[1,-2]},"floats":{"fs":[1,0.5]},"texts":{"ss":["a",""]}}},
{"op":"Recurrent","name":"rnn","inputs":["x2","W","R","","","h"],"outputs":["y","hn"],"attrs":{
"cell":{"s":"rnn"},"hidden_size":{"i":1},"direction":{"s":"forward"},
"activations":{"ss":["Tanh"]},"activation_alpha":{"fs":[0.0]},"activation_beta":{"fs":[0.0]},
"clip":{"f":1.5}}}]},
"state":[["h","hn"]],"provenance":{"source":"test","opset":17},
"parity":{"oracle":"nobody","inputs":{"x":"in"},"outputs":{"y":"out"}},
"tensors":["R","W","flag"],"scales":{"R":"scale"},"nibbles":{"R":[1,1,1]}})";
  return text;
}

inline std::string seed_tensors() {
  return R"("scale":{"dtype":"F32","shape":[1,1,1],"data_offsets":[0,4]},
"W":{"dtype":"F32","shape":[1,1,1],"data_offsets":[4,8]},
"in":{"dtype":"F32","shape":[2,1,1],"data_offsets":[8,16]},
"out":{"dtype":"F32","shape":[2,1,1,1],"data_offsets":[16,24]},
"flag":{"dtype":"BOOL","shape":[],"data_offsets":[24,25]},
"R":{"dtype":"U8","shape":[1],"data_offsets":[25,26]})";
}

inline Bytes seed_data() {
  Bytes data(26, 0);
  data[3] = 0x3F;  // scale = 0.5, W = 1
  data[6] = 0x80;
  data[7] = 0x3F;
  data[24] = 1;
  data[25] = 1;  // R = 1 * scale
  return data;
}

inline std::string seed_header(const std::string& description) {
  return R"({"__metadata__":{"gruengine":")" + escaped(description) + "\"}," + seed_tensors() + "}";
}

inline Bytes seed_file(const std::string& description = seed_description()) {
  return container(seed_header(description), seed_data());
}

}  // namespace gruengine::test

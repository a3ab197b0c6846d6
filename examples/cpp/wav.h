// SPDX-License-Identifier: MIT
// Reads WAV files of 16-bit PCM.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

struct Wav {
  uint32_t rate = 0;
  std::vector<float> samples;  // in [-1, 1); the first channel
};

// Little-endian, checked against the end of the file.
template <class T>
T read_number(const std::vector<char>& bytes, size_t at) {
  if (at + sizeof(T) > bytes.size()) throw std::runtime_error("the WAV file ends too early");
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

inline Wav read_wav(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)),
                                std::istreambuf_iterator<char>());
  if (bytes.size() < 12 || std::memcmp(bytes.data(), "RIFF", 4) != 0 ||
      std::memcmp(bytes.data() + 8, "WAVE", 4) != 0) {
    throw std::runtime_error(path + " is not a WAV file");
  }
  Wav wav;
  uint16_t channels = 0;
  for (size_t at = 12; at + 8 <= bytes.size();) {
    const auto size = read_number<uint32_t>(bytes, at + 4);
    const size_t body = at + 8;
    if (std::memcmp(bytes.data() + at, "fmt ", 4) == 0) {
      channels = read_number<uint16_t>(bytes, body + 2);
      wav.rate = read_number<uint32_t>(bytes, body + 4);
      if (read_number<uint16_t>(bytes, body) != 1 ||
          read_number<uint16_t>(bytes, body + 14) != 16 || channels == 0) {
        throw std::runtime_error(path + " is not 16-bit PCM");
      }
    } else if (std::memcmp(bytes.data() + at, "data", 4) == 0 && channels > 0) {
      for (size_t i = body; i + 2 * channels <= bytes.size() && i - body + 2 * channels <= size;
           i += 2 * channels) {
        wav.samples.push_back(static_cast<float>(read_number<int16_t>(bytes, i)) / 32768.0f);
      }
      return wav;
    }
    at = body + size + size % 2;
  }
  throw std::runtime_error(path + " has no samples");
}

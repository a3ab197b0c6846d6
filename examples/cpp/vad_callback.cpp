// SPDX-License-Identifier: MIT
// vad_callback MODEL AUDIO.wav [PROBABILITIES.f32]: voice activity in a real-time audio callback.
//
// The callback takes blocks of 10 ms, as a sound card would hand them over, and steps the Silero
// model whenever 512 samples have come in: it allocates nothing, takes no lock and makes no system
// call. Convert the model once:
//   gruengine convert silero_vad.onnx vad.safetensors --bind sr=16000
#include <gruengine/stream.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "wav.h"

namespace {

constexpr size_t kBlock = 160;   // samples of one callback: 10 ms
constexpr size_t kFrame = 512;   // samples of one step
constexpr size_t kContext = 64;  // samples before them that the model sees again

class VoiceActivity {
 public:
  VoiceActivity(std::shared_ptr<const gruengine::Model> model, size_t frames)
      : stream_(std::move(model)) {
    stream_.prepare({{1, kContext + kFrame}});  // the model leaves these sizes open
    if (stream_.inputs().size() != 1 ||
        stream_.inputs()[0].count != static_cast<int64_t>(window_.size())) {
      throw std::runtime_error("the model must take frames of 576 samples");
    }
    probabilities_.reserve(frames);
  }

  // What the sound card calls.
  void operator()(std::span<const float> block) {
    for (const float sample : block) {
      window_[kContext + filled_] = sample;
      if (++filled_ == kFrame) step();
    }
  }

  const std::vector<float>& probabilities() const { return probabilities_; }

 private:
  void step() {
    float probability = 0;
    stream_.step(window_, {&probability, 1});
    if (probabilities_.size() < probabilities_.capacity()) probabilities_.push_back(probability);
    std::copy(window_.end() - kContext, window_.end(), window_.begin());
    filled_ = 0;
  }

  gruengine::Stream stream_;
  std::array<float, kContext + kFrame> window_{};
  size_t filled_ = 0;
  std::vector<float> probabilities_;
};

void run(const char* model_path, const char* wav_path, const char* output) {
  const Wav wav = read_wav(wav_path);
  if (wav.rate != 16000) throw std::runtime_error("the model needs 16 kHz");
  VoiceActivity callback(gruengine::Model::open(model_path), wav.samples.size() / kFrame);

  double longest = 0;
  const std::span<const float> all(wav.samples);
  for (size_t at = 0; at < all.size(); at += kBlock) {
    const auto begin = std::chrono::steady_clock::now();
    callback(all.subspan(at, std::min(kBlock, all.size() - at)));
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
    longest = std::max(longest, took.count());
  }

  const auto& found = callback.probabilities();
  const auto speech = std::count_if(found.begin(), found.end(), [](float p) { return p >= 0.5f; });
  std::printf("%.1f s of audio, speech in %.1f s; longest callback %.0f us of 10000\n",
              static_cast<double>(wav.samples.size()) / 16000,
              static_cast<double>(speech) * kFrame / 16000, longest);
  if (output != nullptr) {
    std::ofstream file(output, std::ios::binary);
    file.write(reinterpret_cast<const char*>(found.data()),
               static_cast<std::streamsize>(found.size() * sizeof(float)));
    if (!file) throw std::runtime_error(std::string("cannot write ") + output);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: %s MODEL AUDIO.wav [PROBABILITIES.f32]\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2], argc == 4 ? argv[3] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

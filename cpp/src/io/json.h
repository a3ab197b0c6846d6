// SPDX-License-Identifier: MIT
// A strict JSON reader that walks the text once and builds nothing: the caller says what it expects
// next, and anything else is an error. Memory and stack stay bounded whatever the text says.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace gruengine {

// The bytes as text fit for the message of an error: quoted, shortened, valid UTF-8.
std::string quoted(std::string_view text);

// Throws Error(kInvalidFile) for everything that is not UTF-8, strict JSON with no key twice in an
// object, integers of 64 bits, finite numbers, and at most kMaxDepth values inside each other.
class JsonReader {
 public:
  static constexpr int kMaxDepth = 128;

  // `text` must outlive the reader; `what` names it in messages.
  JsonReader(std::string_view text, std::string what);

  // Calls `member(key)` for each member; it must read exactly one value.
  void object(const std::function<void(const std::string& key)>& member);
  // Calls `element()` for each element; it must read exactly one value.
  void array(const std::function<void()>& element);
  std::string string();
  int64_t integer();
  double number();  // of an integer, the nearest one
  bool next_is_string();
  // Any one value; returns its text.
  std::string_view skip();
  // Only white space may be left.
  void end();

  // Throws with the place reached.
  [[noreturn]] void fail(const std::string& message) const;

 private:
  char peek();  // next character after white space; 0 at the end
  bool take(char c);
  void expect(char c);
  void enter();
  std::string_view number_text();
  void string_escape(std::string& result);
  uint32_t hex4();
  void literal(std::string_view word);

  std::string_view text_;
  std::string what_;
  size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace gruengine

// SPDX-License-Identifier: MIT
#include "io/json.h"

#include <charconv>
#include <cmath>
#include <set>
#include <system_error>
#include <utility>

#include "gruengine/error.h"
#include "io/utf8.h"

namespace gruengine {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::string quoted(std::string_view text) {
  constexpr size_t kLimit = 80;
  std::string result = "'";
  for (size_t i = 0; i < text.size();) {
    if (result.size() > kLimit) return result + "...'";
    const size_t length = utf8_length(text, i);
    const bool plain = length > 1 || (length == 1 && text[i] >= 0x20 && text[i] != 0x7F);
    if (plain) {
      result += text.substr(i, length);
    } else {
      result += '?';
    }
    i += length == 0 ? 1 : length;
  }
  return result + "'";
}

JsonReader::JsonReader(std::string_view text, std::string what)
    : text_(text), what_(std::move(what)) {}

void JsonReader::object(const std::function<void(const std::string&)>& member) {
  expect('{');
  enter();
  std::set<std::string> keys;
  if (!take('}')) {
    do {
      const auto [key, fresh] = keys.insert(string());
      if (!fresh) fail("key " + quoted(*key) + " occurs twice");
      expect(':');
      member(*key);
    } while (take(','));
    expect('}');
  }
  --depth_;
}

void JsonReader::array(const std::function<void()>& element) {
  expect('[');
  enter();
  if (!take(']')) {
    do {
      element();
    } while (take(','));
    expect(']');
  }
  --depth_;
}

std::string JsonReader::string() {
  expect('"');
  std::string result;
  const auto plain = [](char c) { return c >= 0x20 && c < 0x7F && c != '"' && c != '\\'; };
  while (true) {
    const size_t begin = position_;
    while (position_ < text_.size() && plain(text_[position_])) ++position_;
    result.append(text_, begin, position_ - begin);
    if (position_ >= text_.size()) fail("a string without end");
    const char c = text_[position_];
    if (c == '"') break;
    if (c == '\\') {
      string_escape(result);
      continue;
    }
    if (static_cast<uint8_t>(c) < 0x20) fail("a control character in a string");
    const size_t length = utf8_length(text_, position_);
    if (length == 0) fail("bytes that are not UTF-8");
    result += text_.substr(position_, length);
    position_ += length;
  }
  ++position_;
  return result;
}

void JsonReader::string_escape(std::string& result) {
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  ++position_;
  const char c = position_ < text_.size() ? text_[position_] : '\0';
  ++position_;
  if (c != 'u') {
    const size_t index = kNames.find(c);
    if (index == std::string_view::npos) fail("an unknown escape in a string");
    result += kValues[index];
    return;
  }
  uint32_t code = hex4();
  if (code >= 0xD800 && code < 0xDC00) {
    if (text_.substr(position_, 2) != "\\u") fail("half of a surrogate pair");
    position_ += 2;
    const uint32_t low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
    code = 0x10000 + ((code - 0xD800) << 10U) + (low - 0xDC00);
  } else if (code >= 0xDC00 && code <= 0xDFFF) {
    fail("half of a surrogate pair");
  }
  append_utf8(result, code);
}

uint32_t JsonReader::hex4() {
  const std::string_view digits = text_.substr(std::min(position_, text_.size()), 4);
  uint32_t code = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
  if (digits.size() != 4 || error != std::errc() || end != digits.data() + 4) {
    fail("an escape without four hexadecimal digits");
  }
  position_ += 4;
  return code;
}

int64_t JsonReader::integer() {
  const std::string_view digits = number_text();
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    fail("number " + quoted(digits) + "; allowed here: an integer of 64 bits");
  }
  return value;
}

double JsonReader::number() {
  const std::string_view digits = number_text();
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool whole = digits.find_first_of(".eE") == std::string_view::npos;
  int64_t integer = 0;
  const bool beyond =
      whole &&
      std::from_chars(digits.data(), digits.data() + digits.size(), integer).ec != std::errc();
  if (error != std::errc() || end != digits.data() + digits.size() || !std::isfinite(value) ||
      beyond) {
    fail("number " + quoted(digits) + "; allowed: finite floats and integers of 64 bits");
  }
  // "-0" is an integer, which has one zero.
  return whole ? static_cast<double>(integer) : value;
}

bool JsonReader::next_is_string() { return peek() == '"'; }

std::string_view JsonReader::skip() {
  const char first = peek();
  const size_t begin = position_;
  switch (first) {
    case '{':
      object([this](const std::string&) { skip(); });
      break;
    case '[':
      array([this] { skip(); });
      break;
    case '"':
      string();
      break;
    case 't':
      literal("true");
      break;
    case 'f':
      literal("false");
      break;
    case 'n':
      literal("null");
      break;
    default:
      number();
  }
  return text_.substr(begin, position_ - begin);
}

void JsonReader::end() {
  if (peek() != '\0' || position_ != text_.size()) fail("text after the end of the value");
}

void JsonReader::fail(const std::string& message) const {
  throw Error(ErrorCode::kInvalidFile,
              what_ + ", byte " + std::to_string(position_) + ": " + message);
}

char JsonReader::peek() {
  const size_t next = text_.find_first_not_of(" \t\n\r", position_);
  position_ = next == std::string_view::npos ? text_.size() : next;
  return position_ < text_.size() ? text_[position_] : '\0';
}

bool JsonReader::take(char c) {
  if (peek() != c) return false;
  ++position_;
  return true;
}

void JsonReader::expect(char c) {
  if (position_ < text_.size() && peek() == c) {
    ++position_;
    return;
  }
  fail("found " + quoted(text_.substr(position_, 1)) + "; allowed: '" + c + "'");
}

void JsonReader::enter() {
  if (++depth_ > kMaxDepth) fail("values deeper than " + std::to_string(kMaxDepth));
}

std::string_view JsonReader::number_text() {
  const size_t begin = (peek(), position_);
  const auto digits = [this] {
    const size_t first = position_;
    while (position_ < text_.size() && is_digit(text_[position_])) ++position_;
    return position_ - first;
  };
  const auto accept = [this](std::string_view set) {
    const bool found = position_ < text_.size() && set.find(text_[position_]) != set.npos;
    position_ += found ? 1 : 0;
    return found;
  };
  accept("-");
  const size_t first = position_;
  const size_t count = digits();
  bool good = count == 1 || (count > 1 && text_[first] != '0');
  if (accept(".")) good = digits() > 0 && good;
  if (accept("eE")) {
    accept("+-");
    good = digits() > 0 && good;
  }
  if (!good) fail("found " + quoted(text_.substr(begin, 10)) + "; allowed here: a value");
  return text_.substr(begin, position_ - begin);
}

void JsonReader::literal(std::string_view word) {
  if (text_.substr(position_, word.size()) != word) fail("an unknown word");
  position_ += word.size();
}

}  // namespace gruengine

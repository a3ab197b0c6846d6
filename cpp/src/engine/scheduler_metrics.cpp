// SPDX-License-Identifier: MIT
#include <cstdio>
#include <string>

#include "gruengine/scheduler.h"

namespace gruengine {
namespace {

class Text {
 public:
  explicit Text(const std::string& labels) : labels_(labels) {}

  void head(const std::string& name, const char* kind, const char* help) {
    text_ +=
        "# HELP gruengine_" + name + " " + help + "\n# TYPE gruengine_" + name + " " + kind + "\n";
  }
  void line(const std::string& name, const std::string& value, const std::string& more = "") {
    std::string labels = labels_;
    if (!more.empty()) labels += (labels.empty() ? "" : ",") + more;
    text_ += "gruengine_" + name + (labels.empty() ? "" : "{" + labels + "}") + " " + value + "\n";
  }
  void number(const std::string& name, const char* kind, const char* help, int64_t value) {
    head(name, kind, help);
    line(name, std::to_string(value));
  }
  // counts[k] values up to 2^k * unit; the last holds the rest.
  void histogram(const std::string& name, const char* help, const int64_t* counts, double unit,
                 double sum) {
    head(name, "histogram", help);
    int64_t total = 0;
    for (int k = 0; k < SchedulerMetrics::kBuckets - 1; ++k) {
      total += counts[k];
      line(name + "_bucket", std::to_string(total),
           "le=\"" + plain(static_cast<double>(int64_t{1} << k) * unit) + "\"");
    }
    total += counts[SchedulerMetrics::kBuckets - 1];
    line(name + "_bucket", std::to_string(total), "le=\"+Inf\"");
    line(name + "_sum", plain(sum));
    line(name + "_count", std::to_string(total));
  }
  std::string take() { return std::move(text_); }

 private:
  static std::string plain(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
  }
  std::string labels_, text_;
};

}  // namespace

std::string to_prometheus(const SchedulerMetrics& m, const std::string& labels) {
  Text text(labels);
  text.number("streams", "gauge", "Streams that are open.", m.streams);
  text.number("queued_steps", "gauge", "Steps that wait.", m.queued);
  text.number("running_steps", "gauge", "Steps that run.", m.running);
  text.number("max_queued_steps", "gauge", "Most steps that waited at once.", m.max_queued);
  text.number("opened_streams_total", "counter", "Streams opened.", m.opened);
  text.number("closed_streams_total", "counter", "Streams closed by callers.", m.closed);
  text.number("evicted_streams_total", "counter", "Streams evicted for idling.", m.evicted);
  text.number("steps_total", "counter", "Steps done.", m.steps);
  text.number("failed_steps_total", "counter", "Steps answered with an error.", m.failed);
  text.number("overloaded_total", "counter", "Steps refused by a full queue.", m.overloaded);
  text.number("expired_steps_total", "counter", "Steps not begun in time.", m.expired);
  text.histogram("batch_rows", "Rows of the batches.", m.batch_sizes, 1.0,
                 static_cast<double>(m.rows));
  text.histogram("latency_seconds", "From a step's call to its answer.", m.latency, 1e-6,
                 m.latency_seconds);
  return text.take();
}

}  // namespace gruengine

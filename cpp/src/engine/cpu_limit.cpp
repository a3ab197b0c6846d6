// SPDX-License-Identifier: MIT
#include "engine/cpu_limit.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace gruengine {
namespace {

int least_limit(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

int processors(double quota, double period) {
  if (!(quota > 0 && period > 0)) return 0;
  return static_cast<int>(std::clamp(std::ceil(quota / period), 1.0, 1e6));
}

double number_in(const std::string& path) {
  std::ifstream file(path);
  double number = 0;
  return file >> number ? number : 0;
}

int limit_v1(const std::string& folder) {
  return processors(number_in(folder + "/cpu.cfs_quota_us"),
                    number_in(folder + "/cpu.cfs_period_us"));
}

int limit_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period ? processors(quota, period) : 0;  // "max": no number
}

// The limits of a group and of those around it. Inside a container its own group is the root.
template <class Limit>
int limit_along(const std::string& mount, std::string path, Limit limit) {
  int least = 0;
  while (path.size() > 1) {
    least = least_limit(least, limit(mount + path));
    path.resize(path.rfind('/'));
  }
  return least_limit(least, limit(mount));
}

int affinity() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int first_number(const char* text) {
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long number = std::strtol(text, &end, 10);
  while (*end == ' ') ++end;
  if (end == text || (*end != '\0' && *end != ',') || number < 1) return 0;
  return static_cast<int>(std::min(number, 1000000L));
}

int cgroup_cpus(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  const std::string mounts = root + "/sys/fs/cgroup";
  int least = 0;
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (path.empty() || path[0] != '/') continue;
    if (names.empty()) {
      least = least_limit(least, limit_along(mounts, path, limit_v2));
      continue;
    }
    std::istringstream list(names);
    for (std::string name; std::getline(list, name, ',');) {
      if (name == "cpu") least = least_limit(least, limit_along(mounts + "/cpu", path, limit_v1));
    }
  }
  return least;
}

int allowed_cpus() {
  using Clock = std::chrono::steady_clock;
  static const int fixed =
      least_limit(cgroup_cpus(""), least_limit(first_number(std::getenv("OMP_NUM_THREADS")),
                                               first_number(std::getenv("OMP_THREAD_LIMIT"))));
  thread_local int known = 0;
  thread_local Clock::time_point until;
  const Clock::time_point now = Clock::now();
  if (known == 0 || now >= until) {
    known = std::max(1, affinity());
    until = now + std::chrono::milliseconds(10);
  }
  return fixed == 0 ? known : std::min(known, fixed);
}

}  // namespace gruengine

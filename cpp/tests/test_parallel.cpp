// SPDX-License-Identifier: MIT
// Teams do every part of every stage once and in order; limits of processors are read rightly.
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "engine/cpu_limit.h"
#include "engine/parallel.h"

using namespace gruengine;

namespace {

namespace fs = std::filesystem;

void expect(int64_t found, int64_t wanted) {
  CHECK(found == wanted, "found %ld, wanted %ld", static_cast<long>(found),
        static_cast<long>(wanted));
}

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

void test_cgroups() {
  const fs::path root = fs::temp_directory_path() / ("gruengine" + std::to_string(std::rand()));
  const std::string at = root.string();
  expect(cgroup_cpus(at), 0);
  write(root / "proc/self/cgroup", "0::/a/b\n");
  expect(cgroup_cpus(at), 0);
  write(root / "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  expect(cgroup_cpus(at), 0);
  write(root / "sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  expect(cgroup_cpus(at), 3);
  write(root / "sys/fs/cgroup/cpu.max", "50000 100000\n");  // of a container, seen from inside
  expect(cgroup_cpus(at), 1);
  write(root / "proc/self/cgroup", "4:cpuset:/x\n3:cpu,cpuacct:/a\nno line\n");
  expect(cgroup_cpus(at), 0);
  write(root / "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
  write(root / "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
  expect(cgroup_cpus(at), 0);
  write(root / "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "400000\n");
  expect(cgroup_cpus(at), 4);
  fs::remove_all(root);
}

void test_first_number() {
  expect(first_number(nullptr), 0);
  expect(first_number(""), 0);
  expect(first_number("4"), 4);
  expect(first_number("4,2"), 4);
  expect(first_number(" 2 "), 2);
  expect(first_number("-1"), 0);
  expect(first_number("two"), 0);
  expect(first_number("3x"), 0);
}

// Each stage reads what the one before left, whichever member made it.
void stages(int threads, bool wake) {
  constexpr int kStages = 300;
  std::vector<int64_t> parts(kMostThreads, 0);
  std::atomic<int> twice{0};
  int size = 0;
  run_helped(threads, wake, [&](Team& team) {
    if (team.index() == 0) size = team.size();
    for (int stage = 0; stage < kStages; ++stage) {
      team.share([&](int part) {
        if (parts[static_cast<size_t>(part)]++ != stage) ++twice;
        if (part == 0 && stage % 100 == 50)
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
      });
    }
  });
  expect(twice, 0);
  for (int part = 0; part < size; ++part) expect(parts[static_cast<size_t>(part)], kStages);
}

void barriers(int threads) {
  std::atomic<int> here{0}, wrong{0};
  run_team(threads, [&](Team& team) {
    for (int round = 1; round <= 100; ++round) {
      here.fetch_add(1);
      team.barrier();
      if (here.load() < round * team.size()) ++wrong;
      team.barrier();
    }
  });
  expect(wrong, 0);
}

void test_teams() {
  for (int round = 0; round < 30; ++round) {
    for (const int threads : {1, 2, 3}) stages(threads, round % 2 == 0);
    barriers(1 + round % 3);
  }
  // Callers share the threads there are.
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([] {
      for (int round = 0; round < 10; ++round) {
        stages(2, true);
        barriers(2);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
  test_cgroups();
  test_first_number();
  test_teams();
  return REPORT();
}

// SPDX-License-Identifier: MIT
// How many processors this process may use.
#pragma once

#include <string>

namespace gruengine {

// The least of: the processors this thread may run on (its affinity), what cgroups (1 and 2) allow
// this process, OMP_NUM_THREADS and OMP_THREAD_LIMIT. At least 1. Cgroups and variables are read
// once; the affinity may change and is read again after a while.
int allowed_cpus();

// The processors that the cgroups of this process allow, rounded up; 0: no limit. `root` goes
// before every path, for tests.
int cgroup_cpus(const std::string& root);

// The number in front of a list such as "4,2"; 0 when there is none.
int first_number(const char* text);

}  // namespace gruengine

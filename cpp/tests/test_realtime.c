/* SPDX-License-Identifier: MIT */
/* A step allocates nothing, takes no lock and makes no system call.
 * test_realtime [STEPS]: counts calls of malloc and pthread_mutex_lock, then steps in a process
 * that the kernel ends at the first system call other than read, write and exit. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check_c.h"
#include "small_model.h"

enum { I = 40, H = 64 };

/* -- what the process calls, counted ------------------------------------------------------------*/

static volatile long allocations, locks;

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t bytes) {
  ++allocations;
  return __libc_malloc(bytes);
}
void* calloc(size_t n, size_t bytes) {
  ++allocations;
  return __libc_calloc(n, bytes);
}
void* realloc(void* memory, size_t bytes) {
  ++allocations;
  return __libc_realloc(memory, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  ++allocations;
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  ++allocations;
  *memory = __libc_memalign(alignment, bytes);
  return *memory == NULL ? ENOMEM : 0;
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static int (*real)(pthread_mutex_t*);
  ++locks;
  if (real == NULL) *(void**)&real = dlsym(RTLD_NEXT, "pthread_mutex_lock");
  return real(mutex);
}

/* -- steps --------------------------------------------------------------------------------------*/

static float x[I], y[H];

static long walk(gru_stream* stream, long steps) {
  const void* inputs[] = {x};
  void* outputs[] = {y};
  long wrong = 0;
  for (long t = 0; t < steps; ++t) {
    x[t % I] = (float)(t % 101) * 0.01f - 0.5f;
    wrong += gru_stream_step(stream, inputs, outputs) != GRU_OK;
  }
  return wrong;
}

static void test_counting(gru_stream* stream, long steps) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  long before = allocations;
  gru_stream* copy = NULL;
  MUST(gru_stream_clone(stream, &copy));
  gru_stream_free(copy);
  CHECK(allocations > before); /* the counters see the library */
  before = locks;
  pthread_mutex_lock(&mutex);
  pthread_mutex_unlock(&mutex);
  CHECK(locks == before + 1);

  const long allocated = allocations, locked = locks;
  const long wrong = walk(stream, steps);
  CHECK(wrong == 0);
  CHECK(allocations == allocated);
  CHECK(locks == locked);
  printf("%ld steps: %ld allocations, %ld locks\n", steps, allocations - allocated, locks - locked);
}

/* How a child ends that may make no system call. */
static int without_system_calls(gru_stream* stream, long steps, int cheat) {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(77);
    const long wrong = walk(stream, steps);
    if (cheat) syscall(SYS_getppid);
    syscall(SYS_exit, wrong != 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

int main(int argc, char** argv) {
  const long steps = argc > 1 ? strtol(argv[1], NULL, 10) : 100000;
  size_t size = 0;
  const uint8_t* bytes = small_lstm(I, H, 5, &size);
  gru_model* model = NULL;
  gru_stream* stream = NULL;
  MUST(gru_model_load_memory(bytes, size, NULL, &model));
  MUST(gru_stream_create(model, 1, NULL, 0, &stream));
  CHECK(walk(stream, 10) == 0);
  test_counting(stream, steps);

  int status = without_system_calls(stream, 1, 1);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
    printf("this system has no seccomp: system calls were not watched\n");
  } else {
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = without_system_calls(stream, steps, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    printf("%ld steps without a system call\n", steps);
  }
  gru_stream_free(stream);
  gru_model_free(model);
  return REPORT();
}

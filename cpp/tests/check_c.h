/* SPDX-License-Identifier: MIT */
/* The test harness for C: CHECK counts and prints failures, REPORT ends main(). */
#ifndef GRUENGINE_TESTS_CHECK_C_H_
#define GRUENGINE_TESTS_CHECK_C_H_

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gruengine/gruengine.h"

static long check_count, check_failures;

static void check_failed(const char* file, int line, const char* text, const char* message) {
  ++check_failures;
  fprintf(stderr, "%s:%d: %s: %s\n", file, line, text, message);
}

#define CHECK(condition)                                                  \
  do {                                                                    \
    ++check_count;                                                        \
    if (!(condition)) check_failed(__FILE__, __LINE__, #condition, "no"); \
  } while (0)

/* A call without which the test cannot go on. */
#define MUST(call)                                               \
  do {                                                           \
    ++check_count;                                               \
    if ((call) != GRU_OK) {                                      \
      check_failed(__FILE__, __LINE__, #call, gru_last_error()); \
      exit(1);                                                   \
    }                                                            \
  } while (0)

/* A call that must end with `status`, and say `part`. */
#define REFUSED(status, call, part)                                                     \
  do {                                                                                  \
    ++check_count;                                                                      \
    if ((call) != (status)) check_failed(__FILE__, __LINE__, #call, gru_last_error());  \
    if (gru_last_error()[0] == '\0' || strstr(gru_last_error(), part) == NULL) {        \
      check_failed(__FILE__, __LINE__, #call " does not say " #part, gru_last_error()); \
    }                                                                                   \
  } while (0)

#define REPORT()                                                      \
  (printf("%ld checks, %ld failures\n", check_count, check_failures), \
   check_failures == 0 && check_count > 0 ? 0 : 1)

#endif /* GRUENGINE_TESTS_CHECK_C_H_ */

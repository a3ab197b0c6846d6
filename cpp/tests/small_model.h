/* SPDX-License-Identifier: MIT */
/* Model files for tests in C, made in memory. Links with small_model.cpp. */
#ifndef GRUENGINE_TESTS_SMALL_MODEL_H_
#define GRUENGINE_TESTS_SMALL_MODEL_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An LSTM over x [T,N,inputs] with y [T,1,N,hidden], with weights of `seed`. Never freed. */
const uint8_t* small_lstm(int inputs, int hidden, unsigned seed, size_t* size);
/* An RNN of one unit, x [T,N,1] and h [1,N,1] to y [T,1,N,1] and hn, h being carried. */
const uint8_t* small_carried(size_t* size);

#ifdef __cplusplus
}
#endif

#endif /* GRUENGINE_TESTS_SMALL_MODEL_H_ */

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_TEST_DRIVER_H
#define DETSHARE_TESTS_EMUGPU_TEST_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>
#include <cuda.h>

/* What the tests of the driver share; test_driver.c makes it. */
enum { GROUPS = 15, GROUP_SMS = 8, REST_SMS = 12 };

/* cuda.h declares the newest version only. */
CUresult CUDAAPI cuCtxCreate_v2(CUcontext *, unsigned, CUdevice);

#define OK(call) assert_int_equal(call, CUDA_SUCCESS)

extern CUcontext primary;
extern CUmodule module;
extern CUfunction spin_us, vector_add;

void nap_ms(long ms);
/* Launch spin_us, which writes the SM of each block to `smids`, unless that is 0. */
void spin(CUstream stream, unsigned blocks, unsigned us, CUdeviceptr smids);
void split_all(CUdevResource groups[GROUPS], CUdevResource *rest);
CUgreenCtx green_of(CUdevResource *resources, unsigned n);

/* test_graphs.c */
void captured_work(void **state);
void capture_of_two_streams(void **state);
void capture_refuses(void **state);
void capture_modes(void **state);
void capture_to_a_graph(void **state);
void explicit_graph(void **state);
void graph_runs_where_it_was_made(void **state);
void graph_is_moved_by_its_kernel_nodes(void **state);
void launches_in_order(void **state);
void executables_change(void **state);
void memory_nodes(void **state);

/* test_overlap.c */
void kernels_overlap(void **state);
void edges_have_ports(void **state);

#endif

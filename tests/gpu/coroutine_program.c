/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of many small experiments, each run with and without the coroutine library: what it prints
 * must not tell the two apart, except where the experiment is about the library. Runs on a real GPU
 * and on the emulated one. Usage: coroutine_program EXPERIMENT
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cuda.h>

#define PROGRAM "coroutine_program"
#include "call.h"
#include "kernels_ptx.h"

/* By the names that libcuda exports: cuda.h gives some of them others. */
#define DRIVER_CALLS(X)                                                                            \
	X(cuInit, (unsigned))                                                                      \
	X(cuDeviceGet, (CUdevice *, int))                                                          \
	X(cuDeviceGetAttribute, (int *, CUdevice_attribute, CUdevice))                             \
	X(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                       \
	X(cuDevicePrimaryCtxReset_v2, (CUdevice))                                                  \
	X(cuCtxSetCurrent, (CUcontext))                                                            \
	X(cuCtxSynchronize, (void))                                                                \
	X(cuCtxCreate_v2, (CUcontext *, unsigned, CUdevice))                                       \
	X(cuModuleLoadData, (CUmodule *, const void *))                                            \
	X(cuModuleGetFunction, (CUfunction *, CUmodule, const char *))                             \
	X(cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                  \
	X(cuMemFree_v2, (CUdeviceptr))                                                             \
	X(cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                                    \
	X(cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                          \
	X(cuMemcpyDtoDAsync_v2, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                      \
	X(cuMemcpyDtoD_v2, (CUdeviceptr, CUdeviceptr, size_t))                                     \
	X(cuMemcpyDtoD_v2_ptds, (CUdeviceptr, CUdeviceptr, size_t))                                \
	X(cuMemsetD32Async, (CUdeviceptr, unsigned, size_t, CUstream))                             \
	X(cuMemsetD32_v2, (CUdeviceptr, unsigned, size_t))                                         \
	X(cuStreamCreate, (CUstream *, unsigned))                                                  \
	X(cuStreamCreateWithPriority, (CUstream *, unsigned, int))                                 \
	X(cuStreamDestroy_v2, (CUstream))                                                          \
	X(cuStreamSynchronize, (CUstream))                                                         \
	X(cuStreamQuery, (CUstream))                                                               \
	X(cuStreamGetFlags, (CUstream, unsigned *))                                                \
	X(cuStreamGetPriority, (CUstream, int *))                                                  \
	X(cuStreamGetCtx, (CUstream, CUcontext *))                                                 \
	X(cuStreamGetCtx_v2, (CUstream, CUcontext *, CUgreenCtx *))                                \
	X(cuStreamGetGreenCtx, (CUstream, CUgreenCtx *))                                           \
	X(cuStreamWaitEvent, (CUstream, CUevent, unsigned))                                        \
	X(cuStreamAddCallback, (CUstream, CUstreamCallback, void *, unsigned))                     \
	X(cuStreamGetId, (CUstream, unsigned long long *))                                         \
	X(cuStreamGetAttribute, (CUstream, CUstreamAttrID, CUstreamAttrValue *))                   \
	X(cuStreamSetAttribute, (CUstream, CUstreamAttrID, const CUstreamAttrValue *))             \
	X(cuStreamWaitValue32_v2, (CUstream, CUdeviceptr, cuuint32_t, unsigned))                   \
	X(cuStreamWriteValue32_v2, (CUstream, CUdeviceptr, cuuint32_t, unsigned))                  \
	X(cuLaunchHostFunc, (CUstream, CUhostFn, void *))                                          \
	X(cuEventQuery, (CUevent))                                                                 \
	X(cuEventDestroy_v2, (CUevent))                                                            \
	X(cuEventCreate, (CUevent *, unsigned))                                                    \
	X(cuEventRecord, (CUevent, CUstream))                                                      \
	X(cuEventSynchronize, (CUevent))                                                           \
	X(cuLaunchKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
			   unsigned, CUstream, void **, void **))                                  \
	X(cuLaunchKernel_ptsz, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned,      \
				unsigned, unsigned, CUstream, void **, void **))                   \
	X(cuLaunchKernelEx, (const CUlaunchConfig *, CUfunction, void **, void **))                \
	X(cuStreamBeginCapture_v2, (CUstream, CUstreamCaptureMode))                                \
	X(cuStreamEndCapture, (CUstream, CUgraph *))                                               \
	X(cuStreamIsCapturing, (CUstream, CUstreamCaptureStatus *))                                \
	X(cuGraphCreate, (CUgraph *, unsigned))                                                    \
	X(cuGraphAddKernelNode_v2,                                                                 \
	  (CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const CUDA_KERNEL_NODE_PARAMS *))  \
	X(cuGraphKernelNodeGetParams_v2, (CUgraphNode, CUDA_KERNEL_NODE_PARAMS *))                 \
	X(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long))               \
	X(cuGraphExecKernelNodeSetParams_v2,                                                       \
	  (CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS *))                             \
	X(cuGraphLaunch, (CUgraphExec, CUstream))                                                  \
	X(cuLaunchCooperativeKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned,          \
				      unsigned, unsigned, unsigned, CUstream, void **))

#define FIELD(name, args) \
	CUresult(CUDAAPI *do_##name) args; /* NOLINT(bugprone-macro-parentheses) */
static struct {
	DRIVER_CALLS(FIELD)
} cu;

enum { THREADS = 256, N = 4096, BLOCKS = N / THREADS };

static const char *emugpu_dir; /* where emulated GPUs are, if there are any */
static void *libcuda;
static CUdevice device;
static CUcontext primary;
static CUfunction vector_add, spin_us;

static void load(void)
{
	libcuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!libcuda)
		exit(77);
#define LOAD(name, args) *(void **)&cu.do_##name = dlsym(libcuda, #name);
	DRIVER_CALLS(LOAD)
}

static void start(void)
{
	CUmodule module;
	CUresult result;

	load();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
	result = cu.do_cuDevicePrimaryCtxRetain(&primary, device);
	if (result) {
		printf("{\"retain\": %d}\n", (int)result);
		exit(0);
	}
	CALL(cuCtxSetCurrent, primary);
	CALL(cuModuleLoadData, &module, kernels_ptx);
	CALL(cuModuleGetFunction, &vector_add, module, "vector_add");
	CALL(cuModuleGetFunction, &spin_us, module, "spin_us");
}

static CUdeviceptr device_words(size_t n)
{
	CUdeviceptr words;

	CALL(cuMemAlloc_v2, &words, n * 4);
	CALL(cuMemsetD32_v2, words, 0, n);
	CALL(cuCtxSynchronize);
	return words;
}

static CUresult spin(CUstream stream, unsigned us, unsigned blocks)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	return cu.do_cuLaunchKernel(spin_us, blocks, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

/* ---- lookup: what each way to find a function of the driver gives ---- */

static void show_found(const char *path, void *address)
{
	Dl_info info = {0};
	const char *file = "none", *symbol = "none";

	if (address && dladdr(address, &info)) {
		file = strrchr(info.dli_fname, '/');
		file = file ? file + 1 : info.dli_fname;
		symbol = info.dli_sname ? info.dli_sname : "none";
	}
	printf("%s %s %.10s\n", path, symbol, file);
}

static void lookup(void)
{
	typedef CUresult CUDAAPI get_1(const char *, void **, int, cuuint64_t);
	typedef CUresult CUDAAPI get_2(const char *, void **, int, cuuint64_t,
				       CUdriverProcAddressQueryResult *);
	static const struct {
		const char *name;
		int version;
		cuuint64_t flags;
	} asked[] = {
	    {"cuLaunchKernel", 12050, 0},
	    {"cuLaunchKernel", 12050, CU_GET_PROC_ADDRESS_LEGACY_STREAM},
	    {"cuLaunchKernel", 12050, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
	    {"cuLaunchKernel", 2000, 0},
	    {"cuMemcpyHtoD", 12050, 0},
	    {"cuMemcpyHtoD", 12050, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
	    {"cuStreamGetCtx", 12000, 0},
	    {"cuStreamGetCtx", 12050, 0},
	    {"cuStreamCreate", 12050, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
	    {"cuGetProcAddress", 11030, 0},
	    {"cuGetProcAddress", 12000, 0},
	    {"cuMemAlloc", 12050, 0},
	    {"cuNoSuchCall", 12050, 0},
	};
	void *deep, *address;
	get_1 *first;
	get_2 *second;

	load();
	show_found("dlsym", dlsym(libcuda, "cuLaunchKernel"));
	show_found("dlsym-ptsz", dlsym(libcuda, "cuLaunchKernel_ptsz"));
	show_found("dlsym-other", dlsym(libcuda, "cuMemGetAddressRange_v2"));
	show_found("dlsym-none", dlsym(libcuda, "cuNoSuchCall"));
	printf("dlerror %d\n", dlerror() != NULL);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	deep = libcuda; /* the sanitizers forbid RTLD_DEEPBIND */
#else
	deep = dlopen("libcuda.so.1", RTLD_NOW | RTLD_DEEPBIND);
#endif
	show_found("deepbind", dlsym(deep, "cuLaunchKernel"));
	dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
	show_found("default", dlsym(RTLD_DEFAULT, "cuLaunchKernel"));
	show_found("next", dlsym(RTLD_NEXT, "cuLaunchKernel"));
	show_found("v", dlvsym(libcuda, "no_such_symbol", "NONE"));
	first = (get_1 *)dlsym(libcuda, "cuGetProcAddress");
	second = (get_2 *)dlsym(libcuda, "cuGetProcAddress_v2");
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		CUdriverProcAddressQueryResult status = (CUdriverProcAddressQueryResult)99;
		char path[80];
		CUresult result;

		address = NULL;
		result = second(asked[i].name, &address, asked[i].version, asked[i].flags, &status);
		snprintf(path, sizeof(path), "v2:%s:%d:%d=%d,%d", asked[i].name, asked[i].version,
			 (int)asked[i].flags, (int)result, (int)status);
		show_found(path, address);
		address = NULL;
		result = first(asked[i].name, &address, asked[i].version, asked[i].flags);
		snprintf(path, sizeof(path), "v1:%s:%d:%d=%d", asked[i].name, asked[i].version,
			 (int)asked[i].flags, (int)result);
		show_found(path, address);
	}
	address = NULL;
	printf("no-status %d\n", (int)second("cuLaunchKernel", &address, 12050, 0, NULL));
}

/* ---- order: does work on the second stream wait for work on the first? ---- */

enum { KINDS = 6 };
static const char *const kinds[KINDS] = {"null",     "legacy",       "per-thread",
					 "blocking", "blocking-too", "nonblocking"};

static void make_streams(CUstream streams[KINDS])
{
	streams[0] = NULL;
	streams[1] = CU_STREAM_LEGACY;
	streams[2] = CU_STREAM_PER_THREAD;
	CALL(cuStreamCreate, &streams[3], CU_STREAM_DEFAULT);
	CALL(cuStreamCreateWithPriority, &streams[4], CU_STREAM_DEFAULT, -1);
	CALL(cuStreamCreate, &streams[5], CU_STREAM_NON_BLOCKING);
}

static unsigned read_word(CUdeviceptr word)
{
	unsigned value;

	CALL(cuCtxSynchronize);
	CALL(cuMemcpyDtoH_v2, &value, word, 4);
	return value;
}

enum how { ASYNC, SYNC, SYNC_PER_THREAD, BY_EVENT, HOWS };
static const char *const hows[HOWS] = {"async", "sync", "sync-per-thread", "event"};

static void order(void)
{
	CUdeviceptr words;
	CUstream streams[KINDS];
	CUevent event;

	start();
	make_streams(streams);
	CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
	words = device_words(2);
	for (int how = 0; how < HOWS; how++) {
		for (int a = 0; a < KINDS; a++) {
			for (int b = 0; b < KINDS; b++) {
				CUdeviceptr flag = words, copy = words + 4;

				if ((how == SYNC || how == SYNC_PER_THREAD) && b > 0)
					continue;
				CALL(cuMemsetD32_v2, words, 0, 2);
				CALL(cuCtxSynchronize);
				CALL(cuLaunchKernel, spin_us, 1, 1, 1, 1, 1, 1, 0, streams[a],
				     (void *[]){&(unsigned){10000}, &(CUdeviceptr){0}}, NULL);
				CALL(cuMemsetD32Async, flag, 1, 1, streams[a]);
				switch (how) {
				case ASYNC:
					CALL(cuMemcpyDtoDAsync_v2, copy, flag, 4, streams[b]);
					break;
				case SYNC:
					CALL(cuMemcpyDtoD_v2, copy, flag, 4);
					break;
				case SYNC_PER_THREAD:
					CALL(cuMemcpyDtoD_v2_ptds, copy, flag, 4);
					break;
				default:
					/* b waits for a through a third stream's event */
					CALL(cuEventRecord, event, streams[b]);
					CALL(cuStreamWaitEvent, streams[5], event, 0);
					CALL(cuMemcpyDtoDAsync_v2, copy, flag, 4, streams[5]);
				}
				printf("%s: %s then %s: %s\n", hows[how], kinds[a],
				       (how == SYNC || how == SYNC_PER_THREAD) ? hows[how]
									       : kinds[b],
				       read_word(copy) ? "waits" : "does not wait");
			}
		}
	}
}

/* Longer chains, and streams that end with work queued. */
static void order_chains(void)
{
	CUstream blocking, other;
	CUdeviceptr words;

	start();
	words = device_words(4);
	/* blocking -> NULL -> other blocking */
	CALL(cuStreamCreate, &blocking, CU_STREAM_DEFAULT);
	CALL(cuStreamCreate, &other, CU_STREAM_DEFAULT);
	spin(blocking, 4000, 1);
	CALL(cuMemsetD32Async, words, 1, 1, blocking);
	CALL(cuMemsetD32Async, words + 4, 1, 1, NULL);
	CALL(cuMemcpyDtoDAsync_v2, words + 8, words, 8, other);
	printf("chain %u\n", read_word(words + 8));
	/* a stream made after the NULL stream's work */
	CALL(cuMemsetD32_v2, words, 0, 4);
	CALL(cuCtxSynchronize);
	spin(NULL, 4000, 1);
	CALL(cuMemsetD32Async, words, 1, 1, NULL);
	CALL(cuStreamCreate, &blocking, CU_STREAM_DEFAULT);
	CALL(cuMemcpyDtoDAsync_v2, words + 8, words, 4, blocking);
	printf("made-later %u\n", read_word(words + 8));
	/* the state of the NULL stream includes that of blocking streams */
	CALL(cuCtxSynchronize);
	printf("idle %d\n", (int)cu.do_cuStreamQuery(NULL));
	spin(blocking, 20000, 1);
	printf("busy %d\n", (int)cu.do_cuStreamQuery(NULL));
	CALL(cuStreamSynchronize, NULL);
	printf("after-null-sync %d\n", (int)cu.do_cuStreamQuery(blocking));
	/* freeing waits */
	spin(blocking, 4000, 1);
	CALL(cuMemFree_v2, words);
	printf("after-free %d\n", (int)cu.do_cuStreamQuery(blocking));
}

/* A blocking stream destroyed with work queued, then work on the NULL stream. */
static void order_destroyed(void)
{
	CUstream blocking;
	CUdeviceptr words;

	start();
	words = device_words(4);
	CALL(cuStreamCreate, &blocking, CU_STREAM_DEFAULT);
	spin(blocking, 4000, 1);
	CALL(cuMemsetD32Async, words, 1, 1, blocking);
	CALL(cuStreamDestroy_v2, blocking);
	CALL(cuMemcpyDtoDAsync_v2, words + 8, words, 4, NULL);
	printf("destroyed %u\n", read_word(words + 8));
}

/* ---- work: a result and the SMs it ran on, for every kind of stream ---- */

static void work(void)
{
	static float a[N], b[N], c[N];
	CUstream streams[KINDS];
	CUdeviceptr da, db, dc, smids = 0;
	unsigned n = N;
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	CUlaunchConfig config = {.gridDimX = BLOCKS,
				 .gridDimY = 1,
				 .gridDimZ = 1,
				 .blockDimX = THREADS,
				 .blockDimY = 1,
				 .blockDimZ = 1};

	start();
	make_streams(streams);
	da = device_words(N);
	db = device_words(N);
	dc = device_words(N);
	for (unsigned i = 0; i < N; i++) {
		a[i] = (float)i / 3;
		b[i] = (float)(N - i) / 7;
	}
	for (int kind = 0; kind < KINDS; kind++) {
		void *args[] = {&da, &db, &dc, &n, &smids};

		CALL(cuMemcpyHtoD_v2, da, a, sizeof(a));
		CALL(cuMemcpyHtoD_v2, db, b, sizeof(b));
		CALL(cuLaunchKernel, vector_add, BLOCKS, 1, 1, THREADS, 1, 1, 0, streams[kind],
		     args, NULL);
		CALL(cuLaunchKernel_ptsz, vector_add, BLOCKS, 1, 1, THREADS, 1, 1, 0, streams[kind],
		     args, NULL);
		config.hStream = streams[kind];
		CALL(cuLaunchKernelEx, &config, vector_add, args, NULL);
		CALL(cuStreamSynchronize, streams[kind]);
		CALL(cuCtxSynchronize);
		CALL(cuMemcpyDtoH_v2, c, dc, sizeof(c));
		for (unsigned i = 0; i < N; i++) {
			uint32_t bits;

			memcpy(&bits, &c[i], 4);
			hash = (hash ^ bits) * UINT64_C(0x100000001b3);
			a[i] = c[i];
		}
	}
	printf("%016llx\n", (unsigned long long)hash);
}

/* ---- properties: everything a program can ask about its streams ---- */

static void show_stream(const char *name, CUstream stream)
{
	unsigned flags = 99;
	int priority = 99;
	CUcontext context = NULL, context_2 = NULL;
	CUgreenCtx green = (CUgreenCtx)1, green_2 = (CUgreenCtx)1;
	CUresult results[5];

	results[0] = cu.do_cuStreamGetFlags(stream, &flags);
	results[1] = cu.do_cuStreamGetPriority(stream, &priority);
	results[2] = cu.do_cuStreamGetCtx(stream, &context);
	results[3] = cu.do_cuStreamGetCtx_v2(stream, &context_2, &green_2);
	results[4] = cu.do_cuStreamGetGreenCtx(stream, &green);
	printf("%s: flags %u priority %d context %d %d green %d %d results %d %d %d %d %d\n", name,
	       flags, priority, context == primary, context_2 == primary, green == NULL,
	       green_2 == NULL, results[0], results[1], results[2], results[3], results[4]);
}

static void CUDA_CB note_stream(CUstream stream, CUresult status, void *data)
{
	*(CUstream *)data = stream;
}

static void properties(void)
{
	CUstream streams[KINDS], stream = NULL, seen;
	int sms;

	start();
	make_streams(streams);
	CALL(cuDeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
	printf("sms %d\n", sms);
	for (int i = 0; i < KINDS; i++) {
		show_stream(kinds[i], streams[i]);
		seen = (CUstream)99;
		CALL(cuStreamAddCallback, streams[i], note_stream, &seen, 0);
		CALL(cuCtxSynchronize);
		printf("callback %d\n", seen == streams[i]);
	}
	printf("bad flags %d\n", (int)cu.do_cuStreamCreate(&stream, 77));
	printf("no pointer %d\n", (int)cu.do_cuStreamCreate(NULL, 0));
	printf("null out %d\n", (int)cu.do_cuStreamGetFlags(streams[3], NULL));
	CALL(cuStreamDestroy_v2, streams[3]);
	CALL(cuCtxSetCurrent, NULL);
	printf("no context %d %d %d\n", (int)spin(NULL, 1, 1),
	       (int)cu.do_cuStreamCreate(&stream, 0),
	       (int)cu.do_cuStreamQuery(CU_STREAM_PER_THREAD));
}

/* ---- capture: what is allowed while a stream is captured, and what a graph computes ---- */

static void needs_graphs(void)
{
	if (!cu.do_cuStreamEndCapture || !cu.do_cuGraphCreate) {
		printf("no graphs here\n");
		exit(77);
	}
}

static void show_capturing(const char *what, CUstream stream)
{
	CUstreamCaptureStatus status = (CUstreamCaptureStatus)99;
	CUresult result = cu.do_cuStreamIsCapturing(stream, &status);

	printf("  %s: %d status %d\n", what, (int)result, result ? 0 : (int)status);
}

/* One call while `stream` is captured, then how the capture ends. */
static void during_capture(const char *name, CUstream stream, CUstreamCaptureMode mode, int act,
			   CUdeviceptr words)
{
	static const char *const acts[] = {
	    "nothing",    "null launch", "null async set", "sync copy",         "sync set",
	    "null query", "null sync",   "null capture",   "null waits for it", "context sync",
	    "free",       "own query",   "null is asked"};
	CUgraph graph = NULL;
	CUdeviceptr extra;
	CUevent event;
	CUresult result = CUDA_SUCCESS;

	CALL(cuMemAlloc_v2, &extra, 4);
	CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
	CALL(cuStreamBeginCapture_v2, stream, mode);
	CALL(cuMemsetD32Async, words, 7, 1, stream);
	switch (act) {
	case 1:
		result = spin(NULL, 1, 1);
		break;
	case 2:
		result = cu.do_cuMemsetD32Async(words + 4, 1, 1, NULL);
		break;
	case 3:
		result = cu.do_cuMemcpyDtoD_v2(words + 4, words, 4);
		break;
	case 4:
		result = cu.do_cuMemsetD32_v2(words + 4, 2, 1);
		break;
	case 5:
		result = cu.do_cuStreamQuery(NULL);
		break;
	case 6:
		result = cu.do_cuStreamSynchronize(NULL);
		break;
	case 7:
		result = cu.do_cuStreamBeginCapture_v2(NULL, mode);
		break;
	case 8:
		result = cu.do_cuEventRecord(event, stream);
		if (!result)
			result = cu.do_cuStreamWaitEvent(NULL, event, 0);
		break;
	case 9:
		result = cu.do_cuCtxSynchronize();
		break;
	case 10:
		result = cu.do_cuMemFree_v2(extra);
		break;
	case 11:
		result = cu.do_cuStreamQuery(stream);
		break;
	case 12:
		show_capturing("null", NULL);
		show_capturing("itself", stream);
		break;
	default:
		break;
	}
	printf("%s mode %d, %s: %d", name, (int)mode, acts[act], (int)result);
	printf(", end %d\n", (int)cu.do_cuStreamEndCapture(stream, &graph));
	show_capturing("after", stream);
	printf("  context %d\n", (int)cu.do_cuCtxSynchronize());
}

static unsigned distinct_sms(CUdeviceptr smids, unsigned blocks)
{
	static unsigned seen[1 << 12], host[1 << 14];
	unsigned n = 0;

	CALL(cuCtxSynchronize);
	CALL(cuMemcpyDtoH_v2, host, smids, blocks * 4);
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < blocks; i++)
		n += !seen[host[i] & 4095]++;
	return n;
}

enum { MANY = 4096 };

static void capture(void)
{
	CUstream streams[KINDS];
	CUdeviceptr words;

	start();
	needs_graphs();
	make_streams(streams);
	words = device_words(4);
	for (int kind = 2; kind < KINDS; kind += kind == 3 ? 2 : 1)
		for (int mode = 0; mode < 3; mode++)
			for (int act = 0; act < 13; act++)
				during_capture(kinds[kind], streams[kind],
					       (CUstreamCaptureMode)mode, act, words);
}

/* Graphs captured, and made by hand: their result, in order with other work. */
static void graphs(void)
{
	CUstream streams[KINDS];
	CUdeviceptr words;

	start();
	needs_graphs();
	make_streams(streams);
	words = device_words(4);
	for (int kind = 2; kind < KINDS; kind++) {
		for (int on = 0; on < KINDS; on++) {
			CUgraph graph;
			CUgraphExec exec;

			CALL(cuMemsetD32_v2, words, 0, 4);
			CALL(cuStreamBeginCapture_v2, streams[kind],
			     CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
			spin(streams[kind], 8000, 1);
			CALL(cuMemsetD32Async, words, 5, 1, streams[kind]);
			CALL(cuStreamEndCapture, streams[kind], &graph);
			CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
			CALL(cuGraphLaunch, exec, streams[on]);
			CALL(cuMemcpyDtoDAsync_v2, words + 4, words, 4, NULL);
			printf("%s on %s then null: %u\n", kinds[kind], kinds[on],
			       read_word(words + 4));
		}
	}
}

/* How many SMs each way to run a kernel uses: alone all, in a partition those of the partition. */
static void sms(void)
{
	CUstream streams[KINDS];
	CUdeviceptr smids;
	unsigned us = 20, blocks = MANY;
	void *args[] = {&us, &smids};
	CUDA_KERNEL_NODE_PARAMS params = {.gridDimX = MANY,
					  .gridDimY = 1,
					  .gridDimZ = 1,
					  .blockDimX = 1024,
					  .blockDimY = 1,
					  .blockDimZ = 1,
					  .kernelParams = args};
	CUgraph graph;
	CUgraphNode node;
	CUgraphExec exec;

	start();
	make_streams(streams);
	smids = device_words(MANY);
	for (int kind = 0; kind < KINDS; kind++) {
		CALL(cuMemsetD32_v2, smids, 0, MANY);
		CALL(cuLaunchKernel, spin_us, blocks, 1, 1, 1024, 1, 1, 0, streams[kind], args,
		     NULL);
		printf("%s: %u\n", kinds[kind], distinct_sms(smids, blocks));
	}
	needs_graphs();
	for (int kind = 2; kind < KINDS; kind++) {
		CALL(cuStreamBeginCapture_v2, streams[kind], CU_STREAM_CAPTURE_MODE_GLOBAL);
		CALL(cuLaunchKernel, spin_us, blocks, 1, 1, 1024, 1, 1, 0, streams[kind], args,
		     NULL);
		CALL(cuStreamEndCapture, streams[kind], &graph);
		CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
		for (int on = 0; on < 2; on++) {
			CALL(cuGraphLaunch, exec, on ? streams[kind] : NULL);
			printf("captured on %s: %u\n", kinds[kind], distinct_sms(smids, blocks));
		}
	}
	params.func = spin_us;
	CALL(cuGraphCreate, &graph, 0);
	CALL(cuGraphAddKernelNode_v2, &node, graph, NULL, 0, &params);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	CALL(cuGraphLaunch, exec, NULL);
	printf("by hand: %u\n", distinct_sms(smids, blocks));
	us = 30;
	printf("updated: %d", (int)cu.do_cuGraphExecKernelNodeSetParams_v2(exec, node, &params));
	CALL(cuGraphLaunch, exec, NULL);
	printf(" %u\n", distinct_sms(smids, blocks));
	CALL(cuGraphKernelNodeGetParams_v2, node, &params);
	printf("context seen %d\n", params.ctx == primary || !params.ctx);
}

/* ---- threads: everything at once, for ThreadSanitizer ---- */

static void *hammer(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUdeviceptr a, b, c, smids = 0;
	static const float zeros[N];
	float *out = malloc(sizeof(float) * N);
	unsigned n = N;
	uintptr_t wrong = 0;

	CALL(cuCtxSetCurrent, primary);
	a = device_words(N);
	b = device_words(N);
	c = device_words(N);
	for (int round = 0; round < 12; round++) {
		static const CUstream fixed[] = {NULL, CU_STREAM_PER_THREAD};
		CUstream stream = NULL;
		void *args[] = {&a, &b, &c, &n, &smids};
		CUevent event;

		if (round % 4 < 2)
			stream = fixed[round % 4];
		else
			CALL(cuStreamCreate, &stream, round % 4 == 2 ? 0 : CU_STREAM_NON_BLOCKING);
		CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
		CALL(cuMemcpyHtoD_v2, c, zeros, sizeof(zeros));
		CALL(cuMemsetD32Async, a, 0x3f800000 + id, N, stream); /* about 1.0 */
		CALL(cuMemsetD32Async, b, 0x40000000, N, stream);      /* 2.0 */
		CALL(cuLaunchKernel, vector_add, BLOCKS, 1, 1, THREADS, 1, 1, 0, stream, args,
		     NULL);
		CALL(cuEventRecord, event, stream);
		CALL(cuStreamWaitEvent, NULL, event, 0);
		CALL(cuMemcpyDtoH_v2, out, c, sizeof(float) * N);
		for (unsigned i = 0; i < N; i++)
			wrong += out[i] < 2.99f || out[i] > 3.01f;
		if (round % 4 >= 2)
			CALL(cuStreamDestroy_v2, stream);
	}
	free(out);
	return (void *)wrong;
}

static void threads(void)
{
	enum { COUNT = 4 };
	pthread_t thread[COUNT];
	uintptr_t wrong = 0;
	void *result;

	start();
	for (unsigned i = 0; i < COUNT; i++)
		pthread_create(&thread[i], NULL, hammer, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(thread[i], &result);
		wrong += (uintptr_t)result;
	}
	printf("wrong %lu\n", (unsigned long)wrong);
}

/* ---- moving: what must hold when streams go from partition to partition ---- */

/*
 * One stream waits for a word in memory that another one writes later. Nobody who moves them may make the
 * second wait for the first.
 */
static void wake(void)
{
	CUstream waits, wakes, other;
	CUdeviceptr words;
	unsigned sum = 0;

	start();
	if (!cu.do_cuStreamWaitValue32_v2 || !cu.do_cuStreamWriteValue32_v2)
		exit(77);
	words = device_words(4);
	CALL(cuStreamCreate, &waits, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &wakes, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &other, CU_STREAM_NON_BLOCKING);
	for (unsigned round = 1; round <= 40; round++) {
		unsigned host;

		spin(waits, 10, 1);
		CALL(cuStreamWaitValue32_v2, waits, words, round, CU_STREAM_WAIT_VALUE_GEQ);
		for (unsigned i = 0; i < round % 4; i++)
			spin(other, 10, 1);
		/* These move the stream that waits, or not, behind its wait. */
		spin(waits, 10, 1);
		CALL(cuMemsetD32Async, words + 4, round, 1, waits);
		spin(other, 10, 1);
		spin(waits, 10, 1);
		printf("waits %d\n", (int)cu.do_cuStreamQuery(waits));
		spin(wakes, 10, 1);
		CALL(cuStreamWriteValue32_v2, wakes, words, round, 0);
		spin(wakes, 10, 1);
		CALL(cuStreamSynchronize, waits);
		printf("idle %d\n", (int)cu.do_cuStreamQuery(waits));
		CALL(cuMemcpyDtoH_v2, &host, words + 4, 4);
		sum += host;
	}
	CALL(cuCtxSynchronize);
	printf("sum %u\n", sum);
}

/* What a program can ask of a stream stays as it is when the stream moves. */
static void moved_properties(void)
{
	CUstreamAttrValue value = {.syncPolicy = CU_SYNC_POLICY_YIELD}, found;
	CUstream streams[KINDS];
	unsigned long long before[KINDS], after;

	start();
	make_streams(streams);
	for (int i = 0; i < KINDS; i++)
		CALL(cuStreamGetId, streams[i], &before[i]);
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < KINDS; i++) {
			CUstream seen = (CUstream)99;

			for (int n = 0; n < 3; n++)
				spin(streams[i], 10, 1);
			show_stream(kinds[i], streams[i]);
			CALL(cuStreamGetId, streams[i], &after);
			printf("same id %d\n", after == before[i]);
			CALL(cuStreamAddCallback, streams[i], note_stream, &seen, 0);
			CALL(cuCtxSynchronize);
			printf("callback %d\n", seen == streams[i]);
			if (!cu.do_cuStreamSetAttribute || !cu.do_cuStreamGetAttribute)
				continue;
			memset(&found, 0, sizeof(found));
			if (round == 1)
				printf("set %d\n",
				       (int)cu.do_cuStreamSetAttribute(
					   streams[i], CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY,
					   &value));
			printf("get %d",
			       (int)cu.do_cuStreamGetAttribute(
				   streams[i], CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &found));
			printf(" %d\n", (int)found.syncPolicy);
		}
	}
}

/* Streams that all threads use at once, each for operations that must stay in order. */
static CUstream shared[3];

static void *share(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUstream own[2];
	CUdeviceptr words;
	uintptr_t wrong = 0;

	CALL(cuCtxSetCurrent, primary);
	words = device_words(64);
	CALL(cuStreamCreate, &own[0], CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &own[1], CU_STREAM_DEFAULT);
	for (unsigned round = 0; round < 30; round++) {
		const CUstream all[] = {shared[0], shared[1], shared[2],           own[0],
					own[1],    NULL,      CU_STREAM_PER_THREAD};
		const CUstream stream = all[(id + round) % 7];
		unsigned host[32];
		CUevent event;

		for (unsigned i = 0; i < 32; i++) {
			CALL(cuMemsetD32Async, words, round * 64 + i, 1, stream);
			if (i % 8 == id % 8)
				spin(stream, 5, 1);
			CALL(cuMemcpyDtoDAsync_v2, words + 128 + i * 4, words, 4, stream);
		}
		CALL(cuMemsetD32Async, words, 0, 1, stream);
		if (round % 3 == 0) {
			CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
			CALL(cuEventRecord, event, stream);
			CALL(cuEventSynchronize, event);
			wrong += cu.do_cuEventQuery(event) != CUDA_SUCCESS;
			CALL(cuEventDestroy_v2, event);
		} else {
			CALL(cuStreamSynchronize, stream);
		}
		CALL(cuMemcpyDtoH_v2, host, words + 128, sizeof(host));
		for (unsigned i = 0; i < 32; i++)
			wrong += host[i] != round * 64 + i;
		if (round % 8 == 7) {
			CALL(cuStreamDestroy_v2, own[round / 8 % 2]);
			CALL(cuStreamCreate, &own[round / 8 % 2],
			     round / 8 % 2 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
		}
	}
	CALL(cuMemFree_v2, words);
	return (void *)wrong;
}

static void threads_share(void)
{
	enum { COUNT = 16 };
	pthread_t thread[COUNT];
	uintptr_t wrong = 0;
	void *result;

	start();
	CALL(cuStreamCreate, &shared[0], CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &shared[1], CU_STREAM_DEFAULT);
	CALL(cuStreamCreateWithPriority, &shared[2], CU_STREAM_NON_BLOCKING, -1);
	for (unsigned i = 0; i < COUNT; i++)
		pthread_create(&thread[i], NULL, share, (void *)(uintptr_t)i);
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(thread[i], &result);
		wrong += (uintptr_t)result;
	}
	printf("wrong %lu\n", (unsigned long)wrong);
}

static atomic_bool enough;

static void *pump(void *number)
{
	const unsigned id = (unsigned)(uintptr_t)number;
	CUstream stream = NULL;
	CUdeviceptr words;
	unsigned wrong = 0;

	CALL(cuCtxSetCurrent, primary);
	words = device_words(2);
	for (unsigned round = 1; !enough; round++) {
		const unsigned kind = (id + round / 16) % 4;
		unsigned host = 0;

		if (round % 16 == 1 && stream > CU_STREAM_PER_THREAD)
			CALL(cuStreamDestroy_v2, stream); /* with work queued */
		if (round % 16 == 1) {
			stream = kind % 2 ? CU_STREAM_PER_THREAD : NULL;
			if (kind >= 2)
				CALL(cuStreamCreate, &stream,
				     kind == 2 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
			/* A stream may not be overtaken by the one that took its place. */
			CALL(cuCtxSynchronize);
		}
		CALL(cuMemsetD32Async, words, round, 1, stream);
		spin(stream, 200, 8);
		CALL(cuMemcpyDtoDAsync_v2, words + 4, words, 4, stream);
		CALL(cuMemsetD32Async, words, 0, 1, stream);
		if (round % 4 == 0) {
			CALL(cuStreamSynchronize, stream);
			CALL(cuMemcpyDtoH_v2, &host, words + 4, 4);
			wrong += host != round;
		}
	}
	CALL(cuCtxSynchronize);
	return (void *)(uintptr_t)wrong;
}

/* Launches from several threads, on streams of all kinds, until the input ends. */
static void pumping(void)
{
	enum { COUNT = 4 };
	pthread_t thread[COUNT];
	uintptr_t wrong = 0;
	void *result;
	char c;

	start();
	for (unsigned i = 0; i < COUNT; i++)
		pthread_create(&thread[i], NULL, pump, (void *)(uintptr_t)i);
	printf("pumping\n");
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	enough = true;
	for (unsigned i = 0; i < COUNT; i++) {
		pthread_join(thread[i], &result);
		wrong += (uintptr_t)result;
	}
	printf("wrong %lu\n", (unsigned long)wrong);
}

/* One thread waits for a long kernel, which nobody will help to end. */
static void blocked(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	spin(stream, 700000, 44);
	printf("blocked\n");
	CALL(cuStreamSynchronize, stream);
	printf("done\n");
	spin(stream, 1000, 44);
	CALL(cuStreamSynchronize, stream);
	printf("again\n");
}

/* A stream under capture, for as long as there is input. */
static void capturing(void)
{
	CUstream stream;
	CUgraph graph;
	char c;

	start();
	needs_graphs();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	spin(stream, 1000, 1);
	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
	spin(stream, 1000, 1);
	printf("capturing\n");
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	spin(stream, 1000, 1);
	printf("end %d\n", (int)cu.do_cuStreamEndCapture(stream, &graph));
}

/* Ends at once, with work queued that takes longer than the program. */
static void exits(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < 50; i++)
		spin(i % 2 ? stream : NULL, 20000, 1);
	printf("exits\n");
}

/* A kernel's stream waits for what another stream will write when there is a line of input. */
static void waiting(void)
{
	CUdeviceptr word;
	CUstream first, second;
	char c;

	start();
	word = device_words(1);
	CALL(cuMemsetD32_v2, word, 0, 1);
	CALL(cuStreamCreate, &first, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &second, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamWaitValue32_v2, first, word, 1, CU_STREAM_WAIT_VALUE_EQ);
	spin(first, 100, 1);
	printf("waiting\n");
	if (read(STDIN_FILENO, &c, 1) < 0)
		exit(1);
	CALL(cuStreamWriteValue32_v2, second, word, 1, 0);
	CALL(cuStreamSynchronize, first);
	printf("woken\n");
}

static void launch_at_exit(void)
{
	printf("left %d\n", (int)spin(NULL, 10, 1));
	CALL(cuCtxSynchronize);
}

/* Exits when the input ends, while its threads launch, and launches once more on its way out. */
static void leaving(void)
{
	pthread_t thread;
	char c;

	atexit(launch_at_exit); /* the first to be registered is the last to run */
	start();
	spin(NULL, 10, 1);
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&thread, NULL, pump, (void *)(uintptr_t)i);
	printf("leaving\n");
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	exit(0);
}

/* ---- the rest ---- */

static void own_context(void)
{
	CUcontext context;

	load();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
	printf("own context %d\n", (int)cu.do_cuCtxCreate_v2(&context, 0, device));
}

static void cooperative(void)
{
	int sms;

	start();
	CALL(cuDeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
	for (int blocks = 1; blocks < 1 << 16; blocks *= 4) {
		unsigned us = 1;
		CUdeviceptr smids = 0;
		void *args[] = {&us, &smids};

		printf("%d: %d\n", blocks,
		       (int)cu.do_cuLaunchCooperativeKernel(spin_us, (unsigned)blocks, 1, 1, 1024,
							    1, 1, 0, NULL, args));
	}
	CALL(cuCtxSynchronize);
}

static void reset(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, 0);
	CALL(cuLaunchKernel, spin_us, 1, 1, 1, 1, 1, 1, 0, stream,
	     (void *[]){&(unsigned){10}, &(CUdeviceptr){0}}, NULL);
	CALL(cuCtxSynchronize);
	CALL(cuDevicePrimaryCtxReset_v2, device);
	start();
	CALL(cuStreamCreate, &stream, 0);
	if (spin(stream, 10, 1) || spin(NULL, 10, 1) || spin(CU_STREAM_PER_THREAD, 10, 1))
		printf("launches fail\n");
	CALL(cuCtxSynchronize);
	printf("again\n");
}

enum { PAIRS = 6, OVERLAPPING_US = 10000 };

/* A kernel, and one that may begin while it still runs. */
static void overlapping(CUstream stream)
{
	unsigned us = OVERLAPPING_US;
	CUdeviceptr smids = 0;
	CUlaunchAttribute attribute;
	const CUlaunchConfig config = {.gridDimX = 1,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = 1,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .hStream = stream,
				       .attrs = &attribute,
				       .numAttrs = 1};

	memset(&attribute, 0, sizeof(attribute));
	attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
	attribute.value.programmaticStreamSerializationAllowed = 1;
	if (spin(stream, OVERLAPPING_US, 1))
		printf("a launch failed\n");
	CALL(cuLaunchKernelEx, &config, spin_us, (void *[]){&us, &smids}, NULL);
}

static void overlaps(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < PAIRS; i++) {
		overlapping(stream);
		CALL(cuStreamSynchronize, stream);
	}
	printf("%u pairs\n", (unsigned)PAIRS);
}

/* The same in a graph, which has an edge of its own kind between them. */
static void overlaps_in_graph(void)
{
	CUstream stream;
	CUgraph graph;
	CUgraphExec exec;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	overlapping(stream);
	CALL(cuStreamEndCapture, stream, &graph);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	for (unsigned i = 0; i < PAIRS; i++) {
		CALL(cuGraphLaunch, exec, stream);
		CALL(cuStreamSynchronize, stream);
	}
	printf("%u pairs\n", (unsigned)PAIRS);
}

/* Uses the GPU, waits for its input to end, resets it and uses it again. */
static void reset_later(void)
{
	char c;

	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	printf("to be reset\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	reset();
}

/* Descriptors of the program's own keep the numbers they have alone. */
static void descriptors(void)
{
	int fd;

	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	printf("descriptor %d\n", fd);
}

static void in_child(void (*what)(void))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		what();
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	printf("child %d\n", status);
}

static void fork_before(void)
{
	in_child(work);
	work();
}

static void nothing(void)
{
}

static void launch_and_say(void)
{
	printf("in child %d\n", (int)spin(NULL, 10, 1));
}

static void fork_after(void)
{
	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	in_child(nothing);
	in_child(launch_and_say);
	printf("in parent %d\n", (int)spin(NULL, 10, 1));
	CALL(cuCtxSynchronize);
}

/* A program that clears its environment before it uses the GPU. */
static void cleared_environment(void)
{
	clearenv();
	setenv("EMUGPU_DIR", emugpu_dir, 1);
	work();
}

/* Lives until its input ends, holding its partition. */
static void hold(void)
{
	char c;

	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	printf("holding\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
}

/* Never touches CUDA, but looks for it everywhere. */
static void without_cuda(void)
{
	dlerror();
	printf("default %d", dlsym(RTLD_DEFAULT, "cuLaunchKernel") != NULL);
	printf(" error %d", dlerror() != NULL);
	printf(" next %d", dlsym(RTLD_NEXT, "cuLaunchKernel") != NULL);
	printf(" own %d", dlsym(dlopen(NULL, RTLD_NOW), "cuLaunchKernel") != NULL);
	printf(" library %d", dlopen("libno-such-cuda.so.1", RTLD_NOW) != NULL);
	printf(" malloc %d\n", dlsym(RTLD_NEXT, "malloc") == dlsym(RTLD_DEFAULT, "malloc"));
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_length(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/*
 * Kernels of known lengths in steps of known lengths: 40 steps of one of 1 ms on one SM, 10 of two of 3 ms
 * on two SMs, the second of them named by the CUkernel, each after a pause of 30 ms. Prints how long steps
 * took here, which may be longer where others need the CPU: in the middle, at most, and all together.
 */
static void measured(void)
{
	typedef CUresult CUDAAPI load_data(CUlibrary *, const void *, void *, void **, unsigned,
					   void *, void **, unsigned);
	typedef CUresult CUDAAPI get_kernel(CUkernel *, CUlibrary, const char *);
	CUlibrary library;
	CUkernel kernel;
	void *args[] = {&(unsigned){3000}, &(CUdeviceptr){0}};
	enum { SHORT = 40, LONG = 10 };
	double steps[SHORT + LONG], all = 0;

	start();
	if (((load_data *)dlsym(libcuda, "cuLibraryLoadData"))(&library, kernels_ptx, NULL, NULL, 0,
							       NULL, NULL, 0) ||
	    ((get_kernel *)dlsym(libcuda, "cuLibraryGetKernel"))(&kernel, library, "spin_us"))
		die("cuLibraryGetKernel", 0);
	CALL(cuStreamSynchronize, NULL);
	for (unsigned i = 0; i < SHORT; i++) {
		const double begun = now_us();
		if (spin(NULL, 1000, 1))
			die("cuLaunchKernel", 0);
		CALL(cuStreamSynchronize, NULL);
		steps[i] = now_us() - begun;
	}
	for (unsigned i = 0; i < LONG; i++) {
		usleep(30000);
		const double begun = now_us();
		if (spin(NULL, 3000, 2))
			die("cuLaunchKernel", 0);
		CALL(cuLaunchKernel, (CUfunction)kernel, 2, 1, 1, 1, 1, 1, 0, NULL, args, NULL);
		CALL(cuCtxSynchronize);
		steps[SHORT + i] = now_us() - begun;
		CALL(cuCtxSynchronize); /* no step: nothing was launched */
	}
	for (unsigned i = 0; i < SHORT + LONG; i++)
		all += steps[i];
	qsort(steps, SHORT + LONG, sizeof(steps[0]), by_length);
	printf("%.0f %.0f %.0f\n", steps[(SHORT + LONG) / 2], steps[SHORT + LONG - 1], all);
}

static const struct {
	const char *name;
	void (*run)(void);
} experiments[] = {
    {"lookup", lookup},
    {"order", order},
    {"order-chains", order_chains},
    {"order-destroyed", order_destroyed},
    {"work", work},
    {"properties", properties},
    {"capture", capture},
    {"graphs", graphs},
    {"sms", sms},
    {"threads", threads},
    {"own-context", own_context},
    {"cooperative", cooperative},
    {"reset", reset},
    {"reset-later", reset_later},
    {"overlaps", overlaps},
    {"overlaps-in-graph", overlaps_in_graph},
    {"descriptors", descriptors},
    {"fork-before", fork_before},
    {"fork-after", fork_after},
    {"cleared-environment", cleared_environment},
    {"hold", hold},
    {"wake", wake},
    {"moved-properties", moved_properties},
    {"threads-share", threads_share},
    {"pumping", pumping},
    {"blocked", blocked},
    {"capturing", capturing},
    {"exits", exits},
    {"waiting", waiting},
    {"leaving", leaving},
    {"measured", measured},
    {"without-cuda", without_cuda},
};

int main(int argc, char **argv)
{
	const char *dir = getenv("EMUGPU_DIR");

	alarm(100);
	emugpu_dir = dir ? strdup(dir) : "";
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc == 2 && i < sizeof(experiments) / sizeof(experiments[0]); i++) {
		if (!strcmp(argv[1], experiments[i].name)) {
			experiments[i].run();
			return fflush(stdout) ? 1 : 0;
		}
	}
	fprintf(stderr, "Usage: coroutine_program EXPERIMENT\n");
	return 2;
}

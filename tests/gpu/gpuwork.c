/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpuwork: small pieces of GPU work through the CUDA driver API alone. It runs unchanged on a real GPU
 * and on the emulated one; what it computes is checked on the host. Prints one line of JSON.
 */
#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cuda.h>

#include "kernels_ptx.h"

enum { BLOCK_THREADS = 256, REDUCE_BLOCKS = 64, WINDOW = 4, SMS_MAX = 4096 };

/* Name for cuGetProcAddress; name that libcuda exports; arguments. */
#define DRIVER_CALLS(X)                                                                           \
	X(cuInit, cuInit, (unsigned))                                                             \
	X(cuDeviceGet, cuDeviceGet, (CUdevice *, int))                                            \
	X(cuDeviceGetName, cuDeviceGetName, (char *, int, CUdevice))                              \
	X(cuDeviceGetUuid, cuDeviceGetUuid_v2, (CUuuid *, CUdevice))                              \
	X(cuDeviceGetAttribute, cuDeviceGetAttribute, (int *, CUdevice_attribute, CUdevice))      \
	X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))            \
	X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice))                    \
	X(cuCtxSetCurrent, cuCtxSetCurrent, (CUcontext))                                          \
	X(cuCtxSynchronize, cuCtxSynchronize, (void))                                             \
	X(cuModuleLoadData, cuModuleLoadData, (CUmodule *, const void *))                         \
	X(cuModuleGetFunction, cuModuleGetFunction, (CUfunction *, CUmodule, const char *))       \
	X(cuFuncSetAttribute, cuFuncSetAttribute, (CUfunction, CUfunction_attribute, int))        \
	X(cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr *, size_t))                                     \
	X(cuMemFree, cuMemFree_v2, (CUdeviceptr))                                                 \
	X(cuMemGetInfo, cuMemGetInfo_v2, (size_t *, size_t *))                                    \
	X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUstream)) \
	X(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, CUstream))       \
	X(cuStreamCreate, cuStreamCreate, (CUstream *, unsigned))                                 \
	X(cuStreamSynchronize, cuStreamSynchronize, (CUstream))                                   \
	X(cuEventCreate, cuEventCreate, (CUevent *, unsigned))                                    \
	X(cuEventRecord, cuEventRecord, (CUevent, CUstream))                                      \
	X(cuEventSynchronize, cuEventSynchronize, (CUevent))                                      \
	X(cuLaunchKernel, cuLaunchKernel,                                                         \
	  (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,      \
	   CUstream, void **, void **))                                                           \
	X(cuGetErrorName, cuGetErrorName, (CUresult, const char **))

/* NOLINTNEXTLINE(bugprone-macro-parentheses): args are a parameter list */
#define FIELD(name, exported, args) CUresult(CUDAAPI *name##_fn) args;
static struct {
	DRIVER_CALLS(FIELD)
} cu;

static const char usage[] =
    "Usage: gpuwork COMMAND [OPTION...]\n"
    "  add      c = a + b, checked on the host\n"
    "  reduce   sum of floats in a fixed order; its bits are the result\n"
    "  spin     blocks that hold one SM each for --block-us; the rate measures SMs\n"
    "  fma      blocks of dependent multiply-adds, one per SM; the rate measures SMs\n"
    "  mem      free and total memory\n"
    "  trap     a kernel that writes to an illegal address\n"
    "Options:\n"
    "  --device I            ordinal [0]\n"
    "  --stream KIND         null, blocking, nonblocking or perthread [null]\n"
    "  --link HOW            getproc or dlsym [getproc]\n"
    "  --n N                 elements (add, reduce) [1048576]\n"
    "  --blocks B            blocks of a launch (spin, fma) [number of SMs]\n"
    "  --block-us U          how long a block spins [1000]\n"
    "  --steps S             multiply-adds of a thread (fma) [100000]\n"
    "  --seconds S           launch for so long\n"
    "  --launches N          launch so many times [1]\n"
    "  --json                accepted: the output is one line of JSON in any case\n";

struct options {
	const char *command;
	const char *stream;
	const char *link;
	int device;
	unsigned n, blocks, block_us, steps, launches;
	double seconds;
};

struct work {
	const struct options *o;
	CUdevice device;
	CUstream stream;
	CUmodule module;
	char name[128];
	char uuid[48];
	unsigned sms;
	unsigned launches;
	uint64_t blocks;
	double seconds;
	CUdeviceptr smids;
	unsigned n_smids; /* entries of `smids` */
	char result[32];
};

static _Noreturn void die(const char *call, CUresult rc)
{
	const char *name = "?";

	if (cu.cuGetErrorName_fn)
		cu.cuGetErrorName_fn(rc, &name);
	fprintf(stderr, "gpuwork: %s failed: %s (%d)\n", call, name ? name : "?", (int)rc);
	exit(1);
}

#define CALL(name, ...)                                       \
	do {                                                  \
		CUresult call_rc = cu.name##_fn(__VA_ARGS__); \
		if (call_rc)                                  \
			die(#name, call_rc);                  \
	} while (0)

#ifdef GPUWORK_LINKED
/* Linked with libcuda: what the dynamic linker binds is what is called. */
static void load_driver(const char *how)
{
	(void)how;
#define BIND(name, exported, args) cu.name##_fn = exported;
	DRIVER_CALLS(BIND)
}
#else
static void load_driver(const char *how)
{
	void *lib = dlopen("libcuda.so.1", RTLD_NOW);
	CUresult(CUDAAPI * get)(const char *, void **, int, cuuint64_t,
				CUdriverProcAddressQueryResult *);
	bool plain = !strcmp(how, "dlsym");

	if (!lib) {
		fprintf(stderr, "gpuwork: cannot load libcuda.so.1: %s\n", dlerror());
		exit(1);
	}
	*(void **)&get = dlsym(lib, "cuGetProcAddress_v2");
	if (!get && !plain) {
		fprintf(stderr,
			"gpuwork: libcuda.so.1 has no cuGetProcAddress_v2; use --link dlsym\n");
		exit(1);
	}
#define LOOK_UP(name, exported, args)                                                           \
	do {                                                                                    \
		CUdriverProcAddressQueryResult status;                                          \
		void *found = NULL;                                                             \
		if (plain)                                                                      \
			found = dlsym(lib, #exported);                                          \
		else if (get(#name, &found, 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM, &status)) \
			found = NULL;                                                           \
		if (!found) {                                                                   \
			fprintf(stderr, "gpuwork: libcuda.so.1 has no " #name "\n");            \
			exit(1);                                                                \
		}                                                                               \
		memcpy(&cu.name##_fn, &found, sizeof(found));                                   \
	} while (0);
	DRIVER_CALLS(LOOK_UP)
}
#endif

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t hash(const void *data, size_t bytes)
{
	const unsigned char *p = data;
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	while (bytes--)
		h = (h ^ *p++) * UINT64_C(0x100000001b3);
	return h;
}

/* The same numbers everywhere, without the C library's generator. */
static float sample(unsigned i, unsigned seed)
{
	uint32_t x = i * 2654435761u + seed;

	x ^= x >> 15;
	x *= 2246822519u;
	x ^= x >> 13;
	return (float)(x >> 8) / 16777216.0f - 0.5f;
}

static void *allocate(size_t bytes)
{
	void *p = malloc(bytes);

	if (!p) {
		fprintf(stderr, "gpuwork: no memory for %zu bytes\n", bytes);
		exit(1);
	}
	return p;
}

static CUstream make_stream(const char *kind)
{
	CUstream s = NULL;

	if (!strcmp(kind, "perthread"))
		return CU_STREAM_PER_THREAD;
	if (!strcmp(kind, "blocking"))
		CALL(cuStreamCreate, &s, CU_STREAM_DEFAULT);
	else if (!strcmp(kind, "nonblocking"))
		CALL(cuStreamCreate, &s, CU_STREAM_NON_BLOCKING);
	return s;
}

static void start(struct work *w, const struct options *o)
{
	CUcontext ctx;
	CUuuid uuid;
	size_t used;
	int sms;

	w->o = o;
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &w->device, o->device);
	CALL(cuDeviceGetName, w->name, sizeof(w->name), w->device);
	CALL(cuDeviceGetUuid, &uuid, w->device);
	used = (size_t)snprintf(w->uuid, sizeof(w->uuid), "GPU-");
	for (int i = 0; i < 16; i++)
		used += (size_t)snprintf(w->uuid + used, sizeof(w->uuid) - used, "%s%02x",
					 i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
					 (unsigned char)uuid.bytes[i]);
	CALL(cuDeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, w->device);
	w->sms = (unsigned)sms;
	CALL(cuDevicePrimaryCtxRetain, &ctx, w->device);
	CALL(cuCtxSetCurrent, ctx);
	CALL(cuModuleLoadData, &w->module, kernels_ptx);
	w->stream = make_stream(o->stream);
}

static CUfunction function(const struct work *w, const char *name)
{
	CUfunction f;

	CALL(cuModuleGetFunction, &f, w->module, name);
	return f;
}

static CUdeviceptr device_memory(size_t bytes)
{
	CUdeviceptr p;

	CALL(cuMemAlloc, &p, bytes);
	return p;
}

static CUdeviceptr smid_memory(struct work *w, unsigned blocks)
{
	uint32_t *none = allocate(blocks * sizeof(*none));

	memset(none, 0xff, blocks * sizeof(*none));
	w->smids = device_memory(blocks * sizeof(*none));
	w->n_smids = blocks;
	CALL(cuMemcpyHtoDAsync, w->smids, none, blocks * sizeof(*none), w->stream);
	CALL(cuStreamSynchronize, w->stream);
	free(none);
	return w->smids;
}

/* Shared memory of which an SM has room for one block only. */
static unsigned one_block_per_sm(const struct work *w, CUfunction f)
{
	int per_sm, most, bytes;

	CALL(cuDeviceGetAttribute, &per_sm,
	     CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, w->device);
	CALL(cuDeviceGetAttribute, &most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
	     w->device);
	bytes = per_sm / 2 + 1024 < most ? per_sm / 2 + 1024 : most;
	CALL(cuFuncSetAttribute, f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
	return (unsigned)bytes;
}

/*
 * Launch for --seconds, or --launches times, with WINDOW launches queued at most, so that the end is
 * near when the time is over.
 */
static void run(struct work *w, CUfunction f, unsigned blocks, unsigned shared, void **params)
{
	CUevent events[WINDOW];
	double begin;

	for (int i = 0; i < WINDOW; i++)
		CALL(cuEventCreate, &events[i], CU_EVENT_DISABLE_TIMING);
	CALL(cuStreamSynchronize, w->stream);
	begin = now_s();
	for (;;) {
		if (w->o->seconds > 0 ? now_s() - begin >= w->o->seconds
				      : w->launches == w->o->launches)
			break;
		if (w->launches >= WINDOW)
			CALL(cuEventSynchronize, events[w->launches % WINDOW]);
		CALL(cuLaunchKernel, f, blocks, 1, 1, BLOCK_THREADS, 1, 1, shared, w->stream,
		     params, NULL);
		CALL(cuEventRecord, events[w->launches % WINDOW], w->stream);
		w->launches++;
		w->blocks += blocks;
	}
	CALL(cuStreamSynchronize, w->stream);
	w->seconds = now_s() - begin;
}

static void wrong(const char *what, unsigned i, float got, float want)
{
	fprintf(stderr, "gpuwork: wrong result: %s[%u] is %a, should be %a\n", what, i, (double)got,
		(double)want);
	exit(1);
}

static void add(struct work *w)
{
	unsigned n = w->o->n, blocks = (n + BLOCK_THREADS - 1) / BLOCK_THREADS;
	size_t bytes = n * sizeof(float);
	float *a = allocate(bytes), *b = allocate(bytes), *c = allocate(bytes);
	CUdeviceptr da = device_memory(bytes), db = device_memory(bytes), dc = device_memory(bytes);
	CUdeviceptr smids = smid_memory(w, blocks);

	for (unsigned i = 0; i < n; i++) {
		a[i] = sample(i, 1);
		b[i] = sample(i, 2);
	}
	CALL(cuMemcpyHtoDAsync, da, a, bytes, w->stream);
	CALL(cuMemcpyHtoDAsync, db, b, bytes, w->stream);
	run(w, function(w, "vector_add"), blocks, 0, (void *[]){&da, &db, &dc, &n, &smids});
	CALL(cuMemcpyDtoHAsync, c, dc, bytes, w->stream);
	CALL(cuStreamSynchronize, w->stream);
	for (unsigned i = 0; i < n; i++)
		if (c[i] != a[i] + b[i])
			wrong("c", i, c[i], a[i] + b[i]);
	snprintf(w->result, sizeof(w->result), "%016" PRIx64, hash(c, bytes));
	CALL(cuMemFree, da);
	CALL(cuMemFree, db);
	CALL(cuMemFree, dc);
	free(a);
	free(b);
	free(c);
}

static void reduce(struct work *w)
{
	unsigned n = w->o->n, n_parts = REDUCE_BLOCKS;
	float *in = allocate(n * sizeof(float)), sum, parts[REDUCE_BLOCKS];
	CUdeviceptr din = device_memory(n * sizeof(float)), dparts = device_memory(sizeof(parts));
	CUdeviceptr dsum = device_memory(sizeof(sum)), smids = smid_memory(w, REDUCE_BLOCKS),
		    none = 0;
	CUfunction f = function(w, "reduce_sum");

	for (unsigned i = 0; i < n; i++)
		in[i] = sample(i, 3);
	CALL(cuMemcpyHtoDAsync, din, in, n * sizeof(float), w->stream);
	run(w, f, REDUCE_BLOCKS, 0, (void *[]){&din, &dparts, &n, &smids});
	CALL(cuLaunchKernel, f, 1, 1, 1, BLOCK_THREADS, 1, 1, 0, w->stream,
	     (void *[]){&dparts, &dsum, &n_parts, &none}, NULL);
	CALL(cuMemcpyDtoHAsync, parts, dparts, sizeof(parts), w->stream);
	CALL(cuMemcpyDtoHAsync, &sum, dsum, sizeof(sum), w->stream);
	CALL(cuStreamSynchronize, w->stream);
	uint64_t bits[2] = {hash(parts, sizeof(parts)), hash(&sum, sizeof(sum))};
	snprintf(w->result, sizeof(w->result), "%016" PRIx64, hash(bits, sizeof(bits)));
	CALL(cuMemFree, din);
	CALL(cuMemFree, dparts);
	CALL(cuMemFree, dsum);
	free(in);
}

static void spin(struct work *w)
{
	unsigned blocks = w->o->blocks ? w->o->blocks : w->sms, us = w->o->block_us;
	CUfunction f = function(w, "spin_us");
	CUdeviceptr smids = smid_memory(w, blocks);

	run(w, f, blocks, one_block_per_sm(w, f), (void *[]){&us, &smids});
}

static void fma_command(struct work *w)
{
	unsigned blocks = w->o->blocks ? w->o->blocks : w->sms, steps = w->o->steps;
	size_t n = (size_t)blocks * BLOCK_THREADS;
	CUfunction f = function(w, "fma_chain");
	float *out = allocate(n * sizeof(float)), want[8];
	CUdeviceptr dout = device_memory(n * sizeof(float)), smids = smid_memory(w, blocks);

	run(w, f, blocks, one_block_per_sm(w, f), (void *[]){&dout, &steps, &smids});
	CALL(cuMemcpyDtoHAsync, out, dout, n * sizeof(float), w->stream);
	CALL(cuStreamSynchronize, w->stream);
	for (unsigned s = 0; s < 8; s++) {
		want[s] = 1.0f + (float)s * 0.125f;
		for (unsigned i = 0; i < steps; i++)
			want[s] = fmaf(want[s], 0.999f, 0.001f);
	}
	for (size_t i = 0; i < n; i++)
		if (out[i] != want[i % 8])
			wrong("out", (unsigned)i, out[i], want[i % 8]);
	snprintf(w->result, sizeof(w->result), "%016" PRIx64, hash(out, n * sizeof(float)));
	CALL(cuMemFree, dout);
	free(out);
}

static void trap(struct work *w)
{
	CUdeviceptr nowhere = 0x10;

	run(w, function(w, "trap"), 1, 0, (void *[]){&nowhere});
}

static int mem(const struct work *w)
{
	size_t free_bytes, total;

	CALL(cuMemGetInfo, &free_bytes, &total);
	printf(
	    "{\"command\":\"mem\",\"device\":\"%s\",\"uuid\":\"%s\",\"free\":%zu,\"total\":%zu}\n",
	    w->name, w->uuid, free_bytes, total);
	return fflush(stdout) ? 1 : 0;
}

static int report(struct work *w)
{
	static bool seen[SMS_MAX];
	uint32_t *smids = allocate((w->n_smids + 1) * sizeof(*smids));
	const char *comma = "";
	double rate = (double)w->blocks / w->seconds; /* of blocks: what the command is about */

	if (w->n_smids)
		CALL(cuMemcpyDtoHAsync, smids, w->smids, w->n_smids * sizeof(*smids), w->stream);
	CALL(cuCtxSynchronize);
	for (unsigned i = 0; i < w->n_smids; i++)
		if (smids[i] < SMS_MAX)
			seen[smids[i]] = true;
	printf("{\"command\":\"%s\",\"device\":\"%s\",\"uuid\":\"%s\",\"sms\":%u,\"launches\":%u,"
	       "\"blocks\":%" PRIu64
	       ",\"seconds\":%.6f,\"launches_per_s\":%.3f,\"blocks_per_s\":%.3f,\"rate\":%.3f,"
	       "\"result\":\"%s\",\"smids\":[",
	       w->o->command, w->name, w->uuid, w->sms, w->launches, w->blocks, w->seconds,
	       w->launches / w->seconds, rate, rate, w->result);
	for (unsigned i = 0; i < SMS_MAX; i++)
		if (seen[i]) {
			printf("%s%u", comma, i);
			comma = ",";
		}
	printf("]}\n");
	free(smids);
	return fflush(stdout) ? 1 : 0;
}

static double number(const char *option, const char *text, double low, double high)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= low && value <= high)) {
		fprintf(stderr, "gpuwork: --%s %s: want a number from %g to %g\n", option, text,
			low, high);
		exit(2);
	}
	return value;
}

static const char *one_of(const char *option, const char *text, const char *const *words)
{
	for (; *words; words++)
		if (!strcmp(text, *words))
			return *words;
	fprintf(stderr, "gpuwork: --%s %s: no such kind; see gpuwork --help\n", option, text);
	exit(2);
}

static struct options parse(int argc, char **argv)
{
	static const char *const streams[] = {"null", "blocking", "nonblocking", "perthread", NULL};
	static const char *const links[] = {"getproc", "dlsym", NULL};
	static const struct option longs[] = {
	    {"device", 1, NULL, 'd'}, {"stream", 1, NULL, 's'},  {"link", 1, NULL, 'l'},
	    {"n", 1, NULL, 'n'},      {"blocks", 1, NULL, 'b'},  {"block-us", 1, NULL, 'u'},
	    {"steps", 1, NULL, 'p'},  {"seconds", 1, NULL, 't'}, {"launches", 1, NULL, 'c'},
	    {"json", 0, NULL, 'j'},   {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
	struct options o = {.stream = "null",
			    .link = "getproc",
			    .n = 1 << 20,
			    .block_us = 1000,
			    .steps = 100000,
			    .launches = 1};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
		switch (c) {
		case 'd':
			o.device = (int)number("device", optarg, 0, 1024);
			break;
		case 's':
			o.stream = one_of("stream", optarg, streams);
			break;
		case 'l':
			o.link = one_of("link", optarg, links);
			break;
		case 'n':
			o.n = (unsigned)number("n", optarg, 1, 1u << 28);
			break;
		case 'b':
			o.blocks = (unsigned)number("blocks", optarg, 1, 1u << 20);
			break;
		case 'u':
			o.block_us = (unsigned)number("block-us", optarg, 1, 10000000);
			break;
		case 'p':
			o.steps = (unsigned)number("steps", optarg, 1, 1u << 30);
			break;
		case 't':
			o.seconds = number("seconds", optarg, 0.001, 1e6);
			break;
		case 'c':
			o.launches = (unsigned)number("launches", optarg, 1, 1e9);
			break;
		case 'j':
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			exit(2);
		}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		exit(2);
	}
	o.command = argv[optind];
	return o;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(struct work *);
	} commands[] = {{"add", add},         {"reduce", reduce}, {"spin", spin},
			{"fma", fma_command}, {"trap", trap},     {"mem", NULL}};
	struct options o = parse(argc, argv);
	struct work w = {0};
	unsigned i;

	for (i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(commands[i].name, o.command))
			break;
	if (i == sizeof(commands) / sizeof(*commands)) {
		fprintf(stderr, "gpuwork: no command %s; see gpuwork --help\n", o.command);
		return 2;
	}
	load_driver(o.link);
	start(&w, &o);
	if (!commands[i].run)
		return mem(&w);
	commands[i].run(&w);
	int rc = report(&w);
	CALL(cuDevicePrimaryCtxRelease, w.device);
	return rc;
}

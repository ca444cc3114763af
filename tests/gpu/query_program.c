/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks everything that a program can ask of the device, its context, streams, events, functions and memory: before
 * there is any work, while there is some, and after much more. What it prints must be the same with and without the
 * coroutine library, moved or not. Runs on a real GPU and on the emulated one.
 * Usage: query_program primary|created
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

enum { STREAMS = 7, EVENTS = 2, BYTES = 1 << 16 };

static const char *const stream_names[STREAMS] = {
    "null", "legacy", "per-thread", "blocking", "nonblocking", "high", "with-attributes"};

/* What is asked about. Ids are numbers that the driver chooses: known by where they were seen first. */
static struct {
	CUdevice device;
	CUcontext context, primary;
	struct kernels kernels;
	CUstream streams[STREAMS];
	CUevent events[EVENTS];
	CUdeviceptr memory;
	unsigned long long ids[64];
	unsigned n_ids;
} the;

/* Print a query's result, and what it answered if it did. */
#define ASK(what, call, ...)                              \
	do {                                              \
		CUresult ask_result = (call);             \
		printf("  %s %d", what, (int)ask_result); \
		if (!ask_result)                          \
			printf(" " __VA_ARGS__);          \
		printf("\n");                             \
	} while (0)

static unsigned number_of(unsigned long long id)
{
	unsigned i = 0;

	while (i < the.n_ids && the.ids[i] != id)
		i++;
	if (i == the.n_ids && i < 63)
		the.ids[the.n_ids++] = id;
	return i;
}

static const char *name_of(CUcontext context)
{
	return !context                 ? "none"
	       : context == the.context ? "mine"
	       : context == the.primary ? "primary"
					: "unknown";
}

/* ---- queries ---- */

static void ask_device(void)
{
	CUdevResource all = {0}, groups[32], rest = {0};
	unsigned n = 32, flags;
	char name[128];
	CUuuid uuid;
	int value;

	ASK("version", cu.do_cuDriverGetVersion(&value), "%d", value);
	ASK("count", cu.do_cuDeviceGetCount(&value), "%d", value);
	ASK("name", cu.do_cuDeviceGetName(name, sizeof(name), the.device), "%s", name);
	ASK("uuid", cu.do_cuDeviceGetUuid_v2(&uuid, the.device), "%02x", uuid.bytes[0] & 0xff);
	for (int i = 1; i < CU_DEVICE_ATTRIBUTE_MAX; i++)
		ASK("attribute",
		    cu.do_cuDeviceGetAttribute(&value, (CUdevice_attribute)i, the.device),
		    "%d = %d", i, value);
	ASK("resource", cu.do_cuDeviceGetDevResource(the.device, &all, CU_DEV_RESOURCE_TYPE_SM),
	    "%u", all.sm.smCount);
	ASK("split", cu.do_cuDevSmResourceSplitByCount(groups, &n, &all, &rest, 0, 8), "%u %u", n,
	    rest.sm.smCount);
	ASK("primary", cu.do_cuDevicePrimaryCtxGetState(the.device, &flags, &value), "%u %d", flags,
	    value);
}

static void ask_context(void)
{
	CUexecAffinityParam affinity;
	CUcontext current;
	CUdevResource resource;
	CUdevice device;
	CUfunc_cache cache;
	CUsharedconfig shared;
	unsigned long long id;
	unsigned flags, version;
	int least, greatest;
	size_t limit;

	ASK("current", cu.do_cuCtxGetCurrent(&current), "%s", name_of(current));
	ASK("device", cu.do_cuCtxGetDevice(&device), "%d", device);
	ASK("id", cu.do_cuCtxGetId(NULL, &id), "%u", number_of(id));
	ASK("id of it", cu.do_cuCtxGetId(the.context, &id), "%u", number_of(id));
	ASK("api", cu.do_cuCtxGetApiVersion(the.context, &version), "%u", version);
	ASK("flags", cu.do_cuCtxGetFlags(&flags), "%u", flags);
	for (int i = 0; i < CU_LIMIT_MAX; i++)
		ASK("limit", cu.do_cuCtxGetLimit(&limit, (CUlimit)i), "%d = %zu", i, limit);
	ASK("cache", cu.do_cuCtxGetCacheConfig(&cache), "%d", (int)cache);
	ASK("shared", cu.do_cuCtxGetSharedMemConfig(&shared), "%d", (int)shared);
	ASK("priorities", cu.do_cuCtxGetStreamPriorityRange(&least, &greatest), "%d %d", least,
	    greatest);
	ASK("affinity", cu.do_cuCtxGetExecAffinity(&affinity, CU_EXEC_AFFINITY_TYPE_SM_COUNT), "%u",
	    affinity.param.smCount.val);
	ASK("resource", cu.do_cuCtxGetDevResource(the.context, &resource, CU_DEV_RESOURCE_TYPE_SM),
	    "%u", resource.sm.smCount);
}

static void ask_attributes(CUstream stream)
{
	for (int i = 0; cu.do_cuStreamGetAttribute && i < 12; i++) {
		CUstreamAttrValue value;
		unsigned sum = 0;
		CUresult result;

		memset(&value, 0, sizeof(value));
		result = cu.do_cuStreamGetAttribute(stream, (CUstreamAttrID)i, &value);
		for (size_t k = 0; k < sizeof(value); k++)
			sum = sum * 31 + ((unsigned char *)&value)[k];
		ASK("attribute", result, "%d = %08x", i, sum);
	}
}

static void ask_streams(void)
{
	for (int i = 0; i < STREAMS; i++) {
		const CUstream stream = the.streams[i];
		CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
		CUcontext context = NULL;
		CUgreenCtx green = (CUgreenCtx)1;
		unsigned long long id = 0;
		cuuint64_t capture;
		unsigned flags = 0;
		int priority = 0;
		CUdevice device = -1;

		printf(" %s\n", stream_names[i]);
		ASK("id", cu.do_cuStreamGetId(stream, &id), "%u", number_of(id));
		ASK("flags", cu.do_cuStreamGetFlags(stream, &flags), "%u", flags);
		ASK("priority", cu.do_cuStreamGetPriority(stream, &priority), "%d", priority);
		ASK("context", cu.do_cuStreamGetCtx(stream, &context), "%s", name_of(context));
		ASK("context", cu.do_cuStreamGetCtx_v2(stream, &context, &green), "%s %d",
		    name_of(context), green == NULL);
		ASK("green", cu.do_cuStreamGetGreenCtx(stream, &green), "%d", green == NULL);
		if (cu.do_cuStreamGetDevice)
			ASK("device", cu.do_cuStreamGetDevice(stream, &device), "%d", device);
		ASK("captured", cu.do_cuStreamIsCapturing(stream, &status), "%d", (int)status);
		ASK("capture",
		    cu.do_cuStreamGetCaptureInfo_v2(stream, &status, &capture, NULL, NULL, NULL),
		    "%d", (int)status);
		ask_attributes(stream);
	}
}

static void ask_functions(void)
{
	CUlaunchConfig config = {.gridDimX = 8,
				 .gridDimY = 1,
				 .gridDimZ = 1,
				 .blockDimX = 128,
				 .blockDimY = 1,
				 .blockDimZ = 1,
				 .hStream = the.streams[3]};
	CUmoduleLoadingMode mode;
	CUmodule module;
	int value, least;
	size_t bytes;

	for (int i = 0; i < CU_FUNC_ATTRIBUTE_MAX; i++)
		ASK("attribute",
		    cu.do_cuFuncGetAttribute(&value, (CUfunction_attribute)i,
					     the.kernels.vector_add),
		    "%d = %d", i, value);
	ASK("module", cu.do_cuFuncGetModule(&module, the.kernels.vector_add), "%d",
	    module == the.kernels.module);
	ASK("loading", cu.do_cuModuleGetLoadingMode(&mode), "%d", (int)mode);
	ASK("blocks",
	    cu.do_cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, the.kernels.vector_add, 128,
							      0),
	    "%d", value);
	ASK("blocks",
	    cu.do_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
		&value, the.kernels.vector_add, 256, 0, 0),
	    "%d", value);
	ASK("size",
	    cu.do_cuOccupancyMaxPotentialBlockSize(&least, &value, the.kernels.vector_add, NULL, 0,
						   0),
	    "%d %d", least, value);
	if (cu.do_cuOccupancyAvailableDynamicSMemPerBlock)
		ASK("shared",
		    cu.do_cuOccupancyAvailableDynamicSMemPerBlock(&bytes, the.kernels.vector_add, 1,
								  128),
		    "%zu", bytes);
	if (cu.do_cuOccupancyMaxActiveClusters)
		ASK("clusters",
		    cu.do_cuOccupancyMaxActiveClusters(&value, the.kernels.vector_add, &config),
		    "%d", value);
	if (cu.do_cuOccupancyMaxPotentialClusterSize)
		ASK("cluster",
		    cu.do_cuOccupancyMaxPotentialClusterSize(&value, the.kernels.vector_add,
							     &config),
		    "%d", value);
}

static void ask_memory(void)
{
	const CUdeviceptr inside = the.memory + 100;
	CUcontext context = NULL;
	CUdeviceptr base = 0;
	unsigned type = 0;
	int ordinal = -1;
	size_t bytes = 0;
	CUpointer_attribute several[] = {CU_POINTER_ATTRIBUTE_CONTEXT,
					 CU_POINTER_ATTRIBUTE_MEMORY_TYPE};
	void *data[] = {&context, &type};

	ASK("context", cu.do_cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, inside),
	    "%s", name_of(context));
	ASK("type", cu.do_cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, inside),
	    "%u", type);
	ASK("ordinal",
	    cu.do_cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, inside),
	    "%d", ordinal);
	ASK("range", cu.do_cuMemGetAddressRange_v2(&base, &bytes, inside), "%d %zu",
	    base == the.memory, bytes);
	context = NULL;
	if (cu.do_cuPointerGetAttributes)
		ASK("several", cu.do_cuPointerGetAttributes(2, several, data, inside), "%s %u",
		    name_of(context), type);
}

static void ask_events(void)
{
	float ms = -1;

	ASK("first", cu.do_cuEventQuery(the.events[0]), "%s", "done");
	ASK("second", cu.do_cuEventQuery(the.events[1]), "%s", "done");
	ASK("time", cu.do_cuEventElapsedTime(&ms, the.events[0], the.events[1]), "%d", ms >= 0);
	if (cu.do_cuEventElapsedTime_v2)
		ASK("time", cu.do_cuEventElapsedTime_v2(&ms, the.events[0], the.events[1]), "%d",
		    ms >= 0);
}

static const struct {
	const char *name;
	void (*ask)(void);
} queries[] = {
    {"device", ask_device},       {"context", ask_context}, {"streams", ask_streams},
    {"functions", ask_functions}, {"memory", ask_memory},   {"events", ask_events},
};

static void ask_everything(const char *when)
{
	for (size_t i = 0; i < sizeof(queries) / sizeof(queries[0]); i++) {
		printf("%s: %s\n", when, queries[i].name);
		queries[i].ask();
	}
}

/* ---- work in between ---- */

static void launch(CUstream stream, unsigned us)
{
	CUdeviceptr smids = 0;
	void *args[] = {&us, &smids};

	CALL(cuLaunchKernel, the.kernels.spin_us, 2, 1, 1, 1, 1, 1, 0, stream, args, NULL);
}

static void work(unsigned rounds)
{
	CALL(cuEventRecord, the.events[0], the.streams[3]);
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < STREAMS; i++) {
			launch(the.streams[i], 5);
			CALL(cuMemsetD32Async, the.memory, round, 16, the.streams[i]);
		}
		CALL(cuStreamSynchronize, the.streams[round % STREAMS]);
	}
	CALL(cuEventRecord, the.events[1], the.streams[3]);
	CALL(cuCtxSynchronize);
}

static void start(bool created)
{
	load_driver();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &the.device, 0);
	if (created) {
		CALL(cuCtxCreate_v2, &the.context, CU_CTX_SCHED_YIELD, the.device);
	} else {
		CALL(cuDevicePrimaryCtxRetain, &the.primary, the.device);
		the.context = the.primary;
		CALL(cuCtxSetCurrent, the.context);
	}
	the.kernels = load_kernels();
	CALL(cuMemAlloc_v2, &the.memory, BYTES);
	the.streams[1] = CU_STREAM_LEGACY;
	the.streams[2] = CU_STREAM_PER_THREAD;
	CALL(cuStreamCreate, &the.streams[3], CU_STREAM_DEFAULT);
	CALL(cuStreamCreate, &the.streams[4], CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreateWithPriority, &the.streams[5], CU_STREAM_NON_BLOCKING, -2);
	CALL(cuStreamCreate, &the.streams[6], CU_STREAM_DEFAULT);
	for (int i = 0; i < EVENTS; i++)
		CALL(cuEventCreate, &the.events[i], CU_EVENT_DEFAULT);
}

int main(int argc, char **argv)
{
	CUstreamAttrValue yield = {.syncPolicy = CU_SYNC_POLICY_YIELD};

	alarm(100);
	if (argc != 2 || (strcmp(argv[1], "primary") != 0 && strcmp(argv[1], "created") != 0)) {
		fprintf(stderr, "Usage: query_program primary|created\n");
		return 2;
	}
	start(!strcmp(argv[1], "created"));
	ask_everything("fresh");
	work(1);
	ask_everything("used");
	if (cu.do_cuStreamSetAttribute) {
		ASK("set",
		    cu.do_cuStreamSetAttribute(the.streams[6],
					       CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &yield),
		    "%s", "ok");
		ASK("copy", cu.do_cuStreamCopyAttributes(the.streams[4], the.streams[6]), "%s",
		    "ok");
	}
	for (unsigned round = 0; round < 5; round++) {
		work(6);
		ask_everything("moved");
	}
	launch(the.streams[3], 100000);
	ASK("busy", cu.do_cuStreamQuery(the.streams[3]), "%s", "idle");
	ASK("busy", cu.do_cuStreamQuery(NULL), "%s", "idle");
	ask_streams();
	CALL(cuCtxSynchronize);
	ASK("idle", cu.do_cuStreamQuery(the.streams[3]), "%s", "idle");
	return 0;
}

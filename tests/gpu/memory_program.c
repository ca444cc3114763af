/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes GPU memory in every way there is, as it is told on standard input, and answers each line with one:
 *
 *   take KIND MIB     "RESULT NUMBER": a CUresult, and what to call it by
 *   give NUMBER       "RESULT"
 *   grab MIB N        take linear memory up to N times: "GOT RESULT", how often it worked, the last result
 *   info              "RESULT FREE TOTAL" of cuMemGetInfo, in MiB
 *   total             "RESULT TOTAL" of cuDeviceTotalMem, in MiB
 *   nvml VERSION      "RESULT TOTAL FREE USED" of NVML for the first GPU, in MiB
 *   sync              "RESULT" of cuCtxSynchronize
 *   trim              "RESULT" of trimming the device's pool
 *   threshold MIB     "RESULT" of setting the device's pool's release threshold
 *   cached MIB        as a caching allocator: take; if that fails give back what was freed, and try again
 *   reset             "RESULT" of cuDevicePrimaryCtxReset
 *   fork              "RESULT" of a cuMemAlloc in a child
 *
 * Runs on a real GPU and on the emulated one, alone and with the library.
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cuda.h>

enum { THINGS_MAX = 4096, LINE_SIZE = 256, MIB = 1 << 20 };

/* In the order of the calls that take them. */
enum kind {
	LINEAR,
	PITCH,
	MANAGED,
	ASYNC,    /* from the device's pool */
	POOL,     /* from a pool of its own, which goes with it */
	ORPHAN,   /* the same, but the pool is destroyed first */
	PHYSICAL, /* created, mapped, and the handle released */
	HANDLE,   /* created only */
	TWICE,    /* mapped at two addresses */
	ARRAY,
	ARRAY3D,
	MIPMAP,
	GRAPH,    /* a graph that allocates and frees, launched once */
	CAPTURED, /* the same, captured */
	HEAP,     /* the heap that kernels allocate from */
	HOST,
	ADDRESSES, /* addresses without memory */
	N_KINDS
};

static const char *const kind_names[N_KINDS] = {
    "linear", "pitch",   "managed", "async", "pool",     "orphan", "physical", "handle",    "twice",
    "array",  "array3d", "mipmap",  "graph", "captured", "heap",   "host",     "addresses",
};

struct thing {
	int used;
	enum kind kind;
	size_t bytes;
	CUdeviceptr address, second;
	CUmemoryPool pool;
	CUmemGenericAllocationHandle handle;
	CUarray array;
	CUmipmappedArray mipmap;
	CUgraph graph;
	CUgraphExec exec;
	void *host;
};

static struct thing things[THINGS_MAX];
static CUdevice device;
static CUcontext context;
static CUstream stream;

static CUmemAllocationProp on_device(void)
{
	return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
				     .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
}

static CUresult map(CUdeviceptr *address, const struct thing *t)
{
	const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device},
					CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUresult result = cuMemAddressReserve(address, t->bytes, 0, 0, 0);

	if (result == CUDA_SUCCESS)
		result = cuMemMap(*address, t->bytes, 0, t->handle, 0);
	if (result == CUDA_SUCCESS)
		result = cuMemSetAccess(*address, t->bytes, &access, 1);
	return result;
}

static CUresult unmap(CUdeviceptr address, size_t bytes)
{
	CUresult result = cuMemUnmap(address, bytes);

	return result == CUDA_SUCCESS ? cuMemAddressFree(address, bytes) : result;
}

static CUresult make_physical(struct thing *t)
{
	const CUmemAllocationProp prop = on_device();
	CUresult result = cuMemCreate(&t->handle, t->bytes, &prop, 0);

	if (result != CUDA_SUCCESS || t->kind == HANDLE)
		return result;
	result = map(&t->address, t);
	if (result == CUDA_SUCCESS && t->kind == TWICE)
		result = map(&t->second, t);
	/* The mappings keep it. */
	cuMemRelease(t->handle);
	return result;
}

static CUresult make_pool(struct thing *t)
{
	const CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
				      .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
	CUresult result = cuMemPoolCreate(&t->pool, &props);

	if (result != CUDA_SUCCESS)
		return result;
	result = cuMemAllocFromPoolAsync(&t->address, t->bytes, t->pool, stream);
	if (result != CUDA_SUCCESS || t->kind == ORPHAN)
		cuMemPoolDestroy(t->pool);
	return result;
}

static CUresult make_array(struct thing *t)
{
	/* 1 MiB is 512 x 512 of float1, or 32768 x 2 of float4: neither side may have more than 65536. */
	const CUDA_ARRAY_DESCRIPTOR flat = {32768, 2 * (t->bytes / MIB), CU_AD_FORMAT_FLOAT, 4};
	CUDA_ARRAY3D_DESCRIPTOR deep = {.Width = 512,
					.Height = 512,
					.Depth = t->bytes / MIB,
					.Format = CU_AD_FORMAT_FLOAT,
					.NumChannels = 1};

	if (t->kind == ARRAY)
		return cuArrayCreate(&t->array, &flat);
	if (t->kind == ARRAY3D)
		return cuArray3DCreate(&t->array, &deep);
	return cuMipmappedArrayCreate(&t->mipmap, &deep, 1);
}

static CUresult make_graph(struct thing *t)
{
	CUDA_MEM_ALLOC_NODE_PARAMS params = {
	    .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
			  .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}},
	    .bytesize = t->bytes};
	CUgraphNode node, free_node;
	CUdeviceptr address;
	CUresult result;

	if (t->kind == GRAPH) {
		result = cuGraphCreate(&t->graph, 0);
		if (result == CUDA_SUCCESS)
			result = cuGraphAddMemAllocNode(&node, t->graph, NULL, 0, &params);
		if (result == CUDA_SUCCESS)
			result = cuGraphAddMemFreeNode(&free_node, t->graph, &node, 1, params.dptr);
	} else {
		result = cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
		if (result != CUDA_SUCCESS)
			return result;
		result = cuMemAllocAsync(&address, t->bytes, stream);
		if (result == CUDA_SUCCESS)
			result = cuMemFreeAsync(address, stream);
		if (result == CUDA_SUCCESS)
			result = cuStreamEndCapture(stream, &t->graph);
	}
	if (result == CUDA_SUCCESS)
		result = cuGraphInstantiate(&t->exec, t->graph, 0);
	if (result != CUDA_SUCCESS)
		return result;
	result = cuGraphLaunch(t->exec, stream);
	if (result == CUDA_SUCCESS)
		result = cuStreamSynchronize(stream);
	if (result != CUDA_SUCCESS) {
		cuGraphExecDestroy(t->exec);
		cuGraphDestroy(t->graph);
	}
	return result;
}

static CUresult take(struct thing *t)
{
	size_t pitch;

	switch (t->kind) {
	case LINEAR:
		return cuMemAlloc(&t->address, t->bytes);
	case PITCH:
		return cuMemAllocPitch(&t->address, &pitch, 1024, t->bytes / 1024, 4);
	case MANAGED:
		return cuMemAllocManaged(&t->address, t->bytes, CU_MEM_ATTACH_GLOBAL);
	case ASYNC:
		return cuMemAllocAsync(&t->address, t->bytes, stream);
	case POOL:
	case ORPHAN:
		return make_pool(t);
	case PHYSICAL:
	case HANDLE:
	case TWICE:
		return make_physical(t);
	case ARRAY:
	case ARRAY3D:
	case MIPMAP:
		return make_array(t);
	case GRAPH:
	case CAPTURED:
		return make_graph(t);
	case HEAP:
		return cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, t->bytes + 8 * MIB);
	case HOST:
		return cuMemAllocHost(&t->host, t->bytes);
	case ADDRESSES:
		return cuMemAddressReserve(&t->address, t->bytes, 0, 0, 0);
	default:
		return CUDA_ERROR_UNKNOWN;
	}
}

static CUresult give(struct thing *t)
{
	CUresult result;

	switch (t->kind) {
	case LINEAR:
	case PITCH:
	case MANAGED:
		return cuMemFree(t->address);
	case ASYNC:
	case ORPHAN:
		result = cuMemFreeAsync(t->address, stream);
		return result == CUDA_SUCCESS ? cuStreamSynchronize(stream) : result;
	case POOL:
		result = cuMemFreeAsync(t->address, stream);
		if (result == CUDA_SUCCESS)
			result = cuStreamSynchronize(stream);
		return result == CUDA_SUCCESS ? cuMemPoolDestroy(t->pool) : result;
	case PHYSICAL:
		return unmap(t->address, t->bytes);
	case HANDLE:
		return cuMemRelease(t->handle);
	case TWICE:
		result = unmap(t->address, t->bytes);
		return result == CUDA_SUCCESS ? unmap(t->second, t->bytes) : result;
	case ARRAY:
	case ARRAY3D:
		return cuArrayDestroy(t->array);
	case MIPMAP:
		return cuMipmappedArrayDestroy(t->mipmap);
	case GRAPH:
	case CAPTURED:
		cuGraphExecDestroy(t->exec);
		cuGraphDestroy(t->graph);
		return cuDeviceGraphMemTrim(device);
	case HEAP:
		return cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 8 * MIB);
	case HOST:
		return cuMemFreeHost(t->host);
	case ADDRESSES:
		return cuMemAddressFree(t->address, t->bytes);
	default:
		return CUDA_ERROR_UNKNOWN;
	}
}

static void take_command(const char *kind, size_t bytes)
{
	CUresult result = CUDA_ERROR_UNKNOWN;
	int n = 0;

	while (n < THINGS_MAX - 1 && things[n].used)
		n++;
	things[n] = (struct thing){.used = 1, .bytes = bytes, .kind = N_KINDS};
	for (int k = 0; k < N_KINDS; k++)
		if (!strcmp(kind, kind_names[k]))
			things[n].kind = (enum kind)k;
	result = take(&things[n]);
	things[n].used = result == CUDA_SUCCESS;
	printf("%d %d\n", (int)result, n);
}

static void give_command(size_t n)
{
	CUresult result = CUDA_ERROR_INVALID_VALUE;

	if (n < THINGS_MAX && things[n].used) {
		result = give(&things[n]);
		things[n].used = 0;
	}
	printf("%d\n", (int)result);
}

static void grab_command(size_t bytes, size_t times)
{
	CUresult result = CUDA_SUCCESS;
	CUdeviceptr address;
	size_t got = 0;

	while (got < times && (result = cuMemAlloc(&address, bytes)) == CUDA_SUCCESS)
		got++;
	printf("%zu %d\n", got, (int)result);
}

/* What PyTorch's allocator does when the GPU is full. */
static void cached_command(size_t bytes)
{
	static CUdeviceptr cached[THINGS_MAX];
	static size_t n;
	CUdeviceptr address;
	CUresult result = cuMemAlloc(&address, bytes);
	unsigned retries = 0;

	if (result == CUDA_ERROR_OUT_OF_MEMORY) {
		while (n)
			cuMemFree(cached[--n]);
		retries = 1;
		result = cuMemAlloc(&address, bytes);
	}
	if (result == CUDA_SUCCESS && n < THINGS_MAX)
		cached[n++] = address;
	printf("%d %u\n", (int)result, retries);
}

/* Found as pynvml finds it. */
static void nvml_command(int version)
{
	unsigned char memory[64] = {0};
	unsigned long long total, free, used;
	void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW), *gpu = NULL;
	int (*init)(void) = nvml ? (int (*)(void))dlsym(nvml, "nvmlInit_v2") : NULL;
	int (*by_index)(unsigned, void **) =
	    nvml ? (int (*)(unsigned, void **))dlsym(nvml, "nvmlDeviceGetHandleByIndex_v2") : NULL;
	int (*info)(void *, void *) =
	    nvml ? (int (*)(void *, void *))dlsym(nvml, version == 2 ? "nvmlDeviceGetMemoryInfo_v2"
								     : "nvmlDeviceGetMemoryInfo")
		 : NULL;

	if (!init || !by_index || !info || init() || by_index(0, &gpu)) {
		printf("-1 0 0 0\n");
		return;
	}
	if (version == 2) {
		/* unsigned version (its size, and 2 << 24), total, reserved, free, used */
		unsigned long long words[5] = {0};
		unsigned asked = (unsigned)sizeof(words) | 2U << 24;
		memcpy(words, &asked, sizeof(asked));
		int result = info(gpu, words);
		printf("%d %llu %llu %llu\n", result, words[1] / MIB, words[3] / MIB,
		       words[4] / MIB);
		return;
	}
	int result = info(gpu, memory);
	memcpy(&total, memory, 8);
	memcpy(&free, memory + 8, 8);
	memcpy(&used, memory + 16, 8);
	printf("%d %llu %llu %llu\n", result, total / MIB, free / MIB, used / MIB);
}

static void fork_command(void)
{
	CUdeviceptr address;
	int status = 0;
	pid_t child = fork();

	if (child == 0)
		_exit((int)cuMemAlloc(&address, MIB) & 0xff);
	waitpid(child, &status, 0);
	printf("%d\n", WEXITSTATUS(status));
}

static CUresult set_up(void)
{
	CUresult result = cuDevicePrimaryCtxRetain(&context, device);

	if (result == CUDA_SUCCESS)
		result = cuCtxSetCurrent(context);
	if (result == CUDA_SUCCESS)
		result = cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
	return result;
}

static void obey(const char *line)
{
	char word[32] = "", kind[32] = "";
	unsigned long long a = 0, b = 0;
	size_t free = 0, total = 0;
	cuuint64_t threshold;
	CUmemoryPool pool;
	CUresult result;

	if (sscanf(line, "take %31s %llu", kind, &a) == 2) {
		take_command(kind, a * MIB);
	} else if (sscanf(line, "give %llu", &a) == 1) {
		give_command(a);
	} else if (sscanf(line, "grab %llu %llu", &a, &b) == 2) {
		grab_command(a * MIB, b);
	} else if (sscanf(line, "cached %llu", &a) == 1) {
		cached_command(a * MIB);
	} else if (sscanf(line, "nvml %llu", &a) == 1) {
		nvml_command((int)a);
	} else if (sscanf(line, "threshold %llu", &a) == 1) {
		threshold = a * MIB;
		result = cuDeviceGetMemPool(&pool, device);
		if (result == CUDA_SUCCESS)
			result = cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
						       &threshold);
		printf("%d\n", (int)result);
	} else if (sscanf(line, "%31s", word) == 1 && !strcmp(word, "info")) {
		result = cuMemGetInfo(&free, &total);
		printf("%d %zu %zu\n", (int)result, free / MIB, total / MIB);
	} else if (!strcmp(word, "total")) {
		result = cuDeviceTotalMem(&total, device);
		printf("%d %zu\n", (int)result, total / MIB);
	} else if (!strcmp(word, "sync")) {
		printf("%d\n", (int)cuCtxSynchronize());
	} else if (!strcmp(word, "trim")) {
		result = cuDeviceGetMemPool(&pool, device);
		printf("%d\n", (int)(result ? result : cuMemPoolTrimTo(pool, 0)));
	} else if (!strcmp(word, "reset")) {
		result = cuDevicePrimaryCtxReset(device);
		if (result == CUDA_SUCCESS)
			result = set_up();
		printf("%d\n", (int)result);
	} else if (!strcmp(word, "fork")) {
		fork_command();
	} else {
		printf("what?\n");
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[LINE_SIZE];
	CUresult result;

	(void)argc;
	result = cuInit(0);
	if (result == CUDA_SUCCESS)
		result = cuDeviceGet(&device, 0);
	/* "memory_program idle": a process that asks, and uses no GPU. */
	if (result == CUDA_SUCCESS && !(argv[1] && !strcmp(argv[1], "idle")))
		result = set_up();
	printf("ready %d\n", (int)result);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		obey(line);
	return 0;
}

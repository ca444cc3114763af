/* SPDX-License-Identifier: Apache-2.0 */
/* Initialisation, devices and their properties. */
#include "tests/emugpu/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void emu_say(const char *format, ...)
{
	char line[600];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stderr, "emugpu: %s\n", line);
}

CUresult emu_begin(void)
{
	if (emu_in_host_function)
		return CUDA_ERROR_NOT_PERMITTED;
	emu_enter();
	if (emu.initialised && !emu.forked)
		return CUDA_SUCCESS;
	emu_exit();
	return CUDA_ERROR_NOT_INITIALIZED;
}

CUresult emu_begin_device(CUdevice number, struct emu_device **dev)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	if (number < 0 || (unsigned)number >= emu.n_devices) {
		emu_exit();
		return CUDA_ERROR_INVALID_DEVICE;
	}
	*dev = &emu.devices[number];
	return CUDA_SUCCESS;
}

CUdevice emu_device_number(const struct emu_device *dev)
{
	return (CUdevice)(dev - emu.devices);
}

/* The driver does not work in a child of fork(): its threads are gone. */
static void after_fork(void)
{
	emu.forked = emu.initialised;
	pthread_mutex_init(&emu.mutex, NULL);
}

/* A thread must not be in the middle of a change while another one forks. */
static void before_fork(void)
{
	emu_enter();
}

static void after_fork_in_parent(void)
{
	emu_exit();
}

static unsigned open_all(const char *dir, struct emu_map *maps)
{
	unsigned n = 0;

	while (n < EMU_GPUS_MAX && !emu_gpu_open(dir, n, &maps[n]))
		n++;
	if (!n)
		emu_say("no GPU: cannot open %s/gpu0: %s; make it with: emugpu-host create %s", dir,
			strerror(errno), dir);
	return n;
}

/* Which of the n GPUs a word of CUDA_VISIBLE_DEVICES means: an index or the beginning of a UUID. */
static int find_gpu(const char *word, const struct emu_map *maps, unsigned n)
{
	char *end;
	long i = strtol(word, &end, 10);
	int found = -1;

	if (end != word && !*end)
		return i >= 0 && i < (long)n ? (int)i : -1;
	if (strncmp(word, "GPU-", 4))
		return -1;
	for (unsigned k = 0; k < n; k++)
		if (!strncmp(maps[k].gpu->uuid, word, strlen(word)))
			found = found < 0 ? (int)k : INT_MAX;
	return found == INT_MAX ? -1 : found;
}

/* As the real driver: the list ends at the first word that is no GPU; one named twice means none. */
static unsigned choose(const struct emu_map *maps, unsigned n, unsigned *chosen)
{
	const char *list = getenv("CUDA_VISIBLE_DEVICES");
	char copy[1024], *rest, *word;
	unsigned n_chosen = 0;

	if (!list) {
		for (unsigned i = 0; i < n; i++)
			chosen[i] = i;
		return n;
	}
	snprintf(copy, sizeof(copy), "%s", list);
	for (word = strtok_r(copy, ", ", &rest); word; word = strtok_r(NULL, ", ", &rest)) {
		int i = find_gpu(word, maps, n);
		if (i < 0)
			break;
		for (unsigned k = 0; k < n_chosen; k++)
			if (chosen[k] == (unsigned)i)
				return 0;
		chosen[n_chosen++] = (unsigned)i;
	}
	return n_chosen;
}

/* Under an MPS thread percentage the driver shows fewer SMs: 132 becomes 66, 52, 26 at 50, 40, 20%. */
static unsigned visible_sms(unsigned n_sms)
{
	const char *text = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
	double percent = text ? strtod(text, NULL) : 100;
	unsigned n;

	if (!emu.server_pid || percent <= 0 || percent >= 100)
		return n_sms;
	n = (unsigned)(n_sms * percent / 100) & ~1u;
	return n < 2 ? 2 : n;
}

/* A process that uses the GPU has these open, as long as it lives. Nothing is read from them. */
static void open_device_file(const char *dir, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/dev/emugpu%s", dir, name);
	if (open(path, O_RDONLY | O_CLOEXEC) < 0)
		fprintf(stderr, "emugpu: cannot open %s: %s\n", path, strerror(errno));
}

/* Hardware queues, which the driver calls connections; 0: more than there are streams. */
static unsigned connections(void)
{
	const char *text = getenv("CUDA_DEVICE_MAX_CONNECTIONS");
	const unsigned long n = text ? strtoul(text, NULL, 10) : 0;

	if (!getenv("EMUGPU_QUEUES"))
		return 0;
	return n < 1 || n > EMU_QUEUES_MAX ? EMU_QUEUES_DEFAULT : (unsigned)n;
}

static CUresult initialise(void)
{
	struct emu_map maps[EMU_GPUS_MAX];
	unsigned chosen[EMU_GPUS_MAX] = {0}, n;
	const char *dir = getenv("EMUGPU_DIR");
	CUresult rc;

	if (!dir || !*dir) {
		emu_say(
		    "no GPU: EMUGPU_DIR is not set; make a directory with emugpu-host create DIR "
		    "and set EMUGPU_DIR=DIR");
		return CUDA_ERROR_NO_DEVICE;
	}
	n = open_all(dir, maps);
	if (!n)
		return CUDA_ERROR_NO_DEVICE;
	/* Files stay open also for GPUs that are not visible: see emu_gpu_open. */
	emu.n_devices = choose(maps, n, chosen);
	if (!emu.n_devices)
		return CUDA_ERROR_NO_DEVICE;
	rc = emu_mps_connect();
	if (rc)
		return rc;
	open_device_file(dir, "-uvm");
	for (unsigned i = 0; i < emu.n_devices; i++) {
		char minor[16];
		snprintf(minor, sizeof(minor), "%u", chosen[i]);
		open_device_file(dir, minor);
		emu.devices[i].map = maps[chosen[i]];
		emu.devices[i].client = -1;
		emu.devices[i].n_visible_sms = visible_sms(maps[chosen[i]].gpu->n_sms);
	}
	pthread_atfork(before_fork, after_fork_in_parent, after_fork);
	emu.n_queues = connections();
	emu.initialised = true;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuInit(unsigned flags)
{
	static CUresult result = CUDA_ERROR_UNKNOWN;
	static bool tried;
	const char *hang = getenv("EMUGPU_HANG");
	CUresult rc;

	/* A driver that never answers, for tests of deadlines. */
	while (hang && !strcmp(hang, "cuInit"))
		pause();
	if (flags)
		return CUDA_ERROR_INVALID_VALUE;
	emu_enter();
	if (!tried) {
		tried = true;
		result = initialise();
	}
	rc = emu.forked ? CUDA_ERROR_NOT_INITIALIZED : result;
	emu_exit();
	return rc;
}

int emu_cuda_version(void)
{
	const char *text = getenv("EMUGPU_CUDA_VERSION");
	long version = text ? strtol(text, NULL, 10) : 0;

	return version > 0 && version <= EMU_NEWEST_VERSION ? (int)version : EMU_CUDA_VERSION;
}

CUresult CUDAAPI cuDriverGetVersion(int *version)
{
	if (!version)
		return CUDA_ERROR_INVALID_VALUE;
	*version = emu_cuda_version();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal)
{
	struct emu_device *dev;
	CUresult rc = device ? emu_begin_device(ordinal, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*device = ordinal;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int *count)
{
	CUresult rc = count ? emu_begin() : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*count = (int)emu.n_devices;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetName(char *name, int len, CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = name && len > 0 ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	snprintf(name, (size_t)len, "Emulated GPU (detshare tests)");
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = uuid ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;
	const char *p;

	if (rc)
		return rc;
	p = dev->map.gpu->uuid + strlen("GPU-");
	for (unsigned i = 0; i < sizeof(uuid->bytes); i++) {
		unsigned byte = 0;
		p += *p == '-';
		sscanf(p, "%2x", &byte);
		uuid->bytes[i] = (char)byte;
		p += 2;
	}
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice number)
{
	return cuDeviceGetUuid_v2(uuid, number);
}

CUresult CUDAAPI cuDeviceGetPCIBusId(char *text, int len, CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = text && len > 0 ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	snprintf(text, (size_t)len, "%s", dev->map.gpu->bus_id);
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetByPCIBusId(CUdevice *device, const char *bus_id)
{
	CUresult rc = device && bus_id ? emu_begin() : CUDA_ERROR_INVALID_VALUE;
	unsigned domain = 0, bus, slot, function = 0, i;
	char canonical[32];

	if (rc)
		return rc;
	if (sscanf(bus_id, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
		domain = 0;
		if (sscanf(bus_id, "%x:%x.%x", &bus, &slot, &function) < 2)
			bus = slot = UINT_MAX;
	}
	snprintf(canonical, sizeof(canonical), "%04x:%02x:%02x.%x", domain, bus, slot, function);
	for (i = 0; i < emu.n_devices; i++)
		if (!strcmp(emu.devices[i].map.gpu->bus_id, canonical))
			break;
	rc = i < emu.n_devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
	if (!rc)
		*device = (CUdevice)i;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = bytes ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*bytes = dev->map.gpu->total_memory;
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = major && minor ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*major = 9;
	*minor = 0;
	emu_exit();
	return CUDA_SUCCESS;
}

/* Values of an H200, apart from the SM count, for programs that size their work by them. */
static const struct {
	CUdevice_attribute attribute;
	int value;
} attributes[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, INT_MAX},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472},
    {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
    {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 3201000},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 6144},
    {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 62914560},
    {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
    {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
    {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
    {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
};

CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice number)
{
	struct emu_device *dev;
	CUresult rc = value ? emu_begin_device(number, &dev) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	*value = 0; /* what the emulation does not have */
	if (attribute < CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK ||
	    attribute >= CU_DEVICE_ATTRIBUTE_MAX)
		rc = CUDA_ERROR_INVALID_VALUE;
	for (unsigned i = 0; i < sizeof(attributes) / sizeof(*attributes); i++)
		if (attributes[i].attribute == attribute)
			*value = attributes[i].value;
	if (attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
		*value = (int)dev->n_visible_sms;
	if (attribute == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)
		*value = (int)dev->map.gpu->index + 1;
	emu_exit();
	return rc;
}

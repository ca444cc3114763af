/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stand-in for libnvidia-ml.so.1 on a machine of emulated GPUs: the few calls by which programs ask for a
 * GPU's memory. Its GPUs are those of EMUGPU_DIR, all of them, as the real one shows all of a machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/emugpu/shm.h"

#define EXPORT __attribute__((visibility("default")))

/* As NVML's documentation numbers them. */
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, SMALL_BUFFER = 7 };

struct memory {
	unsigned long long total, free, used;
};

struct memory_v2 {
	unsigned version;
	unsigned long long total, reserved, free, used;
};

/* A device's handle points to its number. */
static unsigned numbers[EMU_GPUS_MAX];
static unsigned n_gpus;

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlShutdown(void);
EXPORT int nvmlDeviceGetCount_v2(unsigned *count);
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **device);
EXPORT int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length);
EXPORT int nvmlDeviceGetName(void *device, char *name, unsigned length);
EXPORT int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory);
EXPORT int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *memory);
EXPORT const char *nvmlErrorString(int result);

static int with_gpu(unsigned number, void (*look)(const struct emu_gpu *gpu, void *to), void *to)
{
	/*
	 * Opened once and not closed: that would drop the record locks by which the process is known on the
	 * GPU, if it uses CUDA as well.
	 */
	static struct emu_map maps[EMU_GPUS_MAX];
	const char *dir = getenv("EMUGPU_DIR");

	if (!maps[number].gpu && (!dir || emu_gpu_open(dir, number, &maps[number])))
		return NOT_FOUND;
	look(maps[number].gpu, to);
	return SUCCESS;
}

static void count(const struct emu_gpu *gpu, void *to)
{
	(void)gpu;
	++*(unsigned *)to;
}

static void copy_uuid(const struct emu_gpu *gpu, void *to)
{
	memcpy(to, gpu->uuid, sizeof(gpu->uuid));
}

static void copy_memory(const struct emu_gpu *gpu, void *to)
{
	struct memory *memory = to;

	memory->total = gpu->total_memory;
	memory->used = emu_memory_used(gpu);
	memory->free = memory->total - memory->used;
}

int nvmlInit_v2(void)
{
	n_gpus = 0;
	while (n_gpus < EMU_GPUS_MAX && with_gpu(n_gpus, count, &numbers[n_gpus]) == SUCCESS) {
		numbers[n_gpus] = n_gpus;
		n_gpus++;
	}
	return n_gpus ? SUCCESS : NOT_FOUND;
}

int nvmlShutdown(void)
{
	n_gpus = 0;
	return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *out)
{
	*out = n_gpus;
	return n_gpus ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
	if (index >= n_gpus)
		return n_gpus ? INVALID_ARGUMENT : UNINITIALIZED;
	*device = &numbers[index];
	return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length)
{
	char found[48] = "";
	int result = with_gpu(*(unsigned *)device, copy_uuid, found);

	if (result == SUCCESS && snprintf(uuid, length, "%s", found) >= (int)length)
		result = SMALL_BUFFER;
	return result;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
	char found[96];

	for (unsigned i = 0; i < n_gpus; i++) {
		if (nvmlDeviceGetUUID(&numbers[i], found, sizeof(found)) == SUCCESS &&
		    !strcmp(found, uuid)) {
			*device = &numbers[i];
			return SUCCESS;
		}
	}
	return NOT_FOUND;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length)
{
	return snprintf(name, length, "Emulated GPU %u", *(unsigned *)device) >= (int)length
		   ? SMALL_BUFFER
		   : SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory)
{
	return with_gpu(*(unsigned *)device, copy_memory, memory);
}

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *memory)
{
	struct memory now;
	int result = with_gpu(*(unsigned *)device, copy_memory, &now);

	if (result != SUCCESS)
		return result;
	memory->total = now.total;
	memory->reserved = 0;
	memory->free = now.free;
	memory->used = now.used;
	return SUCCESS;
}

const char *nvmlErrorString(int result)
{
	return result == SUCCESS ? "Success" : "Emulated failure";
}

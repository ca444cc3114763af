/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/nvml.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/memory.h"

/*
 * NVML's header is not needed to build: these are the types of the two calls, as NVML's documentation
 * describes them.
 */
typedef struct nvmlDevice_st *nvml_device;

enum { NVML_SUCCESS = 0, NVML_ERROR_FUNCTION_NOT_FOUND = 13, UUID_ROOM = 96 };

struct nvml_memory {
	unsigned long long total, free, used;
};

struct nvml_memory_v2 {
	unsigned version;
	unsigned long long total, reserved, free, used;
};

typedef int memory_call(nvml_device device, struct nvml_memory *memory);
typedef int memory_call_v2(nvml_device device, struct nvml_memory_v2 *memory);
typedef int uuid_call(nvml_device device, char *uuid, unsigned length);

static void *nvml_function(const char *name)
{
	void *nvml = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_NOLOAD);
	void *function = nvml ? ds_next_dlsym(nvml, name) : NULL;

	/* The program has it loaded, and has called it: it stays. */
	if (nvml)
		dlclose(nvml);
	return function;
}

/* What the job has, if the device is the allocation's. */
static bool quota_of(nvml_device device, struct ds_memory_info *info)
{
	uuid_call *get_uuid = (uuid_call *)nvml_function("nvmlDeviceGetUUID");
	char uuid[UUID_ROOM];

	return get_uuid && get_uuid(device, uuid, sizeof(uuid)) == NVML_SUCCESS &&
	       ds_memory_info(info) && !strncmp(uuid, info->gpu_uuid, sizeof(info->gpu_uuid));
}

/* Never more than there is. */
static void show(const struct ds_memory_info *info, unsigned long long *total,
		 unsigned long long *free, unsigned long long *used)
{
	const unsigned long long left = info->quota - info->used;

	if (info->quota >= *total)
		return;
	*total = info->quota;
	*free = left < *free ? left : *free;
	*used = *total - *free;
}

int ds_nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *memory);
int ds_nvmlDeviceGetMemoryInfo_v2(nvml_device device, struct nvml_memory_v2 *memory);

int ds_nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *memory)
{
	memory_call *real = (memory_call *)nvml_function("nvmlDeviceGetMemoryInfo");
	struct ds_memory_info info;
	int result = real ? real(device, memory) : NVML_ERROR_FUNCTION_NOT_FOUND;

	if (result == NVML_SUCCESS && quota_of(device, &info))
		show(&info, &memory->total, &memory->free, &memory->used);
	return result;
}

int ds_nvmlDeviceGetMemoryInfo_v2(nvml_device device, struct nvml_memory_v2 *memory)
{
	memory_call_v2 *real = (memory_call_v2 *)nvml_function("nvmlDeviceGetMemoryInfo_v2");
	struct ds_memory_info info;
	int result = real ? real(device, memory) : NVML_ERROR_FUNCTION_NOT_FOUND;

	if (result == NVML_SUCCESS && quota_of(device, &info)) {
		show(&info, &memory->total, &memory->free, &memory->used);
		if (memory->total == info.quota)
			memory->reserved = 0;
	}
	return result;
}

#define EXPORT(symbol)                                                     \
	extern __typeof__(ds_##symbol) ds_export_##symbol __asm__(#symbol) \
	    __attribute__((alias("ds_" #symbol), visibility("default")))
EXPORT(nvmlDeviceGetMemoryInfo);
EXPORT(nvmlDeviceGetMemoryInfo_v2);

static const struct {
	const char *name;
	void *stand_in;
} calls[] = {
    {"nvmlDeviceGetMemoryInfo", (void *)ds_nvmlDeviceGetMemoryInfo},
    {"nvmlDeviceGetMemoryInfo_v2", (void *)ds_nvmlDeviceGetMemoryInfo_v2},
};

void *ds_nvml_stand_in(const char *name, void *address)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (!strcmp(calls[i].name, name) && nvml_function(name) == address)
			return calls[i].stand_in;
	return NULL;
}

bool ds_nvml_is_stand_in(const void *address)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].stand_in == address)
			return true;
	return false;
}

bool ds_nvml_has(const char *name)
{
	return nvml_function(name) != NULL;
}

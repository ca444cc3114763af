/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/probe.h"

#include <cuda.h>
#include <dlfcn.h>
#include <errno.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "noderuntime/gpu.h"

/* The driver's functions, by their names in libcuda. */
struct driver {
	CUresult (*init)(unsigned flags);
	CUresult (*get_error_string)(CUresult result, const char **text);
	CUresult (*device_get_count)(int *count);
	CUresult (*device_get)(CUdevice *device, int ordinal);
	CUresult (*device_get_uuid)(CUuuid *uuid, CUdevice device);
	CUresult (*device_get_name)(char *name, int size, CUdevice device);
	CUresult (*driver_get_version)(int *version);
	CUresult (*device_total_mem)(size_t *bytes, CUdevice device);
	CUresult (*device_get_resource)(CUdevice device, CUdevResource *resource,
					CUdevResourceType type);
	CUresult (*split_by_count)(CUdevResource *result, unsigned *n_groups,
				   const CUdevResource *input, CUdevResource *rest, unsigned flags,
				   unsigned min_count);
};

static int load_driver(const char *library, struct driver *driver, struct ds_error *err)
{
	const struct {
		const char *name;
		void *function;
	} functions[] = {
	    {"cuInit", &driver->init},
	    {"cuGetErrorString", &driver->get_error_string},
	    {"cuDeviceGetCount", &driver->device_get_count},
	    {"cuDeviceGet", &driver->device_get},
	    {"cuDeviceGetUuid_v2", &driver->device_get_uuid},
	    {"cuDeviceGetName", &driver->device_get_name},
	    {"cuDriverGetVersion", &driver->driver_get_version},
	    {"cuDeviceTotalMem_v2", &driver->device_total_mem},
	    {"cuDeviceGetDevResource", &driver->device_get_resource},
	    {"cuDevSmResourceSplitByCount", &driver->split_by_count},
	};

	void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!handle) {
		ds_fail(err, "cannot load %s: %s", library, dlerror());
		return -1;
	}
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		void *symbol = dlsym(handle, functions[i].name);
		if (!symbol) {
			ds_fail(err,
				"%s has no %s: green contexts need driver 550 (CUDA 12.4) or newer",
				library, functions[i].name);
			return -1;
		}
		memcpy(functions[i].function, &symbol, sizeof(symbol));
	}
	return 0;
}

static int check(const struct driver *driver, CUresult result, const char *what,
		 struct ds_error *err)
{
	const char *text = NULL;

	if (result == CUDA_SUCCESS)
		return 0;
	if (driver->get_error_string(result, &text) != CUDA_SUCCESS || !text)
		text = "unknown error";
	return ds_fail(err, "%s failed: %s (%d)", what, text, (int)result);
}

static void format_uuid(const CUuuid *uuid, char text[DS_UUID_SIZE])
{
	size_t used = (size_t)snprintf(text, DS_UUID_SIZE, "GPU-");

	for (int i = 0; i < 16; i++)
		used += (size_t)snprintf(text + used, DS_UUID_SIZE - used, "%s%02x",
					 i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
					 (unsigned char)uuid->bytes[i]);
}

/* How the driver splits this GPU's SMs at its finest, which is the same in every process. */
static int split(const struct driver *driver, CUdevice device, struct ds_topology *topology,
		 struct ds_error *err)
{
	CUdevResource all = {0}, rest = {0}, groups[DS_GROUPS_MAX];
	unsigned n = DS_GROUPS_MAX - 1, least = 1;

	if (check(driver, driver->device_get_resource(device, &all, CU_DEV_RESOURCE_TYPE_SM),
		  "cuDeviceGetDevResource", err) < 0)
		return -1;
#if CUDA_VERSION >= 13000
	/* Drivers before 13.0 leave this 0; they round the count up to their minimum by themselves. */
	if (all.sm.minSmPartitionSize)
		least = all.sm.minSmPartitionSize;
#endif
	memset(groups, 0, sizeof(groups));
	if (check(driver, driver->split_by_count(groups, &n, &all, &rest, 0, least),
		  "cuDevSmResourceSplitByCount", err) < 0)
		return -1;
	if (n < 1 || n >= DS_GROUPS_MAX)
		return ds_fail(err, "cuDevSmResourceSplitByCount made %u groups", n);
	topology->sm_count = all.sm.smCount;
	topology->shape.n_groups = n;
	topology->shape.group_sms = groups[0].sm.smCount;
	topology->shape.rest_sms = all.sm.smCount - n * groups[0].sm.smCount;
	return 0;
}

/* CPUs near the PCI address, by hwloc. Leaves `cpus` empty when there is no such device. */
static void find_cpus(hwloc_topology_t machine, const char *pci, char *cpus, size_t size)
{
	cpus[0] = '\0';
	if (!machine)
		return;
	hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(machine, pci);
	hwloc_obj_t near = device ? hwloc_get_non_io_ancestor_obj(machine, device) : NULL;
	if (near && hwloc_bitmap_list_snprintf(cpus, size, near->cpuset) >= (int)size)
		cpus[0] = '\0';
}

static hwloc_topology_t load_machine(void)
{
	hwloc_topology_t machine;

	if (hwloc_topology_init(&machine) < 0)
		return NULL;
	/* Bridges and PCI devices only: hwloc's own GPU plug-ins would call the driver. */
	hwloc_topology_set_io_types_filter(machine, HWLOC_TYPE_FILTER_KEEP_NONE);
	hwloc_topology_set_type_filter(machine, HWLOC_OBJ_PCI_DEVICE, HWLOC_TYPE_FILTER_KEEP_ALL);
	if (hwloc_topology_load(machine) < 0) {
		hwloc_topology_destroy(machine);
		return NULL;
	}
	return machine;
}

static int probe_device(const struct driver *driver, int ordinal, struct ds_topology *topology,
			struct ds_error *err)
{
	CUdevice device;
	CUuuid uuid;
	size_t bytes = 0;
	int version = 0;

	if (check(driver, driver->device_get(&device, ordinal), "cuDeviceGet", err) < 0 ||
	    check(driver, driver->device_get_uuid(&uuid, device), "cuDeviceGetUuid", err) < 0)
		return -1;
	format_uuid(&uuid, topology->uuid);
	if (check(driver, driver->device_get_name(topology->name, sizeof(topology->name), device),
		  "cuDeviceGetName", err) < 0 ||
	    check(driver, driver->device_total_mem(&bytes, device), "cuDeviceTotalMem", err) < 0 ||
	    check(driver, driver->driver_get_version(&version), "cuDriverGetVersion", err) < 0)
		return -1;
	topology->cuda = (uint32_t)version;
	topology->memory_mib = (uint32_t)(bytes >> 20);
	topology->name[strcspn(topology->name, "\n")] = '\0';
	return split(driver, device, topology, err);
}

static const struct ds_gpu *find_gpu(const struct ds_gpu *gpus, int n, const char *uuid)
{
	for (int i = 0; i < n; i++) {
		if (!strcasecmp(gpus[i].uuid, uuid))
			return &gpus[i];
	}
	return NULL;
}

static int keep(const struct ds_node_config *config, const struct ds_gpu *gpu,
		struct ds_topology *topology, hwloc_topology_t machine, struct ds_error *err)
{
	char dir[PATH_MAX];

	if (ds_boot_id(topology->boot_id, err) < 0)
		return -1;
	/* As /proc writes it: that is what everybody else reads. */
	snprintf(topology->uuid, sizeof(topology->uuid), "%s", gpu->uuid);
	snprintf(topology->pci, sizeof(topology->pci), "%s", gpu->pci);
	find_cpus(machine, gpu->pci, topology->cpus, sizeof(topology->cpus));
	if (ds_gpu_dir(config->runtime_dir, gpu->uuid, dir, sizeof(dir)) < 0)
		return ds_fail(err, "runtime_dir %s is too long", config->runtime_dir);
	if (mkdir(dir, 0711) < 0 && errno != EEXIST)
		return ds_fail(err, "cannot create %s: %s", dir, strerror(errno));
	return ds_topology_write(dir, topology, err);
}

int ds_probe(const struct ds_node_config *config, struct ds_error *err)
{
	static const char *const unwanted[] = {
	    "CUDA_VISIBLE_DEVICES",              /* all GPUs, whatever the caller may see */
	    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", /* would change the SM count */
	    "LD_PRELOAD",
	};
	struct driver driver;
	struct ds_gpu gpus[DS_GPUS_MAX];
	struct ds_topology topology;
	char nowhere[PATH_MAX];
	int count = 0, rv = 0;

	for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
		unsetenv(unwanted[i]);
	/* Not a client of whatever MPS the machine runs: there is none in this directory. */
	snprintf(nowhere, sizeof(nowhere), "%.4000s/no-mps", config->runtime_dir);
	setenv("CUDA_MPS_PIPE_DIRECTORY", nowhere, 1);

	if (mkdir(config->runtime_dir, 0755) < 0 && errno != EEXIST)
		return ds_fail(err, "cannot create %s: %s", config->runtime_dir, strerror(errno));
	if (load_driver(config->cuda_library, &driver, err) < 0 ||
	    check(&driver, driver.init(0), "cuInit", err) < 0 ||
	    check(&driver, driver.device_get_count(&count), "cuDeviceGetCount", err) < 0)
		return -1;
	/* After cuInit: only then does /proc know the UUID of a GPU that nobody has used yet. */
	int n_gpus = ds_gpu_list(config->gpu_info_dir, gpus, err);
	if (n_gpus < 0)
		return -1;

	hwloc_topology_t machine = load_machine();
	for (int ordinal = 0; ordinal < count; ordinal++) {
		memset(&topology, 0, sizeof(topology));
		if (probe_device(&driver, ordinal, &topology, err) < 0) {
			rv = ds_fail_within(err, "GPU number %d of the driver", ordinal);
			continue;
		}
		const struct ds_gpu *gpu = find_gpu(gpus, n_gpus, topology.uuid);
		if (!gpu && rv == 0) /* the first reason is the one to tell */
			rv = ds_fail(err, "%s, which the driver shows, is not in %s", topology.uuid,
				     config->gpu_info_dir);
		else if (gpu && keep(config, gpu, &topology, machine, err) < 0)
			rv = -1;
	}
	if (machine)
		hwloc_topology_destroy(machine);
	if (count == 0)
		rv = ds_fail(err, "%s shows no GPU", config->cuda_library);
	return rv;
}

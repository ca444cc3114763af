/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/device_launch.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "noderuntime/coroutine/driver.h"
#include "noderuntime/coroutine/own_things.h"
#include "noderuntime/coroutine/seen.h"

/* Code that the program loads: looked through for launches of its own, and counted. */

static void look(CUresult result, const void *image, size_t size)
{
	if (result == CUDA_SUCCESS)
		ds_seen_module(ds_device_launch_look(image, size));
}

/* A module is of the current context, a library of all. */
static CUresult made(CUresult result, const CUmodule *module)
{
	if (result == CUDA_SUCCESS)
		ds_own_made(DS_THING_MODULE, (uintptr_t)*module);
	return result;
}

static void look_at_file(CUresult result, const char *path)
{
	void *image = MAP_FAILED;
	struct stat status;
	int fd = -1;

	if (result != CUDA_SUCCESS)
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &status) == 0 && status.st_size > 0)
		image = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (image != MAP_FAILED) {
		look(result, image, (size_t)status.st_size);
		munmap(image, (size_t)status.st_size);
	} else {
		ds_seen_module(DS_LAUNCHES_UNREAD);
	}
	if (fd >= 0)
		close(fd);
}

CUresult ds_cuModuleLoad(CUmodule *module, const char *fname)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = made(ds_real.cuModuleLoad(module, fname), module);
	look_at_file(result, fname);
	return result;
}
DS_EXPORT(cuModuleLoad);

CUresult ds_cuModuleLoadData(CUmodule *module, const void *image)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = made(ds_real.cuModuleLoadData(module, image), module);
	look(result, image, SIZE_MAX);
	return result;
}
DS_EXPORT(cuModuleLoadData);

CUresult ds_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
			       CUjit_option *options, void **optionValues)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = made(ds_real.cuModuleLoadDataEx(module, image, numOptions, options, optionValues),
		      module);
	look(result, image, SIZE_MAX);
	return result;
}
DS_EXPORT(cuModuleLoadDataEx);

CUresult ds_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = made(ds_real.cuModuleLoadFatBinary(module, fatCubin), module);
	look(result, fatCubin, SIZE_MAX);
	return result;
}
DS_EXPORT(cuModuleLoadFatBinary);

CUresult ds_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
			      void **jitOptionsValues, unsigned int numJitOptions,
			      CUlibraryOption *libraryOptions, void **libraryOptionValues,
			      unsigned int numLibraryOptions)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result =
	    ds_real.cuLibraryLoadData(library, code, jitOptions, jitOptionsValues, numJitOptions,
				      libraryOptions, libraryOptionValues, numLibraryOptions);
	look(result, code, SIZE_MAX);
	return result;
}
DS_EXPORT(cuLibraryLoadData);

CUresult ds_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
				  CUjit_option *jitOptions, void **jitOptionsValues,
				  unsigned int numJitOptions, CUlibraryOption *libraryOptions,
				  void **libraryOptionValues, unsigned int numLibraryOptions)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuLibraryLoadFromFile(library, fileName, jitOptions, jitOptionsValues,
					       numJitOptions, libraryOptions, libraryOptionValues,
					       numLibraryOptions);
	look_at_file(result, fileName);
	return result;
}
DS_EXPORT(cuLibraryLoadFromFile);

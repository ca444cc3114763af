/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/own_things.h"

#include <stdlib.h>

#include "noderuntime/coroutine/seen.h"
#include "noderuntime/coroutine/vgraph.h"

enum { BUCKETS = 256 };

struct noted {
	uint64_t handle;
	enum ds_thing thing;
	const struct ds_own *own;
	struct noted *next;
};

static struct noted *buckets[BUCKETS]; /* under the lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint n_noted; /* so that programs without such contexts pay one load */

static unsigned bucket_of(uint64_t handle)
{
	return (unsigned)(handle * UINT64_C(0x9e3779b97f4a7c15) >> 56) % BUCKETS;
}

void ds_own_made(enum ds_thing thing, uint64_t handle)
{
	const struct ds_own *own = ds_own_any() && !ds_seen_tables() ? ds_own_current() : NULL;
	struct noted *noted = own ? malloc(sizeof(*noted)) : NULL;
	const unsigned bucket = bucket_of(handle);

	if (!noted)
		return; /* it lives on, then */
	*noted = (struct noted){.handle = handle, .thing = thing, .own = own};
	pthread_mutex_lock(&lock);
	noted->next = buckets[bucket];
	buckets[bucket] = noted;
	atomic_fetch_add(&n_noted, 1);
	pthread_mutex_unlock(&lock);
}

static struct noted *take(struct noted **link)
{
	struct noted *noted = *link;

	*link = noted->next;
	atomic_fetch_sub(&n_noted, 1);
	return noted;
}

void ds_own_unmade(enum ds_thing thing, uint64_t handle)
{
	struct noted *noted = NULL;

	if (!atomic_load_explicit(&n_noted, memory_order_relaxed))
		return;
	pthread_mutex_lock(&lock);
	for (struct noted **link = &buckets[bucket_of(handle)]; *link && !noted;
	     link = noted ? link : &(*link)->next)
		if ((*link)->handle == handle && (*link)->thing == thing)
			noted = take(link);
	pthread_mutex_unlock(&lock);
	free(noted);
}

CUcontext ds_own_of(uint64_t base)
{
	CUcontext context = NULL;

	pthread_mutex_lock(&lock);
	for (const struct noted *noted = buckets[bucket_of(base)]; noted; noted = noted->next)
		if (noted->handle == base && noted->thing <= DS_THING_REGISTERED)
			context = noted->own->handle;
	pthread_mutex_unlock(&lock);
	return context;
}

/* By the stand-ins, so that what is counted is counted down. */
static void destroy(enum ds_thing thing, uint64_t handle)
{
	switch (thing) {
	case DS_THING_ADDRESS:
		ds_cuMemFree_v2((CUdeviceptr)handle);
		break;
	case DS_THING_HOST:
		ds_cuMemFreeHost((void *)(uintptr_t)handle);
		break;
	case DS_THING_REGISTERED:
		ds_real.cuMemHostUnregister((void *)(uintptr_t)handle);
		break;
	case DS_THING_ARRAY:
		ds_cuArrayDestroy((CUarray)(uintptr_t)handle);
		break;
	case DS_THING_MIPMAP:
		ds_cuMipmappedArrayDestroy((CUmipmappedArray)(uintptr_t)handle);
		break;
	case DS_THING_EVENT:
		ds_real.cuEventDestroy_v2((CUevent)(uintptr_t)handle);
		break;
	case DS_THING_MODULE:
		ds_real.cuModuleUnload((CUmodule)(uintptr_t)handle);
		break;
	}
}

void ds_own_destroy_things(const struct ds_own *own)
{
	for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
		struct noted *its = NULL;

		pthread_mutex_lock(&lock);
		for (struct noted **link = &buckets[bucket]; *link;) {
			if ((*link)->own == own) {
				struct noted *noted = take(link);

				noted->next = its;
				its = noted;
			} else {
				link = &(*link)->next;
			}
		}
		pthread_mutex_unlock(&lock);
		while (its) {
			struct noted *noted = its;

			its = noted->next;
			destroy(noted->thing, noted->handle);
			free(noted);
		}
	}
}

/* ---- calls that nothing else is hooked for ---- */

#define MAKES(symbol, params, args, thing, handle)              \
	CUresult ds_##symbol params                             \
	{                                                       \
		CUresult result;                                \
                                                                \
		if (!ds_driver_ready())                         \
			return CUDA_ERROR_NOT_INITIALIZED;      \
		result = ds_real.symbol args;                   \
		if (result == CUDA_SUCCESS)                     \
			ds_own_made(thing, (uint64_t)(handle)); \
		return result;                                  \
	}                                                       \
	DS_EXPORT(symbol)

#define UNMAKES(symbol, params, args, thing, kind)         \
	CUresult ds_##symbol params                        \
	{                                                  \
		if (!ds_driver_ready())                    \
			return CUDA_ERROR_NOT_INITIALIZED; \
		ds_own_unmade(thing, (uint64_t)args);      \
		ds_vgraphs_lose(kind, (uint64_t)args, 1);  \
		return ds_real.symbol args;                \
	}                                                  \
	DS_EXPORT(symbol)

/* Nothing is noted of these: they live in the primary context, whoever makes them. */
#define LOSES(symbol, params, args, kind)                  \
	CUresult ds_##symbol params                        \
	{                                                  \
		if (!ds_driver_ready())                    \
			return CUDA_ERROR_NOT_INITIALIZED; \
		ds_vgraphs_lose(kind, (uint64_t)args, 1);  \
		return ds_real.symbol args;                \
	}                                                  \
	DS_EXPORT(symbol)

MAKES(cuEventCreate, (CUevent * phEvent, unsigned int Flags), (phEvent, Flags), DS_THING_EVENT,
      *phEvent);
UNMAKES(cuEventDestroy, (CUevent hEvent), (hEvent), DS_THING_EVENT, DS_REFERS_EVENT);
UNMAKES(cuEventDestroy_v2, (CUevent hEvent), (hEvent), DS_THING_EVENT, DS_REFERS_EVENT);
UNMAKES(cuModuleUnload, (CUmodule hmod), (hmod), DS_THING_MODULE, DS_REFERS_MODULE);
LOSES(cuLibraryUnload, (CUlibrary library), (library), DS_REFERS_MODULE);
LOSES(cuDestroyExternalSemaphore, (CUexternalSemaphore extSem), (extSem), DS_REFERS_SEMAPHORE);
LOSES(cuIpcCloseMemHandle, (CUdeviceptr dptr), (dptr), DS_REFERS_MEMORY);
MAKES(cuMemAllocHost_v2, (void **pp, size_t bytesize), (pp, bytesize), DS_THING_HOST, *pp);
MAKES(cuMemHostAlloc, (void **pp, size_t bytesize, unsigned int Flags), (pp, bytesize, Flags),
      DS_THING_HOST, *pp);
MAKES(cuMemHostRegister, (void *p, size_t bytesize, unsigned int Flags), (p, bytesize, Flags),
      DS_THING_REGISTERED, p);
MAKES(cuMemHostRegister_v2, (void *p, size_t bytesize, unsigned int Flags), (p, bytesize, Flags),
      DS_THING_REGISTERED, p);
UNMAKES(cuMemHostUnregister, (void *p), (p), DS_THING_REGISTERED, DS_REFERS_MEMORY);

/* ---- where memory was made ---- */

/* The context that the driver names for memory, as the program knows it. */
static void as_made(CUcontext *context, CUdeviceptr address)
{
	CUdeviceptr base;
	CUcontext own;

	if (!atomic_load_explicit(&n_noted, memory_order_relaxed) || !context ||
	    ds_real.cuPointerGetAttribute(&base, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address) !=
		CUDA_SUCCESS)
		return;
	own = ds_own_of(base);
	if (own)
		*context = own;
}

CUresult ds_cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuPointerGetAttribute(data, attribute, ptr);
	if (result == CUDA_SUCCESS && attribute == CU_POINTER_ATTRIBUTE_CONTEXT)
		as_made((CUcontext *)data, ptr);
	return result;
}
DS_EXPORT(cuPointerGetAttribute);

CUresult ds_cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes,
				   void **data, CUdeviceptr ptr)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuPointerGetAttributes(numAttributes, attributes, data, ptr);
	for (unsigned i = 0; result == CUDA_SUCCESS && i < numAttributes; i++)
		if (attributes[i] == CU_POINTER_ATTRIBUTE_CONTEXT && *(CUcontext *)data[i])
			as_made((CUcontext *)data[i], ptr);
	return result;
}
DS_EXPORT(cuPointerGetAttributes);

/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/own.h"

/*
 * What a program sets for a context. Several contexts are one for the driver, so each has a copy here as
 * soon as the program has made one. A limit is raised for the driver when any context asks for more, and
 * never lowered: what one of them needs is there. The other settings are about speed.
 */

_Static_assert((int)CU_LIMIT_MAX <= (int)DS_LIMITS, "a limit has no room");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Under the lock: */
static bool several;
static struct ds_settings of_primary, of_new;
static size_t first_limits[DS_LIMITS]; /* before the program set them */
static uint32_t limits_set;

bool ds_own_flags_are_fine(unsigned flags)
{
	const unsigned how = flags & CU_CTX_SCHED_MASK;

	return !(flags & ~(unsigned)CU_CTX_FLAGS_MASK) && !(how & (how - 1));
}

/* Flags that change what calls do, and not just how they wait, must hold for the primary context, too. */
static CUresult share_flags(unsigned flags)
{
	const unsigned alone = CU_CTX_SCHED_MASK | CU_CTX_MAP_HOST | CU_CTX_LMEM_RESIZE_TO_MAX;
	unsigned had = 0;
	CUresult result;

	if (!(flags & ~alone))
		return CUDA_SUCCESS;
	result = ds_real.cuCtxGetFlags(&had);
	if (result == CUDA_SUCCESS && flags & ~alone & ~had)
		result = ds_real.cuCtxSetFlags(had | (flags & ~alone));
	return result;
}

/* With the primary context current. Under the lock. */
static void begin(void)
{
	if (several)
		return;
	several = true;
	ds_real.cuCtxGetFlags(&of_primary.flags);
	ds_real.cuCtxGetCacheConfig(&of_primary.cache);
	of_new.cache = CU_FUNC_CACHE_PREFER_NONE;
	for (unsigned i = 0; i < CU_LIMIT_MAX; i++) {
		ds_real.cuCtxGetLimit(&of_primary.limits[i], (CUlimit)i);
		of_new.limits[i] = limits_set >> i & 1 ? first_limits[i] : of_primary.limits[i];
	}
}

CUresult ds_own_settings_init(struct ds_own *own, unsigned flags)
{
	CUresult result;

	pthread_mutex_lock(&lock);
	begin();
	result = share_flags(flags);
	own->settings = of_new;
	own->settings.flags = flags;
	pthread_mutex_unlock(&lock);
	return result;
}

/*
 * The settings of the current context, locked; NULL, and not locked: the driver has them. The program must
 * have loaded it.
 */
static struct ds_settings *current(void)
{
	const struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	struct ds_own *own = ds_own_current();

	pthread_mutex_lock(&lock);
	if (own)
		return &own->settings;
	if (several && vctx && ds_vctx_current(vctx))
		return &of_primary;
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void done(void)
{
	pthread_mutex_unlock(&lock);
}

CUresult ds_cuCtxGetFlags(unsigned int *flags)
{
	struct ds_settings *settings;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	settings = flags ? current() : NULL;
	if (!settings)
		return ds_real.cuCtxGetFlags(flags);
	*flags = settings->flags;
	done();
	return CUDA_SUCCESS;
}
DS_EXPORT(cuCtxGetFlags);

CUresult ds_cuCtxSetFlags(unsigned int flags)
{
	struct ds_settings *settings;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	settings = ds_own_flags_are_fine(flags) ? current() : NULL;
	if (!settings)
		return ds_real.cuCtxSetFlags(flags);
	result = settings == &of_primary ? ds_real.cuCtxSetFlags(flags) : share_flags(flags);
	if (result == CUDA_SUCCESS)
		settings->flags = flags;
	done();
	return result;
}
DS_EXPORT(cuCtxSetFlags);

CUresult ds_cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
	struct ds_settings *settings;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuCtxGetLimit(pvalue, limit);
	settings =
	    result == CUDA_SUCCESS && pvalue && (unsigned)limit < DS_LIMITS ? current() : NULL;
	if (!settings)
		return result;
	*pvalue = settings->limits[limit];
	done();
	return CUDA_SUCCESS;
}
DS_EXPORT(cuCtxGetLimit);

/* Under the lock. */
static CUresult set_limit(struct ds_settings *settings, CUlimit limit, size_t value)
{
	size_t now = 0;
	CUresult result = ds_real.cuCtxGetLimit(&now, limit);

	/* What the driver rounds, it rounds here, too, unless another context needs more. */
	if (result == CUDA_SUCCESS && value <= now)
		result = ds_memory_set_limit(limit, now);
	else
		result = ds_memory_set_limit(limit, value);
	if (result != CUDA_SUCCESS)
		return result;
	settings->limits[limit] = value;
	if (value > now)
		ds_real.cuCtxGetLimit(&settings->limits[limit], limit);
	return CUDA_SUCCESS;
}

CUresult ds_cuCtxSetLimit(CUlimit limit, size_t value)
{
	struct ds_settings *settings;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if ((unsigned)limit >= DS_LIMITS)
		return ds_memory_set_limit(limit, value);
	settings = current();
	if (settings) {
		result = set_limit(settings, limit, value);
		done();
		return result;
	}
	pthread_mutex_lock(&lock);
	if (!(limits_set >> limit & 1) &&
	    ds_real.cuCtxGetLimit(&first_limits[limit], limit) == CUDA_SUCCESS)
		limits_set |= 1U << limit;
	pthread_mutex_unlock(&lock);
	return ds_memory_set_limit(limit, value);
}
DS_EXPORT(cuCtxSetLimit);

CUresult ds_cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
	struct ds_settings *settings;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	settings = pconfig ? current() : NULL;
	if (!settings)
		return ds_real.cuCtxGetCacheConfig(pconfig);
	*pconfig = settings->cache;
	done();
	return CUDA_SUCCESS;
}
DS_EXPORT(cuCtxGetCacheConfig);

CUresult ds_cuCtxSetCacheConfig(CUfunc_cache config)
{
	struct ds_settings *settings;
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuCtxSetCacheConfig(config);
	settings = result == CUDA_SUCCESS ? current() : NULL;
	if (!settings)
		return result;
	settings->cache = config;
	done();
	return CUDA_SUCCESS;
}
DS_EXPORT(cuCtxSetCacheConfig);

/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/vctx.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "noderuntime/coroutine/acknowledger.h"
#include "noderuntime/coroutine/ahead.h"
#include "noderuntime/coroutine/demand.h"
#include "noderuntime/coroutine/hold.h"
#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/measure.h"
#include "noderuntime/coroutine/memory.h"
#include "noderuntime/coroutine/say.h"
#include "noderuntime/coroutine/session.h"
#include "noderuntime/coroutine/suspend.h"
#include "noderuntime/coroutine/vgraph.h"
#include "noderuntime/coroutine/whole.h"
#include "noderuntime/coroutine/whole_names.h"
#include "noderuntime/fault_codes.h"

enum {
	OLDEST_DRIVER = 12050, /* the first with streams in green contexts */
	GRANT_TIMEOUT_MS = 10000,
};

_Atomic(struct ds_vctx *) ds_vctx;

/* Where the process stands with its node runtime; decided once, at the first use of a device. */
enum standing {
	UNDECIDED,
	WELCOME, /* the session is open */
	ASIDE,   /* no partition: every call goes to the driver as it came */
	REFUSED, /* no partition, and the site wants one: no work */
};

static _Atomic(enum standing) standing;
static pthread_mutex_t decide_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ds_session session = {.fd = -1};
static struct ds_vctx the_vctx = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .publishing = PTHREAD_MUTEX_INITIALIZER,
    .moving = PTHREAD_MUTEX_INITIALIZER,
    .green_current = PTHREAD_MUTEX_INITIALIZER,
};

/*
 * The environment as the program was started with: what it does to its environment later (Python
 * programs clear theirs) must not let it out of its partition.
 */
static char port_path[PATH_MAX];
static bool partition_required, environment_read;

/* "EVERY[:SEED]": for tests, move every so many launches. */
static void read_chaos(const char *text)
{
	unsigned long every, seed = 1;
	char *end;

	if (!text || !*text)
		return;
	errno = 0;
	every = strtoul(text, &end, 10);
	if (*end == ':' && end[1])
		seed = strtoul(end + 1, &end, 10);
	if (errno || *end || *text < '0' || *text > '9' || !every || every > UINT_MAX) {
		fprintf(stderr,
			"detshare: DETSHARE_CHAOS=%s is ignored: it must be EVERY or EVERY:SEED, "
			"in launches\n",
			text);
		return;
	}
	the_vctx.chaos.every = (unsigned)every;
	the_vctx.chaos.random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

/* Started by the node runtime, a program must have its partition unless the site says otherwise. */
__attribute__((constructor)) static void read_environment(void)
{
	const char *path = getenv("DETSHARE_PORT");
	const char *required = getenv("DETSHARE_REQUIRED");

	environment_read = true;
	read_chaos(getenv("DETSHARE_CHAOS"));
	if (path)
		snprintf(port_path, sizeof(port_path), "%s", path);
	ds_whole_name(getenv("DETSHARE_WHOLE_GPU"));
	partition_required = required && *required ? strcmp(required, "0") != 0 : path && *path;
	/* Both cost nothing while the process has one thread, and many milliseconds once it has more. */
	if (path && *path) {
		ds_marks_prepare();
		ds_session_make_room();
	}
}

static void give_up(const char *reason)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;

	if (partition_required) {
		atomic_store_explicit(&standing, REFUSED, memory_order_release);
		ds_say_once(&said,
			    "this program may not use the GPU, because it has no partition of it: "
			    "%s (DETSHARE_REQUIRED=0 would let it run on the whole GPU)",
			    reason);
	} else {
		atomic_store_explicit(&standing, ASIDE, memory_order_release);
		ds_say_once(&said, "this program runs on the whole GPU, without a partition: %s",
			    reason);
	}
}

/*
 * CUDA does not survive a fork, so a child has nothing to move; and it must neither speak for its
 * parent nor keep the parent's connection open. Async-signal-safe.
 */
static void after_fork_in_child(void)
{
	pthread_mutex_init(&decide_lock, NULL);
	ds_acknowledger_forked();
	if (session.fd < 0)
		return;
	session.port = NULL; /* not inherited */
	session.page = NULL;
	session.book = NULL;
	ds_memory_forked();
	ds_session_close(&session);
	ds_hold_forget();
	ds_measure_forget();
	ds_whole_forget();
	atomic_store(&ds_vctx, NULL);
	atomic_store(&standing, ASIDE);
}

/* Those that the site names, beside the user's. */
static void name_site_kernels(void)
{
	char patterns[sizeof(session.page->whole_gpu_kernels)];

	memcpy(patterns, session.page->whole_gpu_kernels, sizeof(patterns));
	patterns[sizeof(patterns) - 1] = '\0';
	ds_whole_name(patterns);
}

/* Under decide_lock. */
static void decide(void)
{
	struct ds_error err = {""};
	int version = 0;

	/* Another library's constructor may use CUDA before ours has run. */
	if (!environment_read)
		read_environment();
	if (!*port_path) {
		if (partition_required)
			give_up("DETSHARE_PORT does not name the node runtime's port");
		else
			atomic_store_explicit(&standing, ASIDE, memory_order_release);
		return;
	}
	ds_real.cuDriverGetVersion(&version);
	if (version < OLDEST_DRIVER) {
		ds_fail(&err, "the driver speaks CUDA %d.%d, partitions need 12.5 or newer",
			version / 1000, version % 1000 / 10);
		give_up(err.text);
		return;
	}
	pthread_atfork(NULL, NULL, after_fork_in_child);
	if (ds_session_open(&session, port_path, &err) < 0) {
		give_up(err.text);
		return;
	}
	the_vctx.fixed = session.page->flags & DS_PAGE_FIXED;
	if (the_vctx.fixed)
		the_vctx.chaos.every = 0;
	name_site_kernels();
	ds_whole_start(&session);
	ds_hold_start(&session);
	if (the_vctx.fixed)
		ds_whole_refuse(true); /* it would have to move there */
	ds_memory_open(&session);
	atomic_store_explicit(&standing, WELCOME, memory_order_release);
	if (!the_vctx.fixed)
		ds_acknowledger_start(&session, &the_vctx);
}

/* Under decide_lock. Returns CUDA_SUCCESS with the standing WELCOME or ASIDE, or the refusal. */
static CUresult stand(void)
{
	if (atomic_load_explicit(&standing, memory_order_relaxed) == UNDECIDED)
		decide();
	return atomic_load_explicit(&standing, memory_order_relaxed) == REFUSED
		   ? CUDA_ERROR_NOT_PERMITTED
		   : CUDA_SUCCESS;
}

bool ds_vctx_is_device(CUdevice device, const char *gpu_uuid)
{
	const unsigned char *b;
	char text[48];
	CUuuid uuid;

	if (ds_real.cuDeviceGetUuid_v2(&uuid, device) != CUDA_SUCCESS)
		return false;
	b = (const unsigned char *)uuid.bytes;
	snprintf(text, sizeof(text),
		 "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
		 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
		 b[14], b[15]);
	return !strncmp(text, gpu_uuid, sizeof(text));
}

static bool is_allocated(CUdevice device)
{
	return ds_vctx_is_device(device, session.page->gpu_uuid);
}

const char *ds_vctx_port_path(void)
{
	return port_path;
}

static bool is_primary(CUcontext context, CUdevice device)
{
	CUcontext primary = NULL;
	unsigned flags;
	int active = 0;

	/* Not by retaining it when inactive: that would make one. */
	if (ds_real.cuDevicePrimaryCtxGetState(device, &flags, &active) != CUDA_SUCCESS || !active)
		return false;
	if (ds_real.cuDevicePrimaryCtxRetain(&primary, device) != CUDA_SUCCESS)
		return false;
	ds_real.cuDevicePrimaryCtxRelease_v2(device);
	return primary == context;
}

/*
 * Under decide_lock, with `moving` locked. Returns 0, -1, or 1: nothing is granted just now, which
 * cannot be waited for here, since the page could not be followed meanwhile.
 */
static int set_up(struct ds_vctx *vctx, CUdevice device, CUcontext primary, struct ds_error *err)
{
	struct ds_granted granted;
	struct ds_groups granted_or_pinned;
	CUresult result;

	if (!ds_session_look(&session, &granted) || !ds_session_may_begin(&granted))
		return 1;
	/* Who is not moved has what it said first, also after a reset. */
	if (vctx->fixed && !ds_groups_empty(&session.in_use))
		granted.groups = session.in_use;
	granted_or_pinned = ds_groups_union(granted.groups, vctx->green_pinned);
	ds_session_use(&session, &granted_or_pinned);
	vctx->device = device;
	vctx->primary = primary;
	vctx->generation++;
	vctx->launches = &session.port->launches;
	vctx->remaps = &session.port->remaps;
	vctx->pinned_graphs = &session.port->pinned_graphs;
	vctx->null_recorded = 0;
	atomic_store(&vctx->null_work, 0);
	atomic_store(&vctx->any_dirty, DS_CLEAN);
	atomic_store(&vctx->captures, 0);
	if (ds_remap_init(vctx, &granted.shape, &granted.groups, err) < 0)
		goto fail;
	result = ds_streams_init(vctx);
	if (result != CUDA_SUCCESS) {
		ds_fail(err, "cannot make a stream in the partition: %s", ds_cuda_error(result));
		goto fail;
	}
	ds_chaos_choose(vctx, ds_remap_target(vctx));
	ds_suspend_end(vctx);
	ds_measure_start(session.port, primary, vctx->fixed ? 0 : granted.sample_launches);
	ds_ahead_start(&session, primary);
	ds_watchdog_start(&session, vctx->fixed ? 0 : granted.overlong_ms);
	ds_ahead_window(vctx, granted.flags & DS_PAGE_WINDOW, granted.window_us);
	ds_demand_tell(vctx, granted.flags & DS_PAGE_TELL_IDLE);
	ds_session_acknowledge(&session, &granted);
	atomic_store_explicit(&ds_vctx, vctx, memory_order_release);
	ds_demand_begin(vctx);
	if (ds_session_epoch(&session) != granted.epoch)
		ds_acknowledger_look();
	else
		ds_acknowledger_watch();
	return 0;
fail:
	ds_streams_drop(vctx);
	ds_remap_drop(vctx);
	ds_session_use(&session, &(struct ds_groups){{0}});
	return -1;
}

static void wait_to_begin(bool waits)
{
	pthread_mutex_lock(&the_vctx.moving);
	ds_demand_wait(waits);
	pthread_mutex_unlock(&the_vctx.moving);
}

/* Under decide_lock, with the allocation's standing WELCOME and `current` the current context. */
static CUresult first_use(CUcontext current)
{
	struct ds_error err = {""};
	CUdevice device;
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	int rc;

	if (ds_real.cuCtxGetDevice(&device) != CUDA_SUCCESS || !is_allocated(device) ||
	    !is_primary(current, device))
		return CUDA_SUCCESS;
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	wait_to_begin(
	    true); /* others may have their turn first, as long as nobody here wants one */
	do {
		struct ds_granted granted;

		rc = ds_session_granted(&session, GRANT_TIMEOUT_MS, &granted, &err);
		if (rc < 0)
			break;
		pthread_mutex_lock(&the_vctx.moving);
		rc = set_up(&the_vctx, device, current, &err);
		pthread_mutex_unlock(&the_vctx.moving);
	} while (rc > 0);
	wait_to_begin(false);
	ds_real.cuThreadExchangeStreamCaptureMode(&mode);
	if (rc == 0)
		return CUDA_SUCCESS;
	give_up(err.text);
	return stand();
}

CUresult ds_vctx_enter(struct ds_vctx **vctx)
{
	const enum standing now = atomic_load_explicit(&standing, memory_order_acquire);
	CUcontext current = NULL;
	CUresult result;

	*vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	if (*vctx)
		return CUDA_SUCCESS;
	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	if (now == ASIDE)
		return CUDA_SUCCESS;
	if (now == REFUSED)
		return CUDA_ERROR_NOT_PERMITTED;
	if (ds_real.cuCtxGetCurrent(&current) != CUDA_SUCCESS || !current)
		return CUDA_SUCCESS; /* whatever the call is, the driver knows its error */
	pthread_mutex_lock(&decide_lock);
	result = stand();
	if (result == CUDA_SUCCESS && !atomic_load_explicit(&ds_vctx, memory_order_relaxed) &&
	    atomic_load_explicit(&standing, memory_order_relaxed) == WELCOME)
		result = first_use(current);
	*vctx = atomic_load_explicit(&ds_vctx, memory_order_relaxed);
	pthread_mutex_unlock(&decide_lock);
	return result;
}

CUresult ds_vctx_admits(void)
{
	CUresult result;

	pthread_mutex_lock(&decide_lock);
	result = stand();
	pthread_mutex_unlock(&decide_lock);
	return result;
}

CUresult ds_vctx_enter_device(CUdevice device, struct ds_vctx **vctx)
{
	CUcontext primary, popped;
	CUresult result = ds_vctx_admits();

	*vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	if (result != CUDA_SUCCESS ||
	    atomic_load_explicit(&standing, memory_order_acquire) != WELCOME ||
	    !is_allocated(device)) {
		*vctx = NULL;
		return result;
	}
	if (*vctx)
		return CUDA_SUCCESS;
	result = ds_real.cuDevicePrimaryCtxRetain(&primary, device);
	if (result != CUDA_SUCCESS)
		return result;
	result = ds_real.cuCtxPushCurrent_v2(primary);
	if (result == CUDA_SUCCESS) {
		result = ds_vctx_enter(vctx);
		ds_real.cuCtxPopCurrent_v2(&popped);
	}
	ds_real.cuDevicePrimaryCtxRelease_v2(device);
	return result;
}

unsigned ds_vctx_may_pin(void)
{
	const struct ds_page *page = session.page;
	unsigned most;

	if (!(page->flags & DS_PAGE_WINDOW))
		return UINT_MAX;
	/* Some are lent, and must go back when they are wanted. */
	most = page->share_milli * page->shape.n_groups / 1000;
	return most ? most : 1;
}

void ds_vctx_count_own(void)
{
	atomic_fetch_add_explicit(&session.port->own_contexts, 1, memory_order_relaxed);
}

void ds_vctx_drop(CUdevice device)
{
	struct ds_vctx *vctx;

	pthread_mutex_lock(&decide_lock);
	vctx = atomic_load_explicit(&ds_vctx, memory_order_relaxed);
	if (vctx && vctx->device == device) {
		pthread_mutex_lock(&vctx->moving);
		atomic_store_explicit(&ds_vctx, NULL, memory_order_release);
		ds_measure_drop();
		ds_ahead_drop();
		ds_vgraph_drop();
		ds_whole_drop();
		ds_streams_drop(vctx);
		ds_remap_drop(vctx);
		ds_acknowledger_resetting(true);
		pthread_mutex_unlock(&vctx->moving);
	}
	pthread_mutex_unlock(&decide_lock);
}

void ds_vctx_dropped(void)
{
	ds_memory_dropped();
	pthread_mutex_lock(&the_vctx.moving);
	ds_acknowledger_resetting(false);
	pthread_mutex_unlock(&the_vctx.moving);
	ds_acknowledger_look();
}

/* Those after which a context is lost: the list is the node runtime's (noderuntime/faults.c). */
void ds_vctx_failed(CUresult result)
{
	struct ds_port *port = session.port;
	struct timespec now;
	uint32_t none = 0;

	if (!port || result == CUDA_ERROR_NOT_READY)
		return;
	if (atomic_load_explicit(&port->fault, memory_order_relaxed) ||
	    !ds_fault_is_fatal((uint32_t)result))
		return;
	clock_gettime(CLOCK_BOOTTIME, &now);
	atomic_store(&port->fault_ns, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	if (atomic_compare_exchange_strong(&port->fault, &none, (uint32_t)result))
		ds_session_notify_demand(&session);
}

void ds_vctx_too_large(void)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;

	atomic_fetch_add_explicit(&session.port->cooperative_too_large, 1, memory_order_relaxed);
	ds_say_once(&said,
		    "a cooperative launch failed: its grid needs more SMs than this program's "
		    "partition has, and the GPU was not to be had as a whole (detshare status "
		    "says who holds it); ask for a larger share");
}

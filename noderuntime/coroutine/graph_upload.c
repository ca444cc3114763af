/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/vgraph.h"

/*
 * The first launch of an executable brings its data to the GPU. So that it need not, who makes one ahead
 * of need has it uploaded, on a stream of our own, and sees the upload end: a launch that waited for it on the
 * GPU could wait for whatever shares a queue with that stream.
 */
enum {
	FIRST_NAP_US = 20,
	LONGEST_NAP_US = 200,
	PATIENCE_US = 2000,
};

static pthread_mutex_t uploading = PTHREAD_MUTEX_INITIALIZER;

/* Nothing runs on its SMs, but it is found by the drain like any other. Under the lock. */
static CUstream stream_in(struct ds_pctx *pctx)
{
	CUstream stream = atomic_load_explicit(&pctx->uploads, memory_order_relaxed);

	if (!stream && ds_real.cuGreenCtxStreamCreate(&stream, pctx->green, CU_STREAM_NON_BLOCKING,
						      0) == CUDA_SUCCESS)
		atomic_store_explicit(&pctx->uploads, stream, memory_order_release);
	return stream;
}

static bool ends(CUstream stream)
{
	unsigned nap_us = FIRST_NAP_US;

	for (unsigned waited_us = 0; ds_real.cuStreamQuery(stream) == CUDA_ERROR_NOT_READY;
	     waited_us += nap_us) {
		const struct timespec nap = {.tv_nsec = nap_us * 1000L};

		if (waited_us > PATIENCE_US)
			return false;
		nanosleep(&nap, NULL);
		nap_us = nap_us * 2 < LONGEST_NAP_US ? nap_us * 2 : LONGEST_NAP_US;
	}
	return true;
}

bool ds_graph_upload(struct ds_pctx *pctx, CUgraphExec exec)
{
	CUstream stream;
	bool ended = true;

	/* Whoever is at it may have to wait: then the launch does it, as alone. */
	if (pthread_mutex_trylock(&uploading) != 0)
		return true;
	stream = stream_in(pctx);
	if (stream && ds_real.cuStreamQuery(stream) == CUDA_SUCCESS &&
	    ds_real.cuGraphUpload(exec, stream) == CUDA_SUCCESS)
		ended = ends(stream);
	pthread_mutex_unlock(&uploading);
	return ended;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/target.h"

#include <pthread.h>
#include <stdatomic.h>

#include "noderuntime/coroutine/remap.h"
#include "noderuntime/coroutine/say.h"
#include "noderuntime/coroutine/suspend.h"
#include "noderuntime/coroutine/vgraph.h"

enum { GRAPHS_US = 5000 }; /* to make graphs ready for a new partition; the others are made later */

/* A stream that has no shadow in `pctx` yet, kept from being freed; NULL: all have one. */
static struct ds_vstream *next_unprepared(struct ds_vctx *vctx, const struct ds_pctx *pctx)
{
	struct ds_vstream *stream;

	pthread_mutex_lock(&vctx->lock);
	for (stream = vctx->all; stream; stream = stream->all_next) {
		bool unprepared;

		pthread_mutex_lock(&stream->lock);
		unprepared = !stream->shadows[pctx->slot];
		pthread_mutex_unlock(&stream->lock);
		if (unprepared)
			break;
	}
	if (stream)
		stream->users++;
	pthread_mutex_unlock(&vctx->lock);
	return stream;
}

/* So that no launching thread has to make what it moves to. */
static CUresult prepare_streams(struct ds_vctx *vctx, struct ds_pctx *pctx)
{
	CUresult result = CUDA_SUCCESS;
	struct ds_vstream *stream;

	while (result == CUDA_SUCCESS && (stream = next_unprepared(vctx, pctx))) {
		result = ds_remap_prepare(stream, pctx);
		pthread_mutex_lock(&vctx->lock);
		stream->users--;
		pthread_mutex_unlock(&vctx->lock);
	}
	return result;
}

bool ds_target_move(struct ds_vctx *vctx, const struct ds_granted *granted)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;
	const bool whole = granted->flags & DS_PAGE_WHOLE;
	struct ds_error err = {""};
	struct ds_pctx *pctx = ds_remap_make(vctx, &granted->groups, &err);
	CUresult result;

	if (!pctx) {
		ds_say_once(&said, "this program stays in the partition it has: %s", err.text);
		return false;
	}
	result = prepare_streams(vctx, pctx);
	if (result != CUDA_SUCCESS) {
		ds_say_once(&said,
			    "this program stays in the partition it has: cannot make its "
			    "streams in another one: %s",
			    ds_cuda_error(result));
		return false;
	}
	if (whole)
		ds_chaos_rest(vctx);
	else
		ds_chaos_choose(vctx, pctx);
	if (ds_remap_target(vctx) != pctx) {
		/* Others wait while it has the whole GPU, and graphs run in a part of it as well. */
		if (!whole)
			ds_vgraph_make_ready(pctx, GRAPHS_US);
		ds_remap_publish(vctx, pctx);
	}
	ds_suspend_end(vctx);
	return true;
}

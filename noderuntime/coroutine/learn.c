/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/learn.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "noderuntime/coroutine/remap.h"

enum {
	KNOWN = 1024,
	EVERY = 2, /* launches, of which one is measured */
};

static struct {
	struct ds_session *session; /* NULL: nothing is learnt */
	atomic_bool often;
	_Atomic uint64_t saturating[KNOWN]; /* keys, each at its place; 0: none */
} the;

/* FNV-1a. */
static uint64_t mixed(uint64_t key, const void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		key = (key ^ ((const unsigned char *)bytes)[i]) * UINT64_C(0x100000001b3);
	return key;
}

static uint64_t key_of(const char *name, uint64_t blocks, uint64_t threads)
{
	uint64_t key = mixed(UINT64_C(0xcbf29ce484222325), name, strlen(name));

	key = mixed(key, &blocks, sizeof(blocks));
	key = mixed(key, &threads, sizeof(threads));
	return key ? key : 1;
}

static _Atomic uint64_t *place_of(uint64_t key)
{
	return &the.saturating[(key >> 32) % KNOWN];
}

void ds_learn_start(struct ds_session *session)
{
	the.session = session;
}

void ds_learn_forget(void)
{
	the.session = NULL;
	atomic_store(&the.often, false);
}

void ds_learn_often(bool often)
{
	atomic_store_explicit(&the.often, often, memory_order_relaxed);
}

bool ds_learn_draws(void)
{
	static _Thread_local uint32_t random;

	if (!atomic_load_explicit(&the.often, memory_order_relaxed))
		return false;
	/* Not in step with a program that launches in a rhythm. */
	random = random * 1664525 + 1013904223;
	return (random >> 16) % EVERY == 0;
}

struct ds_lesson ds_learn_begin(const char *name, uint64_t blocks, uint64_t threads)
{
	const struct ds_vctx *vctx = atomic_load_explicit(&ds_vctx, memory_order_acquire);
	struct ds_lesson lesson = {.blocks = blocks, .threads = threads};

	if (!the.session || !vctx || !name)
		return lesson;
	lesson.step =
	    atomic_load_explicit(&the.session->page->neighbours_step, memory_order_relaxed);
	if (lesson.step & 1)
		return lesson;
	lesson.key = key_of(name, blocks, threads);
	lesson.sms = ds_groups_sms(&ds_remap_target(vctx)->groups, &vctx->shape);
	return lesson;
}

/* The port has room for some: those that are bound by memory come first. */
static void report(const struct ds_lesson *lesson, const struct ds_bound *bound, const char *name)
{
	struct ds_port_kernel *kernels = the.session->port->kernels, *room = NULL;

	for (unsigned i = 0; i < DS_PORT_KERNELS; i++) {
		if (kernels[i].key == lesson->key) {
			room = &kernels[i];
			break;
		}
		if (!room && (!kernels[i].key || (bound->by == DS_BOUND_BY_MEMORY &&
						  kernels[i].by != DS_BOUND_BY_MEMORY)))
			room = &kernels[i];
	}
	if (!room)
		return;
	if (room->key != lesson->key) {
		snprintf(room->name, sizeof(room->name), "%s", name);
		room->key = lesson->key;
		room->blocks = lesson->blocks;
		room->threads = (uint32_t)lesson->threads;
	}
	room->gain_milli = bound->gain_milli;
	room->by = bound->by;
}

void ds_learn_end(const struct ds_lesson *lesson, struct ds_bound *bound, const char *name,
		  uint64_t ns)
{
	_Atomic uint64_t *place = place_of(lesson->key);
	uint64_t key = lesson->key;
	enum ds_bound_by by;

	if (!the.session || !lesson->sms ||
	    atomic_load_explicit(&the.session->page->neighbours_step, memory_order_relaxed) !=
		lesson->step)
		return;
	by = ds_bound_add(bound, lesson->sms, lesson->blocks * lesson->threads, ns);
	if (by == DS_BOUND_BY_MEMORY)
		atomic_store_explicit(place, key, memory_order_relaxed);
	else
		atomic_compare_exchange_strong(place, &key, 0);
	if (by != DS_BOUND_UNKNOWN)
		report(lesson, bound, name);
}

bool ds_learn_saturates(const char *name, uint64_t blocks, uint64_t threads)
{
	const uint64_t key = key_of(name, blocks, threads);

	return atomic_load_explicit(place_of(key), memory_order_relaxed) == key;
}

static unsigned full_groups(struct ds_groups groups, const struct ds_gpu_shape *shape)
{
	ds_groups_remove(&groups, shape->n_groups);
	return ds_groups_count(&groups);
}

const struct ds_pctx *ds_learn_part(struct ds_vctx *vctx, const struct ds_groups *granted)
{
	const unsigned least = vctx->shape.n_groups * the.session->page->share_milli / 1000;
	const unsigned all = ds_groups_sms(granted, &vctx->shape);
	const struct ds_pctx *found = NULL;
	unsigned most = 0;

	for (unsigned slot = 0; slot < DS_PCTX_MAX; slot++) {
		const struct ds_pctx *pctx = ds_remap_slot(vctx, slot);
		const unsigned sms = pctx ? ds_groups_sms(&pctx->groups, &vctx->shape) : 0;

		if (sms <= most || 3 * sms > 2 * all || !ds_groups_within(&pctx->groups, granted) ||
		    full_groups(pctx->groups, &vctx->shape) < (least ? least : 1))
			continue;
		most = sms;
		found = pctx;
	}
	return found;
}

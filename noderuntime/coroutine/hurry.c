/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/hurry.h"

#include <stdatomic.h>

#include "common/clock.h"
#include "common/spin.h"

static struct {
	const struct ds_session *session; /* NULL: of one that is not moved */
	/* Epochs; the latter was waited for in vain. */
	_Atomic uint64_t followed, given_up;
} the;

void ds_hurry_start(const struct ds_session *session)
{
	the.session = session;
}

void ds_hurry_followed(uint64_t epoch)
{
	atomic_store_explicit(&the.followed, epoch, memory_order_release);
}

bool ds_hurry_is_asked(void)
{
	const struct ds_page *page = the.session ? the.session->page : NULL;
	uint64_t epoch;

	if (!page)
		return false;
	epoch = ds_session_epoch(the.session);
	return !(epoch & 1) && epoch != atomic_load_explicit(&the.followed, memory_order_acquire) &&
	       epoch != atomic_load_explicit(&the.given_up, memory_order_relaxed) &&
	       __atomic_load_n(&page->spin_us, __ATOMIC_RELAXED) &&
	       !__atomic_load_n(&page->unawaited, __ATOMIC_RELAXED);
}

void ds_hurry_wait(void)
{
	const struct ds_page *page = the.session->page;
	const uint64_t epoch = ds_session_epoch(the.session);
	struct ds_spin spin = {.until_ns = 0};

	if (ds_spin_has_cpus(page->spin_cpus))
		ds_spin_begin(&spin, ds_now_ns(CLOCK_MONOTONIC),
			      __atomic_load_n(&page->spin_us, __ATOMIC_RELAXED));
	while (ds_hurry_is_asked() && ds_spin_wait(&spin))
		;
	if (ds_hurry_is_asked())
		atomic_store_explicit(&the.given_up, epoch, memory_order_relaxed);
}

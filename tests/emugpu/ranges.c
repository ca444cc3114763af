/* SPDX-License-Identifier: Apache-2.0 */
/* The addresses that the driver knows: device memory, host memory of the driver, and what was registered. */
#include "tests/emugpu/ranges.h"

#include <stdlib.h>
#include <string.h>

static struct {
	struct emu_range *all; /* by base */
	size_t n, room;
	unsigned long long last_id;
	pthread_mutex_t
	    mutex; /* kernels look here while others change it; taken inside emu.mutex */
} ranges = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* The last range that begins at or below the address, or -1. */
static ptrdiff_t find(uintptr_t address)
{
	size_t low = 0, high = ranges.n;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (ranges.all[mid].base <= address)
			low = mid + 1;
		else
			high = mid;
	}
	return (ptrdiff_t)low - 1;
}

bool emu_range_find(uintptr_t address, size_t bytes, struct emu_range *found)
{
	bool ok = false;
	ptrdiff_t i;

	pthread_mutex_lock(&ranges.mutex);
	i = find(address);
	if (i >= 0) {
		*found = ranges.all[i];
		ok = address - found->base < found->bytes &&
		     bytes <= found->bytes - (address - found->base);
	}
	pthread_mutex_unlock(&ranges.mutex);
	return ok;
}

bool emu_is_range(const void *p, size_t bytes, bool must_be_device)
{
	struct emu_range r;

	return emu_range_find((uintptr_t)p, bytes, &r) &&
	       (!must_be_device || r.kind == EMU_RANGE_DEVICE);
}

bool emu_range_add(struct emu_range range)
{
	pthread_mutex_lock(&ranges.mutex);
	if (ranges.n == ranges.room) {
		size_t room = ranges.room ? ranges.room * 2 : 64;
		struct emu_range *more = realloc(ranges.all, room * sizeof(*more));
		if (!more) {
			pthread_mutex_unlock(&ranges.mutex);
			return false;
		}
		ranges.all = more;
		ranges.room = room;
	}
	range.id = ++ranges.last_id;
	size_t i = (size_t)(find(range.base) + 1);
	memmove(&ranges.all[i + 1], &ranges.all[i], (ranges.n - i) * sizeof(range));
	ranges.all[i] = range;
	ranges.n++;
	pthread_mutex_unlock(&ranges.mutex);
	return true;
}

bool emu_range_take(uintptr_t base, enum emu_range_kind kind, struct emu_range *taken)
{
	bool ok = false;

	pthread_mutex_lock(&ranges.mutex);
	ptrdiff_t i = find(base);
	if (i >= 0 && ranges.all[i].base == base && ranges.all[i].kind == kind) {
		ok = true;
		*taken = ranges.all[i];
		ranges.n--;
		memmove(&ranges.all[i], &ranges.all[i + 1],
			(ranges.n - (size_t)i) * sizeof(*taken));
	}
	pthread_mutex_unlock(&ranges.mutex);
	return ok;
}

bool emu_range_of(const struct CUctx_st *root, struct emu_range *found)
{
	bool any = false;

	pthread_mutex_lock(&ranges.mutex);
	for (size_t i = 0; i < ranges.n && !any; i++) {
		any = ranges.all[i].root == root;
		if (any)
			*found = ranges.all[i];
	}
	pthread_mutex_unlock(&ranges.mutex);
	return any;
}

int emu_device_may_touch(const void *address, size_t bytes)
{
	struct emu_range r;

	return emu_range_find((uintptr_t)address, bytes, &r);
}

bool emu_memory_add_mapping(struct emu_device *dev, void *address, size_t bytes)
{
	return emu_range_add((struct emu_range){
	    .base = (uintptr_t)address, .bytes = bytes, .kind = EMU_RANGE_MAPPED, .dev = dev});
}

bool emu_memory_remove_mapping(void *address)
{
	struct emu_range r;

	return emu_range_take((uintptr_t)address, EMU_RANGE_MAPPED, &r);
}

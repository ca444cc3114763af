/* SPDX-License-Identifier: Apache-2.0 */
/* What a program passes in is looked up here before it is followed: an open-addressing set of pointers. */
#include "tests/emugpu/engine.h"

#include <stdlib.h>

static struct {
	const void **keys;
	unsigned char *kinds; /* EMU_HANDLE_FREE with a key: removed */
	size_t size, used;
} handles;

static size_t handle_slot(const void *key)
{
	size_t i =
	    (size_t)(((uintptr_t)key >> 4) * UINT64_C(0x9e3779b97f4a7c15)) & (handles.size - 1);

	while (handles.keys[i] && handles.keys[i] != key)
		i = (i + 1) & (handles.size - 1);
	return i;
}

static void handles_grow(void)
{
	const void **keys = handles.keys;
	unsigned char *kinds = handles.kinds;
	size_t size = handles.size;

	handles.size = size ? size * 2 : 256;
	handles.keys = calloc(handles.size, sizeof(*handles.keys));
	handles.kinds = calloc(handles.size, sizeof(*handles.kinds));
	if (!handles.keys || !handles.kinds)
		abort();
	handles.used = 0;
	for (size_t i = 0; i < size; i++)
		if (keys[i] && kinds[i] != EMU_HANDLE_FREE)
			emu_handle_add(keys[i], (enum emu_kind)kinds[i]);
	free(keys);
	free(kinds);
}

void emu_handle_add(const void *handle, enum emu_kind kind)
{
	if (handles.used * 2 >= handles.size)
		handles_grow();
	size_t i = handle_slot(handle);
	if (!handles.keys[i])
		handles.used++;
	handles.keys[i] = handle;
	handles.kinds[i] = (unsigned char)kind;
}

void emu_handle_remove(const void *handle)
{
	size_t i = handle_slot(handle);

	if (handles.keys[i])
		handles.kinds[i] = EMU_HANDLE_FREE;
}

bool emu_handle_is(const void *handle, enum emu_kind kind)
{
	if (!handle || !handles.size)
		return false;
	size_t i = handle_slot(handle);
	return handles.keys[i] && handles.kinds[i] == (unsigned char)kind;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What operations do to memory. */
#include "tests/emugpu/op.h"

#include <string.h>

static uint64_t read_value(const struct emu_op *op)
{
	if (op->work.u.value.size == 8)
		return __atomic_load_n((uint64_t *)op->work.u.value.address, __ATOMIC_SEQ_CST);
	return __atomic_load_n((uint32_t *)op->work.u.value.address, __ATOMIC_SEQ_CST);
}

bool emu_value_arrived(const struct emu_op *op)
{
	uint64_t have = read_value(op), want = op->work.u.value.value;

	switch (op->work.u.value.flags & 3) {
	case CU_STREAM_WAIT_VALUE_GEQ:
		return op->work.u.value.size == 8 ? (int64_t)(have - want) >= 0
						  : (int32_t)(uint32_t)(have - want) >= 0;
	case CU_STREAM_WAIT_VALUE_EQ:
		return have == want;
	case CU_STREAM_WAIT_VALUE_AND:
		return (have & want) != 0;
	default:
		return (op->work.u.value.size == 8 ? ~(have | want) : (uint32_t) ~(have | want)) !=
		       0;
	}
}

void emu_write_value(const struct emu_op *op)
{
	if (op->work.u.value.size == 8)
		__atomic_store_n((uint64_t *)op->work.u.value.address, op->work.u.value.value,
				 __ATOMIC_SEQ_CST);
	else
		__atomic_store_n((uint32_t *)op->work.u.value.address,
				 (uint32_t)op->work.u.value.value, __ATOMIC_SEQ_CST);
}

void emu_move_bytes(const struct emu_copy *c)
{
	for (size_t z = 0; z < c->depth; z++)
		for (size_t y = 0; y < c->height; y++)
			memmove(c->to + z * c->to_slice + y * c->to_pitch,
				c->from + z * c->from_slice + y * c->from_pitch, c->width);
}

void emu_fill(const struct emu_op *op)
{
	unsigned char *row = op->work.u.set.to;

	for (size_t y = 0; y < op->work.u.set.height; y++, row += op->work.u.set.pitch) {
		if (op->work.u.set.size == 1) {
			memset(row, (int)op->work.u.set.value, op->work.u.set.width);
			continue;
		}
		for (size_t x = 0; x < op->work.u.set.width; x++)
			memcpy(row + x * op->work.u.set.size, &op->work.u.set.value,
			       op->work.u.set.size);
	}
}

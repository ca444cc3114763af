/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/ledger_image.h"

static int all_live(const struct ds_ledger_state *state, const struct ds_process *process,
		    void *arg)
{
	return 1;
}

static int none_stopped(const struct ds_process *process)
{
	return 0;
}

/* The last two share a group in time. */
static void add_residents(struct ds_ledger_state *state)
{
	for (int i = 0; i < 4; i++) {
		struct ds_ledger_resident r = {.runtime = {.pid = 1}};
		struct ds_process process = {.pid = 10 + i, .start_ticks = 1};

		memcpy(r.name, "job-0", 6);
		r.name[4] = (char)('0' + i);
		memcpy(r.grant.class_name, "latency", 8);
		r.grant.share_milli = i < 2 ? 300 : 20;
		r.demand.active = 1;
		if (ds_ledger_join(state, &r, NULL) ||
		    ds_ledger_settle(state, all_live, NULL, NULL, NULL) ||
		    ds_ledger_add_program(state, r.name, &process, &state->residents[i].held, NULL))
			abort();
	}
	ds_turns_step(state, 1000, all_live, NULL, none_stopped);
}

/* What loads must be usable: every resident can be found, settled and stored again. */
static void use(struct ds_ledger_image *image, size_t size)
{
	static struct ds_ledger_state state;
	static struct ds_ledger_state again;

	if (ds_ledger_image_load(image, size, "boot", &state, NULL) != DS_LEDGER_VALID)
		return;
	for (uint32_t i = 0; i < state.n_residents; i++) {
		if (!ds_ledger_find(&state, state.residents[i].name))
			abort();
	}
	if (ds_ledger_settle(&state, all_live, NULL, NULL, NULL))
		return;
	ds_turns_step(&state, 2000, all_live, NULL, none_stopped);
	ds_turns_step(&state, UINT64_MAX / 2, all_live, NULL, none_stopped);
	state.generation++;
	ds_ledger_image_store(image, &state);
	image->words[DS_LEDGER_ACTIVE_OFFSET / 8] = state.generation;
	if (ds_ledger_image_load(image, sizeof(*image), "boot", &again, NULL) != DS_LEDGER_VALID ||
	    memcmp(&state, &again, sizeof(state)) != 0)
		abort();
}

/*
 * The input says how a good file is spoilt: first byte: cut it to so many 256ths (255: whole) and
 * whether the checksum is made to fit again (odd), then pieces of three bytes, offset and value.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct ds_gpu_shape shape = {.n_groups = 15, .group_sms = 8, .rest_sms = 12};
	static struct ds_ledger_image image;
	static struct ds_ledger_state state;

	ds_ledger_image_init(&image, "boot", "GPU-1", &shape);
	memcpy(&state, &image.copies[0].state, sizeof(state));
	add_residents(&state);
	ds_ledger_image_store(&image, &state);
	use(&image, sizeof(image));

	ds_ledger_image_init(&image, "boot", "GPU-1", &shape);
	ds_ledger_image_store(&image, &state);
	size_t cut = size && data[0] < 254 ? sizeof(image) * data[0] / 256 : sizeof(image);
	for (size_t i = 1; i + 2 < size; i += 3) {
		size_t offset = data[i] | (size_t)data[i + 1] << 8;

		((unsigned char *)&image)[offset % sizeof(image)] = data[i + 2];
	}
	if (size && data[0] % 2) {
		memcpy(&state, &image.copies[0].state, sizeof(state));
		state.generation = 0;
		ds_ledger_image_store(&image, &state);
	}
	use(&image, cut);

	/* And the input as the file itself. */
	memset(&image, 0, sizeof(image));
	memcpy(&image, data, size < sizeof(image) ? size : sizeof(image));
	use(&image, size < sizeof(image) ? size : sizeof(image));
	return 0;
}

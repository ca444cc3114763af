/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/ledger_image.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define MAGIC UINT64_C(0x353052474c445344) /* "DSDLGR05" */
enum { MAGIC_NAME_SIZE = 6 };              /* the rest says which */

_Static_assert(sizeof(struct ds_ledger_header) <= DS_LEDGER_ACTIVE_OFFSET, "the header fits");
_Static_assert(offsetof(struct ds_ledger_state, residents) % 8 == 0 &&
		   sizeof(struct ds_ledger_resident) % 8 == 0 &&
		   sizeof(struct ds_ledger_program) % 8 == 0,
	       "the checksum goes by words");

/* No padding (see ledger.h): each structure is as large as its members together. */
_Static_assert(sizeof(struct ds_process) == 2 * 4 + 8, "ds_process");
_Static_assert(sizeof(struct ds_grant) == DS_CLASS_NAME_SIZE + 8 * 4 + 17 + 7, "ds_grant");
_Static_assert(sizeof(struct ds_demand) == 6 * 4, "ds_demand");
_Static_assert(sizeof(struct ds_policy_id) == DS_POLICY_NAME_SIZE + 8 + 2 * 4, "ds_policy_id");
_Static_assert(sizeof(struct ds_whole_asking) == 4 * 8 + 6 * 4, "ds_whole_asking");
_Static_assert(sizeof(struct ds_turn) == 6 * 4 + 3 * 8, "ds_turn");
_Static_assert(sizeof(struct ds_whole_window) == DS_NAME_SIZE + 2 * 4 + 3 * 8, "ds_whole_window");
_Static_assert(sizeof(struct ds_ledger_resident) ==
		   DS_NAME_SIZE + 8 * 4 + sizeof(struct ds_grant) + sizeof(struct ds_process) +
		       3 * 8 + 3 * sizeof(struct ds_groups) + sizeof(struct ds_demand) +
		       sizeof(struct ds_whole_asking) + sizeof(struct ds_turn) +
		       sizeof(struct ds_policy_id),
	       "ds_ledger_resident");
_Static_assert(sizeof(struct ds_ledger_program) ==
		   DS_NAME_SIZE + sizeof(struct ds_process) + sizeof(struct ds_groups) + 4 * 4,
	       "ds_ledger_program");
_Static_assert(offsetof(struct ds_ledger_state, residents) ==
		   48 + sizeof(struct ds_gpu_shape) + 4 + 2 * 8 + sizeof(struct ds_whole_window) +
		       2 * 4,
	       "ds_ledger_state");

int ds_ledger_parts(const struct ds_ledger_state *state,
		    struct ds_ledger_part parts[DS_LEDGER_PARTS])
{
	if (state->n_residents > DS_RESIDENTS_MAX || state->n_programs > DS_PROGRAMS_MAX)
		return -1;
	parts[0] = (struct ds_ledger_part){0, offsetof(struct ds_ledger_state, residents) +
						  state->n_residents * sizeof(state->residents[0])};
	parts[1] = (struct ds_ledger_part){offsetof(struct ds_ledger_state, programs),
					   state->n_programs * sizeof(state->programs[0])};
	return 0;
}

bool ds_ledger_same(const struct ds_ledger_state *a, const struct ds_ledger_state *b)
{
	struct ds_ledger_part parts[DS_LEDGER_PARTS];

	if (a->n_residents != b->n_residents || a->n_programs != b->n_programs ||
	    ds_ledger_parts(a, parts) < 0)
		return false;
	for (int i = 0; i < DS_LEDGER_PARTS; i++) {
		if (memcmp((const char *)a + parts[i].offset, (const char *)b + parts[i].offset,
			   parts[i].size) != 0)
			return false;
	}
	return true;
}

/* FNV-1a by words of 8 bytes, with a fold: one changed word always changes the sum. */
static uint64_t checksum(const struct ds_ledger_state *state,
			 const struct ds_ledger_part parts[DS_LEDGER_PARTS])
{
	uint64_t sum = UINT64_C(0xcbf29ce484222325);

	for (int part = 0; part < DS_LEDGER_PARTS; part++) {
		const unsigned char *bytes = (const unsigned char *)state + parts[part].offset;

		for (size_t i = 0; i < parts[part].size; i += 8) {
			uint64_t word;

			memcpy(&word, bytes + i, sizeof(word));
			sum = (sum ^ word) * UINT64_C(0x100000001b3);
			sum ^= sum >> 32;
		}
	}
	return sum;
}

/* A name that can be shown anywhere: not empty, terminated, printable, no blanks. */
static bool is_text(const char *text, size_t size)
{
	size_t n = strnlen(text, size);

	for (size_t i = 0; i < n; i++) {
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	}
	return n && n < size;
}

static bool within(const struct ds_groups *set, const struct ds_gpu_shape *shape)
{
	const unsigned n = shape->n_groups + (shape->rest_sms ? 1 : 0);

	for (unsigned word = 0; word < 2; word++) {
		const unsigned first = 64 * word;
		const unsigned inside = n <= first ? 0 : n - first;

		if (inside < 64 && set->bits[word] >> inside)
			return false;
	}
	return true;
}

static bool grant_is_valid(const struct ds_grant *grant)
{
	return is_text(grant->class_name, sizeof(grant->class_name)) &&
	       memchr(grant->config_digest, '\0', sizeof(grant->config_digest)) &&
	       grant->kind <= DS_KIND_BESTEFFORT && grant->isolation <= DS_ISOLATION_NONE &&
	       grant->share_milli >= 1 && grant->share_milli <= DS_SHARE_MILLI_MAX &&
	       grant->policy <= DS_POLICY_LEND && grant->lends <= 1 && grant->borrows <= 1 &&
	       grant->whole_ms <= DS_WHOLE_NEVER && grant->advance_milli <= DS_SHARE_MILLI_MAX;
}

/* "" is a policy, too: of a ledger that was just made, or of a test. */
static bool policy_is_valid(const struct ds_policy_id *policy)
{
	return (!policy->name[0] || is_text(policy->name, sizeof(policy->name))) &&
	       policy->failed <= 1;
}

static bool window_is_valid(const struct ds_whole_window *window)
{
	if (window->phase == DS_WHOLE_NONE)
		return !window->owner[0];
	return window->phase <= DS_WHOLE_RETURNING && is_text(window->owner, sizeof(window->owner));
}

/* Only residents that there are owe something, and nobody to itself. */
static bool owing_is_valid(const struct ds_ledger_state *state, uint32_t i)
{
	const uint64_t owing = state->residents[i].owing;

	return !(owing >> i & 1) && (state->n_residents == 64 || !(owing >> state->n_residents));
}

static bool turn_is_valid(const struct ds_turn *turn, const struct ds_gpu_shape *shape)
{
	return turn->state < DS_TURN_STATES && turn->why < DS_TURN_WHYS &&
	       turn->set <= shape->n_groups && turn->active <= 1 && turn->fixed <= 1;
}

int ds_ledger_state_check(const struct ds_ledger_state *state, struct ds_error *err)
{
	uint64_t arrival = 0;

	if (!is_text(state->gpu_uuid, sizeof(state->gpu_uuid)))
		return ds_fail(err, "it names no GPU");
	if (state->shape.n_groups < 1 || state->shape.n_groups >= DS_GROUPS_MAX ||
	    !state->shape.group_sms)
		return ds_fail(err, "it has a GPU of %" PRIu32 " groups of %" PRIu32 " SMs",
			       state->shape.n_groups, state->shape.group_sms);
	if (state->n_residents > DS_RESIDENTS_MAX || state->n_programs > DS_PROGRAMS_MAX)
		return ds_fail(err, "it has %" PRIu32 " residents and %" PRIu32 " programs",
			       state->n_residents, state->n_programs);
	if (state->incomplete > 1)
		return ds_fail(err, "its mark for what is missing makes no sense");
	if (!window_is_valid(&state->whole))
		return ds_fail(err, "its whole-GPU window makes no sense");
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *r = &state->residents[i];

		if (!is_text(r->name, sizeof(r->name)) || !grant_is_valid(&r->grant) ||
		    r->weight_milli > 1000 || r->wish_milli > 1000 || r->heeds_steps > 1 ||
		    r->demand.active > 1 || r->demand.overlong > 1 || r->whole.opened > 1 ||
		    r->demand.busy_milli > 1000 || !policy_is_valid(&r->policy) ||
		    !turn_is_valid(&r->turn, &state->shape) || !within(&r->own, &state->shape) ||
		    !within(&r->planned, &state->shape) || !within(&r->held, &state->shape) ||
		    !owing_is_valid(state, i))
			return ds_fail(err, "its resident %" PRIu32 " makes no sense", i);
		if ((i && r->arrival <= arrival) || r->arrival >= state->next_arrival)
			return ds_fail(err, "its resident %" PRIu32 " is out of order", i);
		arrival = r->arrival;
	}
	for (uint32_t i = 0; i < state->n_programs; i++) {
		const struct ds_ledger_program *p = &state->programs[i];

		if (!is_text(p->resident, sizeof(p->resident)) || p->process.pid <= 0 ||
		    p->quiet > 1 || p->stays > DS_STAYS_ALL || !within(&p->groups, &state->shape))
			return ds_fail(err, "its program %" PRIu32 " makes no sense", i);
	}
	return 0;
}

void ds_ledger_image_init(struct ds_ledger_image *image, const char *boot_id, const char *gpu_uuid,
			  const struct ds_gpu_shape *shape)
{
	struct ds_ledger_state *state = &image->copies[0].state;

	memset(image, 0, sizeof(*image));
	image->header.magic = MAGIC;
	image->header.version = DS_LEDGER_VERSION;
	image->header.copy_size = sizeof(struct ds_ledger_copy);
	strncpy(image->header.boot_id, boot_id, sizeof(image->header.boot_id) - 1);
	strncpy(state->gpu_uuid, gpu_uuid, sizeof(state->gpu_uuid) - 1);
	state->shape = *shape;
	struct ds_ledger_part parts[DS_LEDGER_PARTS];
	ds_ledger_parts(state, parts);
	image->copies[0].checksum = checksum(state, parts);
}

static void copy_parts(struct ds_ledger_state *to, const struct ds_ledger_state *from,
		       const struct ds_ledger_part parts[DS_LEDGER_PARTS])
{
	for (int i = 0; i < DS_LEDGER_PARTS; i++)
		memcpy((char *)to + parts[i].offset, (const char *)from + parts[i].offset,
		       parts[i].size);
}

void ds_ledger_copy(struct ds_ledger_state *to, const struct ds_ledger_state *from)
{
	struct ds_ledger_part parts[DS_LEDGER_PARTS];

	if (ds_ledger_parts(from, parts) == 0)
		copy_parts(to, from, parts);
}

void ds_ledger_image_store(struct ds_ledger_image *image, const struct ds_ledger_state *state)
{
	struct ds_ledger_copy *copy = &image->copies[state->generation % 2];
	struct ds_ledger_part parts[DS_LEDGER_PARTS];

	if (ds_ledger_parts(state, parts) < 0)
		return; /* never: ds_ledger_state_check() comes before */
	copy_parts(&copy->state, state, parts);
	copy->checksum = checksum(&copy->state, parts);
}

enum ds_ledger_verdict ds_ledger_image_load(const struct ds_ledger_image *image, size_t size,
					    const char *boot_id, struct ds_ledger_state *state,
					    struct ds_error *err)
{
	static const unsigned char zeros[DS_LEDGER_HEADER_SIZE];
	const struct ds_ledger_header *header = &image->header;

	if (!memcmp(image->page, zeros, size < sizeof(zeros) ? size : sizeof(zeros))) {
		ds_fail(err, "it was not finished");
		return DS_LEDGER_UNFINISHED;
	}
	if (size < sizeof(*header) || header->magic != MAGIC) {
		const bool other = size >= sizeof(*header) &&
				   !memcmp(image->page, &(uint64_t){MAGIC}, MAGIC_NAME_SIZE);
		ds_fail(err, other ? "it is of another version" : "it is no ledger");
		return other ? DS_LEDGER_FOREIGN : DS_LEDGER_BROKEN;
	}
	if (header->version != DS_LEDGER_VERSION ||
	    header->copy_size != sizeof(struct ds_ledger_copy)) {
		ds_fail(err, "it has version %" PRIu32 " (%" PRIu32 " bytes), not %d (%zu bytes)",
			header->version, header->copy_size, DS_LEDGER_VERSION,
			sizeof(struct ds_ledger_copy));
		return DS_LEDGER_FOREIGN;
	}
	if (strncmp(header->boot_id, boot_id, sizeof(header->boot_id))) {
		ds_fail(err, "it is of an earlier boot");
		return DS_LEDGER_OUTDATED;
	}
	if (size != sizeof(*image)) {
		ds_fail(err, "it has %zu bytes, not %zu", size, sizeof(*image));
		return DS_LEDGER_BROKEN;
	}

	uint64_t active = image->words[DS_LEDGER_ACTIVE_OFFSET / 8];
	const struct ds_ledger_copy *copy = &image->copies[active % 2];
	struct ds_ledger_part parts[DS_LEDGER_PARTS];
	if (ds_ledger_parts(&copy->state, parts) < 0 || copy->state.generation != active ||
	    copy->checksum != checksum(&copy->state, parts)) {
		ds_fail(err, "its generation %" PRIu64 " has a wrong checksum", active);
		return DS_LEDGER_BROKEN;
	}
	if (ds_ledger_state_check(&copy->state, err))
		return DS_LEDGER_BROKEN;
	copy_parts(state, &copy->state, parts);
	return DS_LEDGER_VALID;
}

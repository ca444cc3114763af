/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/trial.h"

static void enter(struct ds_trial *trial, enum ds_trial_phase phase, uint64_t now_ns,
		  uint64_t launches)
{
	trial->phase = phase;
	trial->began_ns = now_ns;
	trial->next_ns = now_ns + (phase == DS_TRIAL_REST ? trial->pause_ns : DS_TRIAL_NS);
	trial->launches = launches;
}

/* Whether a phase that may end has been long enough. */
static bool has_seen_enough(struct ds_trial *trial, uint64_t now_ns, uint64_t launches)
{
	if (launches - trial->launches >= DS_TRIAL_LAUNCHES ||
	    now_ns - trial->began_ns >= DS_TRIAL_MAX_NS)
		return true;
	trial->next_ns = now_ns + DS_TRIAL_NS;
	return false;
}

static void go_on(struct ds_trial *trial, uint64_t now_ns, bool possible, uint64_t launches)
{
	switch (trial->phase) {
	case DS_TRIAL_REST:
		enter(trial,
		      possible && launches != trial->launches ? DS_TRIAL_LARGE : DS_TRIAL_REST,
		      now_ns, launches);
		break;
	case DS_TRIAL_LARGE:
		if (has_seen_enough(trial, now_ns, launches))
			enter(trial, DS_TRIAL_SMALL, now_ns, launches);
		break;
	case DS_TRIAL_SMALL:
		if (!has_seen_enough(trial, now_ns, launches))
			break;
		if (trial->pause_ns < DS_TRIAL_LAST_NS)
			trial->pause_ns += trial->pause_ns / 2;
		enter(trial, DS_TRIAL_REST, now_ns, launches);
		break;
	}
}

enum ds_trial_phase ds_trial_look(struct ds_trial *trial, uint64_t now_ns, bool possible,
				  uint64_t launches)
{
	if (!trial->began_ns) {
		trial->pause_ns = DS_TRIAL_FIRST_NS;
		enter(trial, DS_TRIAL_REST, now_ns, launches);
		return trial->phase;
	}
	if (trial->phase != DS_TRIAL_REST && !possible)
		enter(trial, DS_TRIAL_REST, now_ns, launches);
	else if (now_ns >= trial->next_ns)
		go_on(trial, now_ns, possible, launches);
	return trial->phase;
}

bool ds_trial_stop(struct ds_trial *trial)
{
	const bool small = trial->phase == DS_TRIAL_SMALL;

	if (trial->phase != DS_TRIAL_REST)
		trial->next_ns += trial->pause_ns;
	trial->phase = DS_TRIAL_REST;
	return small;
}

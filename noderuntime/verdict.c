/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/verdict.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "noderuntime/ledger.h"

/* The end of a file, as text; "" if there is none. */
static void read_tail(const char *path, char *text, size_t size)
{
	struct stat st;
	ssize_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0 && fstat(fd, &st) == 0) {
		off_t from = st.st_size > (off_t)size - 1 ? st.st_size - (off_t)size + 1 : 0;
		n = pread(fd, text, size - 1, from);
	}
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
}

static uint64_t started_ns(const struct ds_process *process)
{
	const long ticks = sysconf(_SC_CLK_TCK);

	return ticks > 0 ? process->start_ticks * (UINT64_C(1000000000) / (uint64_t)ticks) : 0;
}

/* Programs that are on the GPU, and may not have noticed yet. */
static size_t find_present(const char *gpu_dir, struct ds_fault present[DS_PROGRAMS_MAX])
{
	static struct ds_ledger_state state;

	if (ds_ledger_read(gpu_dir, &state, NULL) < 0)
		return 0;
	for (uint32_t i = 0; i < state.n_programs; i++) {
		const struct ds_ledger_program *program = &state.programs[i];
		const struct ds_ledger_resident *owner = ds_ledger_find(&state, program->resident);

		present[i] = (struct ds_fault){.at_ns = started_ns(&program->process),
					       .job_id = owner ? owner->job_id : 0,
					       .pid = program->process.pid};
		memcpy(present[i].allocation, program->resident, sizeof(present[i].allocation));
	}
	return state.n_programs;
}

bool ds_verdict(const struct ds_node_config *config, const struct ds_allocation *allocation,
		const char *gpu_dir, struct ds_fault_verdict *verdict)
{
	static struct ds_fault faults[DS_FAULTS_MAX]; /* 32 KiB */
	static struct ds_fault present[DS_PROGRAMS_MAX];
	static char log[65536];
	struct ds_fault_evidence evidence = {.faults = faults,
					     .present = present,
					     .mps_log = log,
					     .since_ns = (uint64_t)allocation->begun_ns};
	char path[PATH_MAX];

	evidence.n_faults = ds_faults_read(gpu_dir, faults);
	/* Without MPS nobody shares a fault. */
	if (*config->mps_control)
		evidence.n_present = find_present(gpu_dir, present);
	snprintf(path, sizeof(path), "%.4000s/mps/log/server.log", gpu_dir);
	read_tail(path, log, sizeof(log));
	return ds_faults_judge(&evidence, allocation->name, verdict);
}

bool ds_verdict_text(const struct ds_fault_verdict *verdict, const char *allocation, char *text,
		     size_t size)
{
	const struct ds_fault *own = &verdict->own, *suspect = &verdict->suspect;
	int used;

	if (verdict->reason != DS_FAULT_UNKNOWN && !ds_fault_by_neighbour(verdict, allocation))
		return false;
	used = snprintf(text, size,
			"process %" PRId32 " lost its work on the GPU, CUDA error %" PRIu32,
			own->pid, own->code);
	if (used < 0 || (size_t)used >= size)
		return false;
	text += used;
	size -= (size_t)used;
	if (verdict->reason == DS_FAULT_UNKNOWN)
		snprintf(
		    text, size,
		    ": its own fault or that of a job beside it, since MPS's clients on one GPU "
		    "fail together and nothing says whose it was");
	else if (suspect->job_id)
		snprintf(text, size, ", by a fault of job %" PRIu32 " beside it (%s)",
			 suspect->job_id, ds_fault_reason_text(verdict->reason));
	else
		snprintf(text, size, ", by a fault of %s beside it (%s)", suspect->allocation,
			 ds_fault_reason_text(verdict->reason));
	return true;
}

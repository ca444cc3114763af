/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_RECORD_H
#define DETSHARE_ACCOUNTING_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/*
 * The usage record: one per job, node and restart. The node runtime spools it as one JSON object in
 * SPOOL_DIR/job-JOB.RESTART.json (temporary name, fsync, rename); `detshare-usaged send` signs it with munge and
 * delivers it; `detshare-usaged collect` keeps it, merges the nodes of a job and writes the summary
 * into the job's AdminComment after its end. Only what was measured is in it.
 *
 * Names (cluster, node, class, UUID) are letters, digits, '.', '_' and '-', not led by '.': they become
 * file names. end_unix_s is not before begin_unix_s: take durations from a clock that never steps back.
 */
enum { DS_USAGE_RECORD_MAX = 4096 }; /* bytes of its JSON */

/*
 * What the programs said of themselves: never billed, and labelled so wherever it is shown. All zero
 * when nothing was measured; a figure that is zero is left out of the JSON.
 */
struct ds_usage_reported {
	uint64_t launches;  /* of kernels and graphs */
	uint64_t remaps;    /* times that a stream went to another partition */
	uint64_t stalls;    /* launches that had to wait for the library */
	uint64_t held_back; /* launches that waited for a neighbour's step to end, */
	double held_back_s; /* and how long together */
	uint64_t
	    samples; /* launches whose time on the GPU was measured; busy_gpu_s follows from them */
	double busy_gpu_s;  /* time that kernels ran, all programs together */
	uint64_t steps;     /* times between host synchronisations that were measured, of which */
	double step_p50_us; /* the median, */
	double step_p99_us; /* and the 99th percentile */
	uint64_t memory_peak_mib; /* GPU memory that they had together, at most at once on a node */
};

struct ds_usage_record {
	char cluster[64]; /* ClusterName; "": the collector's own */
	char node[256];
	uint32_t job_id;
	uint32_t restart; /* SLURM_RESTART_COUNT, 0 for the first run */
	uint32_t uid;
	char class_name[32];
	uint32_t share_milli;
	char gpu_uuid[48];
	double begin_unix_s; /* when the allocation joined the ledger */
	double end_unix_s;
	/* Integrals over time of SMs: */
	double granted_sm_s;  /* of its own groups, held by it or lent */
	double borrowed_sm_s; /* of groups it held that were not its own; optional in the JSON */
	double lent_sm_s;     /* of its own groups that others held; optional in the JSON */
	uint64_t programs;    /* processes that were welcomed */
	uint32_t step_granted_max_milli; /* largest share a step was granted; 0: no step came */
	/* Programs that did not leave SM groups which were guaranteed to others in time, */
	uint32_t late_programs;
	uint32_t
	    ended_programs; /* and of those, that were ended for it; both optional in the JSON */
	/* A program of it got an error of the GPU, a CUresult, after which nothing worked; 0: none. */
	uint32_t fault_code;
	uint32_t
	    fault_suspect; /* the job that seems to have caused it, perhaps itself; 0: not known */
	struct ds_usage_reported reported; /* optional in the JSON, like each of its figures */
};

/* One JSON object on one line, malloc'd (the caller frees it), or NULL when memory is out. */
char *ds_usage_record_format(const struct ds_usage_record *record);

/* Parse and validate one; unknown keys are ignored, missing or mistyped ones refused. 0 or -1. */
int ds_usage_record_parse(const char *json, size_t length, struct ds_usage_record *record,
			  struct ds_error *err);

/*
 * Put the record into `spool_dir` (made if absent, 0700). Returns 0 or -1. An existing record of the
 * same job, node and restart is replaced.
 */
int ds_usage_record_spool(const char *spool_dir, const struct ds_usage_record *record,
			  struct ds_error *err);

#endif

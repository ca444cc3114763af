/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_MERGE_H
#define DETSHARE_ACCOUNTING_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "accounting/record.h"
#include "common/error.h"

/* What all records of one job come to. Pure figures; where they go is decided elsewhere. */
struct ds_usage_summary {
	char class_name[32]; /* of the last run */
	uint32_t
	    share_milli; /* of one GPU, on each node of the last run; the largest if they differ */
	uint32_t nodes;  /* that reported the last run; one GPU each */
	uint32_t
	    nodes_missing;    /* of the last run, allocated but silent; set by ds_settle_decide() */
	uint32_t restarts;    /* number of the last run: 0 when the job was never requeued */
	double seconds;       /* from a run's first begin to its last end, over all runs */
	double granted_sm_s;  /* over all nodes and runs */
	double borrowed_sm_s; /* likewise */
	double lent_sm_s;     /* likewise */
	uint64_t programs;    /* likewise */
	uint64_t late_programs;          /* likewise: did not leave what was others' in time, */
	uint64_t ended_programs;         /* and were ended for it */
	uint32_t step_granted_max_milli; /* largest share a step was granted; 0: no step came */
	uint32_t fault_code;             /* of the last run, on any node; 0: none */
	uint32_t fault_suspect;          /* the job that seems to have caused it; 0: not known */
	bool fault_by_other;             /* that is another job */
	/* Added up over all nodes and runs; the step times are those of the slowest. */
	struct ds_usage_reported reported;
};

/*
 * Merge n >= 1 records of one job. Their order does not matter; of two records of the same node and
 * run the one that ends later counts. Records of different jobs, clusters or users are refused: a job
 * id that was used again. Returns 0 or -1. Thread-safe.
 */
int ds_usage_merge(const struct ds_usage_record *records, size_t n,
		   struct ds_usage_summary *summary, struct ds_error *err);

/* The summary as the line {"detshare":{...}}, malloc'd, without a newline; NULL: no memory. */
char *ds_usage_summary_format(const struct ds_usage_summary *summary);

/*
 * The AdminComment `comment` (NULL: none) with `line` as its last line: every line of detshare's is
 * taken out, all other text is kept to the byte. malloc'd; NULL: no memory.
 */
char *ds_usage_comment(const char *comment, const char *line);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_FAULTS_H
#define DETSHARE_NODERUNTIME_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "noderuntime/fault_codes.h"
#include "noderuntime/ledger.h"

/*
 * Errors of the GPU after which nothing of a program works. Under MPS one program's error is that of all
 * clients of the GPU, and nobody says whose it was. So the runtimes of a GPU write down, in
 * gpu-UUID/faults, when which program got one, and which ended without; from that follows a suspect.
 */
enum {
	DS_FAULTS_MAX = 512, /* entries that are kept; then the file begins anew */
};

struct ds_fault {
	uint64_t at_ns; /* CLOCK_BOOTTIME: when the program got it, or ended */
	char allocation[DS_NAME_SIZE];
	uint32_t job_id; /* 0 outside Slurm */
	uint32_t code;   /* a CUresult; 0: the program ended without one */
	int32_t pid;
	uint32_t reserved;
};

/* Add an entry. 0 or -1. */
int ds_faults_add(const char *gpu_dir, const struct ds_fault *fault, struct ds_error *err);

/* The entries of this boot, oldest first, at most DS_FAULTS_MAX. No file: none. */
size_t ds_faults_read(const char *gpu_dir, struct ds_fault faults[DS_FAULTS_MAX]);

enum ds_fault_reason {
	DS_FAULT_UNKNOWN, /* any of those that got the error may have caused it */
	DS_FAULT_ALONE,   /* nobody else got it */
	DS_FAULT_NAMED,   /* MPS's log names it */
	DS_FAULT_ENDED, /* it ended, without an error of its own, just then: killed in a kernel? */
};

struct ds_fault_verdict {
	struct ds_fault own;     /* the allocation's first */
	struct ds_fault suspect; /* perhaps its own; job_id 0 and "" with DS_FAULT_UNKNOWN */
	enum ds_fault_reason reason;
};

/* What there is to judge by. */
struct ds_fault_evidence {
	const struct ds_fault *faults; /* of all */
	size_t n_faults;
	/* Programs that are on the GPU, and may not have noticed yet; at_ns: when they started. */
	const struct ds_fault *present;
	size_t n_present;
	const char *mps_log; /* NULL: none */
	/* The allocation's beginning: what is older is an earlier run's, or others' among themselves. */
	uint64_t since_ns;
};

/*
 * Pure: what became of an allocation. All clients get the error at the same time, and notice it when they
 * next look; so who noticed first proves nothing. False: it had no fault, or one that was wanted.
 */
bool ds_faults_judge(const struct ds_fault_evidence *evidence, const char *allocation,
		     struct ds_fault_verdict *verdict);

/*
 * Pure: better evidence may still come within a moment, since MPS's log is written when its clients have
 * noticed already, and runtimes hear of ends one after the other.
 */
bool ds_fault_may_be_named(const struct ds_fault_verdict *verdict);

/* Pure: there is evidence that it was another one's. */
bool ds_fault_by_neighbour(const struct ds_fault_verdict *verdict, const char *allocation);

/*
 * Pure: the process that lines of an MPS server's log about something fatal name, of the `n` in `pids`;
 * 0 if that is none, or more than one. The log's format is nobody's promise: any number in such a line,
 * behind its bracketed head, is compared. And 0 if it is not said to have connected after another of them:
 * driver 580 on an H200 named the client that had connected first, whether it was its fault or not
 * (doc/results).
 */
int32_t ds_fault_named(const char *mps_log, const int32_t *pids, size_t n);

/* "ended just then" and the like. */
const char *ds_fault_reason_text(enum ds_fault_reason reason);

#endif

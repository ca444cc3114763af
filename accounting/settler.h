/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_SETTLER_H
#define DETSHARE_ACCOUNTING_SETTLER_H

#include <stdbool.h>
#include <sys/types.h>

#include "accounting/collector_config.h"
#include "common/error.h"

/*
 * Runs detshare-usage-settle beside the collector: when records have come, and again, with growing
 * pauses, while some wait. What it says is logged when it says something new.
 */
struct ds_settler {
	const struct ds_collector_config *config;
	pid_t pid;          /* 0: not running */
	int output;         /* its standard error; -1: none */
	bool asked_again;   /* records came while it ran */
	long long next_ms;  /* when to run it; CLOCK_BOOTTIME */
	long long pause_ms; /* after a pass that left something */
	size_t used;
	char said[2][4096]; /* now, and in the pass before */
};

void ds_settler_init(struct ds_settler *settler, const struct ds_collector_config *config,
		     long long now_ms);

/* A record was stored: settle soon. */
void ds_settler_ask(struct ds_settler *settler, long long now_ms);

/* Start it if it is time. */
void ds_settler_tick(struct ds_settler *settler, long long now_ms);

/* Its output can be read. */
void ds_settler_read(struct ds_settler *settler);

/* A child ended (SIGCHLD). */
void ds_settler_reap(struct ds_settler *settler, long long now_ms);

/* End it, if it runs: nothing is lost, a pass can stop anywhere. */
void ds_settler_stop(struct ds_settler *settler);

/* Start the program with its output to `output` (-1: ours). Returns its pid, or -1. */
pid_t ds_settler_spawn(const struct ds_collector_config *config, int output, struct ds_error *err);

#endif

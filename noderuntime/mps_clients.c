/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/mps.h"

#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "noderuntime/mps_talk.h"

enum {
	LISTED_MAX = 256,
	PAUSE_MS = 5, /* between two looks, which take longer themselves */
	SCRIPT_SIZE = LISTED_MAX * 48,
};

/* The clients of one server. */
struct listed {
	pid_t server;
	pid_t clients[LISTED_MAX];
	size_t n;
};

static size_t list_servers(const struct ds_mps *mps, pid_t servers[DS_MPS_SERVERS_MAX],
			   ds_deadline deadline, bool *answered)
{
	char answer[DS_MPS_ANSWER_SIZE];

	*answered =
	    ds_mps_ask(mps, "get_server_list\n", answer, sizeof(answer), deadline, NULL) == 0;
	return *answered ? ds_mps_parse_pids(answer, servers, DS_MPS_SERVERS_MAX) : 0;
}

static bool list_clients(const struct ds_mps *mps, struct listed *listed, ds_deadline deadline)
{
	char answer[DS_MPS_ANSWER_SIZE], command[64];

	snprintf(command, sizeof(command), "get_client_list %d\n", (int)listed->server);
	listed->n = 0;
	if (ds_mps_ask(mps, command, answer, sizeof(answer), deadline, NULL) < 0)
		return false;
	listed->n = ds_mps_parse_pids(answer, listed->clients, LISTED_MAX);
	return true;
}

/* Keep those that are among `pids`. */
static void keep_only(struct listed *listed, const pid_t *pids, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < listed->n; i++) {
		for (size_t k = 0; k < n; k++) {
			if (listed->clients[i] == pids[k]) {
				listed->clients[kept++] = pids[k];
				break;
			}
		}
	}
	listed->n = kept;
}

/* One run of the control program for all of them: each costs about 10 ms. */
static void terminate_all(const struct ds_mps *mps, const struct listed *listed,
			  ds_deadline deadline)
{
	char answer[DS_MPS_ANSWER_SIZE], script[SCRIPT_SIZE];
	size_t used = 0;

	for (size_t i = 0; i < listed->n && used + 64 < sizeof(script); i++)
		used += (size_t)snprintf(script + used, sizeof(script) - used,
					 "terminate_client %d %d\n", (int)listed->server,
					 (int)listed->clients[i]);
	ds_mps_ask(mps, script, answer, sizeof(answer), deadline, NULL);
}

/* Returns how many of the server's clients among `pids` are left. */
static size_t terminate_of_server(const struct ds_mps *mps, pid_t server, const pid_t *pids,
				  size_t n, ds_deadline deadline)
{
	struct listed listed = {.server = server}, one = {.server = server, .n = 1};

	if (!list_clients(mps, &listed, deadline))
		return n;
	keep_only(&listed, pids, n);
	if (!listed.n)
		return 0;
	terminate_all(mps, &listed, deadline);
	while (list_clients(mps, &listed, deadline)) {
		keep_only(&listed, pids, n);
		if (!listed.n)
			return 0;
		/* Not all at once, then: a control program may read only one command. */
		for (size_t i = 0; i < listed.n && ds_deadline_left_ms(deadline); i++) {
			one.clients[0] = listed.clients[i];
			terminate_all(mps, &one, deadline);
		}
		if (!ds_deadline_left_ms(deadline))
			break;
	}
	return listed.n ? listed.n : n;
}

size_t ds_mps_terminate(const struct ds_node_config *config, const char *gpu_uuid,
			const pid_t *pids, size_t n, ds_deadline deadline)
{
	struct ds_mps mps;
	pid_t servers[DS_MPS_SERVERS_MAX];
	size_t left = 0;
	bool answered;

	if (!n || !*config->mps_control || ds_mps_locate(config, gpu_uuid, &mps, NULL) < 0 ||
	    !ds_mps_has_pipes(&mps))
		return 0;
	size_t n_servers = list_servers(&mps, servers, deadline, &answered);
	for (size_t s = 0; s < n_servers; s++)
		left += terminate_of_server(&mps, servers[s], pids, n, deadline);
	return answered && left < n ? left : n;
}

int ds_mps_clients(const struct ds_node_config *config, const char *gpu_uuid, pid_t *pids,
		   size_t max, ds_deadline deadline)
{
	struct ds_mps mps;
	struct listed listed;
	pid_t servers[DS_MPS_SERVERS_MAX];
	size_t n = 0;
	bool answered;

	if (!*config->mps_control || ds_mps_locate(config, gpu_uuid, &mps, NULL) < 0)
		return -1;
	size_t n_servers = list_servers(&mps, servers, deadline, &answered);
	if (!answered)
		return -1;
	for (size_t s = 0; s < n_servers; s++) {
		listed.server = servers[s];
		if (!list_clients(&mps, &listed, deadline))
			return -1;
		for (size_t i = 0; i < listed.n && n < max; i++)
			pids[n++] = listed.clients[i];
	}
	return (int)n;
}

size_t ds_mps_await_gone(const struct ds_node_config *config, const char *gpu_uuid, pid_t *pids,
			 size_t n, ds_deadline deadline)
{
	struct ds_process daemon;
	pid_t listed[LISTED_MAX];
	size_t left = n;

	while (left) {
		int n_listed = ds_mps_clients(config, gpu_uuid, listed, LISTED_MAX, deadline);
		if (n_listed < 0 && ds_mps_daemon(config, gpu_uuid, &daemon) < 0)
			return 0;
		for (size_t i = left; n_listed >= 0 && i-- > 0;) {
			bool found = false;
			for (int k = 0; k < n_listed; k++)
				found |= listed[k] == pids[i];
			if (!found)
				pids[i] = pids[--left];
		}
		if (!left || !ds_deadline_left_ms(deadline))
			break;
		poll(NULL, 0, PAUSE_MS);
	}
	return left;
}

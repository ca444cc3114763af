/* SPDX-License-Identifier: Apache-2.0 */
#include "spank/giveback.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What makes a line of the comment ours. The usage line is another one: it is JSON. */
static const char our_line[] = "detshare: ";

enum ds_giveback_action ds_giveback_decide(const struct ds_giveback_job *job, uint32_t restart,
					   enum ds_giveback_from from)
{
	if (!job->runs || job->restart != restart)
		return DS_GIVEBACK_NOTHING;
	if (job->batch && job->may_requeue)
		return DS_GIVEBACK_REQUEUE;
	if (from == DS_FROM_TASK)
		return DS_GIVEBACK_CANCEL;
	if (!job->batch)
		return DS_GIVEBACK_TELL_CANCEL;
	return job->on_batch_host ? DS_GIVEBACK_LEAVE_TO_TASK : DS_GIVEBACK_TELL_LATER;
}

enum ds_giveback_action ds_giveback_decide_victim(const struct ds_giveback_job *job,
						  uint32_t restart, uint32_t restarts_max)
{
	if (job->restart != restart || !job->failed || !job->batch || !job->may_requeue ||
	    restart >= restarts_max)
		return DS_GIVEBACK_NOTHING;
	return DS_GIVEBACK_REQUEUE;
}

char *ds_giveback_comment(const char *old, const char *node_name, const char *did,
			  const char *reason)
{
	const char *from = old ? old : "";
	size_t room = strlen(from) + 1 + strlen(our_line) + strlen(node_name) + 1 + strlen(did) +
		      2 + strlen(reason) + 1;
	char *text = malloc(room);
	size_t kept = 0;

	if (!text)
		return NULL;
	while (*from) {
		size_t length = strcspn(from, "\n");
		length += from[length] == '\n';
		if (strncmp(from, our_line, strlen(our_line)) != 0) {
			memcpy(text + kept, from, length);
			kept += length;
		}
		from += length;
	}
	if (kept > 0 && text[kept - 1] != '\n')
		text[kept++] = '\n';
	snprintf(text + kept, room - kept, "%s%s %s: %s", our_line, node_name, did, reason);
	return text;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/note_faults.h"

#include <string.h>
#include <syslog.h>

#include "noderuntime/deadline.h"
#include "noderuntime/faults.h"

void ds_note_fault(struct ds_runtime *rt, struct ds_watch *program, const struct ds_port *port,
		   bool ended)
{
	const uint64_t now_ns = (uint64_t)ds_now_ns(CLOCK_BOOTTIME);
	struct ds_fault fault = {
	    .at_ns = now_ns, .job_id = rt->allocation->job_id, .pid = program->process.pid};
	struct ds_error reason;

	if (program->faulted)
		return;
	if (ds_fault_is_fatal(port->fault)) {
		fault.code = port->fault;
		/* Its own word about when, as far as it can be. */
		if (port->fault_ns >= (uint64_t)program->since_ns && port->fault_ns <= now_ns)
			fault.at_ns = port->fault_ns;
	} else if (!ended || rt->seen.n_residents < 2) {
		return; /* of one that was alone, an end explains nobody's fault */
	}
	program->faulted = true;
	rt->had_fault |= fault.code != 0;
	memcpy(fault.allocation, rt->allocation->name, sizeof(fault.allocation));
	if (fault.code)
		syslog(LOG_WARNING, "%s: process %d reports CUDA error %u on GPU %s",
		       rt->allocation->name, fault.pid, fault.code, rt->allocation->gpu_uuid);
	if (ds_faults_add(rt->gpu_dir, &fault, &reason) < 0)
		ds_complain(rt, &reason);
}

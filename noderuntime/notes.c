/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/notes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#include "noderuntime/deadline.h"
#include "noderuntime/note_faults.h"
#include "noderuntime/verdict.h"

void ds_note(struct ds_runtime *rt, const char *format, ...)
{
	va_list args;

	if (rt->n_notes == DS_PORT_NOTES_MAX)
		memmove(&rt->notes[0], &rt->notes[1], --rt->n_notes * sizeof(rt->notes[0]));
	va_start(args, format);
	vsnprintf(rt->notes[rt->n_notes].text, sizeof(rt->notes[0].text), format, args);
	va_end(args);
	rt->notes[rt->n_notes].told = false;
	rt->notes[rt->n_notes].at_ns = ds_now_ns(CLOCK_BOOTTIME);
	syslog(LOG_WARNING, "%s: %s", rt->allocation->name, rt->notes[rt->n_notes].text);
	rt->n_notes++;
}

/*
 * A fault that reached us may be a neighbour's. Said once: what is found out later is in the record. True: it
 * is not known whose it was, and may soon be; with `last`, that is said.
 */
static bool note_victim(struct ds_runtime *rt, bool last)
{
	struct ds_fault_verdict verdict;
	char text[DS_PORT_NOTE_SIZE];
	struct ds_port port;

	if (!strcmp(rt->config->on_neighbour_fault, "record"))
		return false;
	/* Whoever asks may be quicker than the news of a program's end. */
	for (struct ds_watch *w = rt->watches; w; w = w->next) {
		if (w->kind == DS_WATCH_PROGRAM && ds_port_copy(w->port_fd, &port) == 0)
			ds_note_fault(rt, w, &port, false);
	}
	if (!rt->had_fault || rt->told_of_fault ||
	    !ds_verdict(rt->config, rt->allocation, rt->gpu_dir, &verdict))
		return false;
	if (ds_fault_may_be_named(&verdict) && !last)
		return true;
	rt->told_of_fault = true;
	if (ds_verdict_text(&verdict, rt->allocation->name, text, sizeof(text)))
		ds_note(rt, "%s%s", text,
			!strcmp(rt->config->on_neighbour_fault, "requeue") &&
				ds_fault_by_neighbour(&verdict, rt->allocation->name)
			    ? "; a batch job that fails by it is requeued if it may be"
			    : "");
	return false;
}

void ds_notes_serve(struct ds_runtime *rt, const struct ds_watch *connection, const void *bytes,
		    size_t size)
{
	struct ds_port_notes notes = {.magic = DS_PORT_MAGIC, .version = DS_PORT_VERSION};
	struct ds_port_ask ask;
	struct ds_error reason;
	struct ucred who;
	socklen_t length = sizeof(who);

	if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0 ||
	    (who.uid != 0 && who.uid != geteuid() && who.uid != rt->allocation->uid)) {
		ds_port_refuse(connection->fd, "what becomes of a job is for its user and root");
		return;
	}
	if (ds_port_check_ask(bytes, size, &ask, &reason) < 0) {
		ds_port_refuse(connection->fd, reason.text);
		return;
	}
	notes.pending = note_victim(rt, ask.last);
	for (uint32_t i = 0; i < rt->n_notes; i++) {
		if ((uint64_t)rt->notes[i].at_ns < ask.since_ns ||
		    (ask.only_new && rt->notes[i].told))
			continue;
		memcpy(notes.text[notes.n++], rt->notes[i].text, sizeof(notes.text[0]));
		rt->notes[i].told = true;
	}
	notes.until_ns = (uint64_t)ds_now_ns(CLOCK_BOOTTIME);
	ds_port_answer_notes(connection->fd, &notes);
}

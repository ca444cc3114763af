/* SPDX-License-Identifier: Apache-2.0 */
#include "proctrack/deadly.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"

enum { STATUS_SIZE = 8192 };

bool ds_signal_can_kill(int signal_number)
{
	switch (signal_number) {
	case SIGCHLD:
	case SIGCONT:
	case SIGSTOP:
	case SIGTSTP:
	case SIGTTIN:
	case SIGTTOU:
	case SIGURG:
	case SIGWINCH:
		return false;
	default:
		return signal_number > 0 && signal_number <= 64;
	}
}

/* What follows `name` at the beginning of a line, or NULL. */
static const char *field(const char *text, const char *name)
{
	const size_t length = strlen(name);

	while (text && strncmp(text, name, length) != 0) {
		text = strchr(text, '\n');
		if (text)
			text++;
	}
	return text ? text + length : NULL;
}

static bool mask(const char *text, const char *name, uint64_t *value)
{
	const char *at = field(text, name);
	char *end;

	if (!at)
		return false;
	errno = 0;
	*value = strtoull(at, &end, 16);
	return end != at && !errno && (*end == '\n' || *end == '\0');
}

/* "NSpid:\t4711\t1\n": the last number is the pid in the innermost namespace. */
static bool is_init(const char *text)
{
	const char *at = field(text, "NSpid:");
	long pid = 0, n = 0;

	while (at) {
		char *end;
		at += strspn(at, " \t");
		long next = strtol(at, &end, 10);
		if (end == at)
			break;
		pid = next;
		n++;
		at = end;
	}
	return n > 1 && pid == 1;
}

bool ds_signal_state_parse(const char *text, struct ds_signal_state *state)
{
	const char *parent = field(text, "PPid:");

	memset(state, 0, sizeof(*state));
	if (!parent || !mask(text, "SigBlk:", &state->blocked) ||
	    !mask(text, "SigIgn:", &state->ignored) || !mask(text, "SigCgt:", &state->caught))
		return false;
	state->parent = (pid_t)strtol(parent, NULL, 10);
	state->is_init = is_init(text);
	return true;
}

bool ds_signal_kills(const struct ds_signal_state *state, int signal_number)
{
	const uint64_t bit = UINT64_C(1) << (signal_number - 1);

	if (signal_number == SIGKILL)
		return true;
	return !state->is_init && !((state->blocked | state->ignored | state->caught) & bit);
}

static bool read_state(const char *path, struct ds_signal_state *state)
{
	char text[STATUS_SIZE];

	return ds_read_text(path, 0, text, sizeof(text)) > 0 && ds_signal_state_parse(text, state);
}

/* Blocked in one thread, a signal is taken by another: any that lets it through is enough. */
static bool kills_by_a_thread(pid_t pid, int signal_number)
{
	char path[300];
	struct ds_signal_state state;
	const struct dirent *entry;
	bool kills = false;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		return false;
	while (!kills && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.200s/status", (int)pid,
			 entry->d_name);
		kills = read_state(path, &state) && ds_signal_kills(&state, signal_number);
	}
	closedir(dir);
	return kills;
}

static bool is_doomed(pid_t pid, pid_t self, int signal_number, enum ds_reach reach)
{
	struct ds_signal_state state;
	char path[64];

	if (pid <= 1 || pid == self)
		return false;
	if (signal_number == SIGKILL)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	if (!read_state(path, &state) || (reach == DS_REACH_CHILDREN && state.parent != self))
		return false;
	return ds_signal_kills(&state, signal_number) || kills_by_a_thread(pid, signal_number);
}

int ds_doomed(pid_t *pids, int n, pid_t self, int signal_number, enum ds_reach reach)
{
	int kept = 0;

	for (int i = 0; i < n; i++) {
		if (is_doomed(pids[i], self, signal_number, reach))
			pids[kept++] = pids[i];
	}
	return kept;
}

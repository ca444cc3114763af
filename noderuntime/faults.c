/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/faults.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

enum {
	TOGETHER_MS = 5000, /* errors of one cause are noticed within, as programs synchronise */
	JUST_THEN_MS = 500,
};

int ds_faults_add(const char *gpu_dir, const struct ds_fault *fault, struct ds_error *err)
{
	char path[PATH_MAX];
	struct stat st;
	int rv = 0;

	snprintf(path, sizeof(path), "%.4000s/faults", gpu_dir);
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return ds_fail(err, "cannot open %s: %s", path, strerror(errno));
	/* Nobody needs the old ones; one that is written meanwhile may be lost with them. */
	if (fstat(fd, &st) == 0 && st.st_size >= (off_t)(DS_FAULTS_MAX * sizeof(*fault)) &&
	    ftruncate(fd, 0) < 0)
		rv = ds_fail(err, "cannot empty %s: %s", path, strerror(errno));
	else if (write(fd, fault, sizeof(*fault)) != (ssize_t)sizeof(*fault))
		rv = ds_fail(err, "cannot write %s: %s", path, strerror(errno));
	close(fd);
	return rv;
}

size_t ds_faults_read(const char *gpu_dir, struct ds_fault faults[DS_FAULTS_MAX])
{
	char path[PATH_MAX];
	size_t n = 0;

	snprintf(path, sizeof(path), "%.4000s/faults", gpu_dir);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return 0;
	while (n < DS_FAULTS_MAX && read(fd, &faults[n], sizeof(faults[n])) == sizeof(faults[n])) {
		faults[n].allocation[DS_NAME_SIZE - 1] = '\0';
		n++;
	}
	close(fd);
	return n;
}

static bool is_error(const struct ds_fault *fault)
{
	return fault->code && fault->code != DS_FAULT_TERMINATED;
}

static bool is_of(const struct ds_fault *fault, const char *allocation)
{
	return !strcmp(fault->allocation, allocation);
}

/* Between two instants, whichever is the earlier. */
static uint64_t apart(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static const struct ds_fault *first_of(const struct ds_fault *faults, size_t n,
				       const char *allocation, uint64_t since_ns)
{
	const struct ds_fault *first = NULL;

	for (size_t i = 0; i < n; i++) {
		if (is_error(&faults[i]) && is_of(&faults[i], allocation) &&
		    faults[i].at_ns >= since_ns && (!first || faults[i].at_ns < first->at_ns))
			first = &faults[i];
	}
	return first;
}

static bool line_is_fatal(const char *line, size_t length)
{
	static const char *const words[] = {"fatal", "fault", "exception"};

	for (size_t i = 0; i < length; i++) {
		for (size_t w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
			if (length - i >= strlen(words[w]) &&
			    !strncasecmp(line + i, words[w], strlen(words[w])))
				return true;
		}
	}
	return false;
}

/* The next number in the line from *at on; -1: none. */
static int64_t next_number(const char *line, size_t length, size_t *at)
{
	int64_t number = -1;

	while (*at < length && !isdigit((unsigned char)line[*at]))
		(*at)++;
	while (*at < length && isdigit((unsigned char)line[*at])) {
		number = (number < 0 ? 0 : number) * 10 + (line[*at] - '0');
		if (number > INT32_MAX)
			number = INT32_MAX;
		(*at)++;
	}
	return number;
}

static bool line_has(const char *line, size_t length, const char *word)
{
	const size_t size = strlen(word);

	for (size_t i = 0; i + size <= length; i++) {
		if (!strncmp(line + i, word, size))
			return true;
	}
	return false;
}

/* The first number behind the line's bracketed head, if it is one of the pids; else 0. */
static int32_t pid_of_line(const char *line, size_t length, const int32_t *pids, size_t n)
{
	const char *head = memchr(line, ']', length);
	size_t at = head ? (size_t)(head - line) : 0;
	const int64_t number = next_number(line, length, &at);

	for (size_t i = 0; i < n; i++) {
		if (number > 0 && number == pids[i])
			return pids[i];
	}
	return 0;
}

/* True if the log says that another one of them had connected before this one did. */
static bool came_later(const char *mps_log, int32_t pid, const int32_t *pids, size_t n)
{
	bool another = false;

	for (const char *line = mps_log; *line;) {
		const size_t length = strcspn(line, "\n");
		const int32_t client =
		    line_has(line, length, " connected") ? pid_of_line(line, length, pids, n) : 0;

		if (client == pid)
			return another;
		another |= client != 0;
		line += length + (line[length] == '\n');
	}
	return false;
}

int32_t ds_fault_named(const char *mps_log, const int32_t *pids, size_t n)
{
	int32_t named = 0;

	for (const char *line = mps_log; *line;) {
		const size_t length = strcspn(line, "\n");
		const char *head = memchr(line, ']', length);
		size_t at = head ? (size_t)(head - line) : 0;
		while (line_is_fatal(line, length) && at < length) {
			const int64_t number = next_number(line, length, &at);
			for (size_t i = 0; i < n; i++) {
				if (number <= 0 || number != pids[i])
					continue;
				if (named && named != pids[i])
					return 0;
				named = pids[i];
			}
		}
		line += length + (line[length] == '\n');
	}
	/* A server that cannot tell names the client that connected first, whoever it was. */
	return named && came_later(mps_log, named, pids, n) ? named : 0;
}

/* What happened at about the time of `own`. */
struct scene {
	const struct ds_fault *errors[DS_FAULTS_MAX];
	int32_t pids[DS_FAULTS_MAX + DS_PROGRAMS_MAX]; /* of all */
	size_t n_errors, n_pids;
	const struct ds_fault *earliest; /* error */
	const struct ds_fault *ended;
};

/* Was on the GPU when the fault came: it has the error, too, noticed or not. */
static bool was_there(const struct ds_fault *present, const struct scene *scene)
{
	return present->at_ns <= scene->earliest->at_ns;
}

/* What was over before the allocation began cannot have been its fault, nor anybody's in common with it. */
static void look_at(const struct ds_fault *faults, size_t n, const struct ds_fault *own,
		    uint64_t since_ns, struct scene *scene)
{
	*scene = (struct scene){.earliest = own};
	for (size_t i = 0; i < n && i < DS_FAULTS_MAX; i++) {
		const struct ds_fault *f = &faults[i];
		if (f->at_ns < since_ns || apart(f->at_ns, own->at_ns) > TOGETHER_MS * MS ||
		    f->code == DS_FAULT_TERMINATED)
			continue;
		scene->pids[scene->n_pids++] = f->pid;
		if (!f->code)
			continue;
		scene->errors[scene->n_errors++] = f;
		if (f->at_ns < scene->earliest->at_ns)
			scene->earliest = f;
	}
	for (size_t i = 0; i < n; i++) {
		const struct ds_fault *f = &faults[i];
		if (!f->code && f->at_ns >= since_ns &&
		    apart(f->at_ns, scene->earliest->at_ns) <= JUST_THEN_MS * MS &&
		    (!scene->ended || f->at_ns < scene->ended->at_ns))
			scene->ended = f;
	}
}

static const struct ds_fault *find_pid(const struct ds_fault *faults, size_t n, int32_t pid)
{
	for (size_t i = n; i-- > 0;) {
		if (faults[i].pid == pid)
			return &faults[i];
	}
	return NULL;
}

bool ds_faults_judge(const struct ds_fault_evidence *evidence, const char *allocation,
		     struct ds_fault_verdict *verdict)
{
	const struct ds_fault *faults = evidence->faults, *present = evidence->present;
	const size_t n = evidence->n_faults;
	const struct ds_fault *own = first_of(faults, n, allocation, evidence->since_ns);
	const struct ds_fault *suspect = NULL;
	static struct scene scene;
	bool alone = true;

	if (!own)
		return false;
	look_at(faults, n, own, evidence->since_ns, &scene);
	*verdict = (struct ds_fault_verdict){.own = *own, .reason = DS_FAULT_UNKNOWN};
	for (size_t i = 0; i < scene.n_errors; i++)
		alone &= is_of(scene.errors[i], allocation);
	for (size_t i = 0; i < evidence->n_present && i < DS_PROGRAMS_MAX; i++) {
		if (!was_there(&present[i], &scene))
			continue;
		alone &= is_of(&present[i], allocation);
		scene.pids[scene.n_pids++] = present[i].pid;
	}
	const int32_t named =
	    evidence->mps_log ? ds_fault_named(evidence->mps_log, scene.pids, scene.n_pids) : 0;
	if (named) {
		suspect = find_pid(faults, n, named);
		if (!suspect)
			suspect = find_pid(present, evidence->n_present, named);
		verdict->reason = DS_FAULT_NAMED;
	} else if (scene.ended) {
		suspect = scene.ended;
		verdict->reason = DS_FAULT_ENDED;
	} else if (alone) {
		suspect = own;
		verdict->reason = DS_FAULT_ALONE;
	}
	if (suspect)
		verdict->suspect = *suspect;
	return true;
}

bool ds_fault_may_be_named(const struct ds_fault_verdict *verdict)
{
	return verdict->reason == DS_FAULT_UNKNOWN || verdict->reason == DS_FAULT_ENDED;
}

bool ds_fault_by_neighbour(const struct ds_fault_verdict *verdict, const char *allocation)
{
	return verdict->reason != DS_FAULT_UNKNOWN && verdict->suspect.allocation[0] &&
	       !is_of(&verdict->suspect, allocation);
}

const char *ds_fault_reason_text(enum ds_fault_reason reason)
{
	switch (reason) {
	case DS_FAULT_ALONE:
		return "nobody else got the error";
	case DS_FAULT_NAMED:
		return "MPS's log names it";
	case DS_FAULT_ENDED:
		return "ended just then, without an error";
	case DS_FAULT_UNKNOWN:
		break;
	}
	return "any that got the error";
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "accounting/log.h"

enum { TEMPORARY_AGE_S = 3600 };

int ds_store_open(const char *state_dir, struct ds_store *store, struct ds_error *err)
{
	*store = DS_STORE_CLOSED;
	if (ds_directory_open(state_dir, &store->top, err) < 0 ||
	    ds_directory_open_below(&store->top, "waiting", &store->waiting, err) < 0 ||
	    ds_directory_open_below(&store->top, "settled", &store->settled, err) < 0 ||
	    ds_directory_open_below(&store->top, "unclaimed", &store->unclaimed, err) < 0 ||
	    ds_directory_open_below(&store->top, "broken", &store->broken, err) < 0)
		return -1;
	store->lock_fd =
	    openat(store->top.fd, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (store->lock_fd < 0)
		return ds_fail(err, "cannot open %s/.lock: %s", state_dir, strerror(errno));
	ds_directory_sweep(&store->waiting, TEMPORARY_AGE_S);
	return 0;
}

void ds_store_close(struct ds_store *store)
{
	ds_directory_close(&store->waiting);
	ds_directory_close(&store->settled);
	ds_directory_close(&store->unclaimed);
	ds_directory_close(&store->broken);
	ds_directory_close(&store->top);
	if (store->lock_fd >= 0)
		close(store->lock_fd);
	store->lock_fd = -1;
}

int ds_store_only_one(const struct ds_store *store, const char *role, struct ds_error *err)
{
	char name[64];

	snprintf(name, sizeof(name), ".%s.lock", role);
	int fd = openat(store->top.fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return ds_fail(err, "cannot open %s/%s: %s", store->top.path, name,
			       strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	if (errno == EWOULDBLOCK)
		ds_fail(err, "another process does %s in %s", role, store->top.path);
	else
		ds_fail(err, "cannot lock %s/%s: %s", store->top.path, name, strerror(errno));
	close(fd);
	return -1;
}

/* Held for a write or a move only, so waiting for it is short. */
static int lock(const struct ds_store *store, struct ds_error *err)
{
	while (flock(store->lock_fd, LOCK_EX) < 0) {
		if (errno != EINTR)
			return ds_fail(err, "cannot lock %s: %s", store->top.path, strerror(errno));
	}
	return 0;
}

static void unlock(const struct ds_store *store)
{
	flock(store->lock_fd, LOCK_UN);
}

static bool holds(const struct ds_directory *directory, const char *name, const char *line)
{
	char *data = ds_directory_read(directory, name, DS_USAGE_RECORD_MAX, NULL, NULL, NULL);
	bool same = data && strcmp(data, line) == 0;

	free(data);
	return same;
}

int ds_store_put(const struct ds_store *store, const struct ds_usage_record *record,
		 struct ds_error *err)
{
	char name[NAME_MAX + 1];
	int rv = -1;

	/* '+' is in no name that a valid record holds. */
	if (snprintf(name, sizeof(name), "%s+%u.%u+%s.json", record->cluster, record->job_id,
		     record->restart, record->node) >= (int)sizeof(name) - 16)
		return ds_fail(err, "cannot store the record of job %u: node name too long",
			       record->job_id);

	char *line = ds_usage_record_format(record);
	if (!line)
		return ds_fail(err, "cannot store the record of job %u: memory is out",
			       record->job_id);
	if (lock(store, err) < 0)
		goto out;
	if (holds(&store->waiting, name, line) || holds(&store->settled, name, line))
		rv = 0;
	else
		rv = ds_directory_write(&store->waiting, name, line, strlen(line), err);
	unlock(store);
out:
	free(line);
	return rv;
}

/* The part of a name that says cluster and job: "CLUSTER+JOB." */
static size_t job_length(const char *name)
{
	size_t cluster = strcspn(name, "+");

	return cluster + strcspn(name + cluster, ".");
}

static int compare_jobs(const char *a, const char *b)
{
	size_t la = job_length(a), lb = job_length(b);
	int order = memcmp(a, b, la < lb ? la : lb);

	return order ? order : (la > lb) - (la < lb);
}

bool ds_store_same_job(const struct ds_stored *a, const struct ds_stored *b)
{
	return compare_jobs(a->name, b->name) == 0;
}

static int compare_stored(const void *a, const void *b)
{
	const struct ds_stored *x = a, *y = b;
	int order = compare_jobs(x->name, y->name);

	return order ? order : strcmp(x->name, y->name);
}

static int compare_name_to_stored(const void *name, const void *stored)
{
	return compare_jobs(name, ((const struct ds_stored *)stored)->name);
}

/* Append the record `name` of `directory`; false: it is not readable. */
static bool load_one(const struct ds_directory *directory, const char *name, bool waiting,
		     struct ds_stored *stored, struct ds_error *err)
{
	struct stat st;
	size_t length;
	char *data = ds_directory_read(directory, name, DS_USAGE_RECORD_MAX, &length, &st, err);
	bool good = false;

	*stored = (struct ds_stored){.waiting = waiting};
	if (data && ds_usage_record_parse(data, length, &stored->record, err) == 0) {
		stored->name = strdup(name);
		stored->inode = st.st_ino;
		stored->stored = st.st_mtim;
		good = stored->name != NULL;
	}
	free(data);
	return good;
}

int ds_store_load(const struct ds_store *store, struct ds_stored **records, size_t *n,
		  struct ds_error *err)
{
	size_t n_waiting = 0, n_settled = 0, used = 0;
	char **waiting = NULL, **settled = NULL;
	struct ds_stored *list = NULL;
	int rv = -1;

	*records = NULL;
	*n = 0;
	waiting = ds_directory_names(&store->waiting, &n_waiting, err);
	settled = ds_directory_names(&store->settled, &n_settled, err);
	if (!waiting || !settled)
		goto out;
	list = calloc(n_waiting + n_settled + 1, sizeof(*list));
	if (!list) {
		ds_fail(err, "cannot load %zu records: memory is out", n_waiting + n_settled);
		goto out;
	}
	for (size_t i = 0; i < n_waiting; i++) {
		struct ds_error reason;
		errno = 0;
		if (load_one(&store->waiting, waiting[i], true, &list[used], &reason)) {
			used++;
			continue;
		}
		if (errno == ENOENT)
			continue;
		ds_log("set aside %s/%s: %s", store->broken.path, waiting[i], reason.text);
		if (ds_directory_move(&store->waiting, waiting[i], &store->broken, &reason) < 0)
			ds_log("%s", reason.text);
	}
	qsort(list, used, sizeof(*list), compare_stored);
	size_t n_jobs = used;
	for (size_t i = 0; i < n_settled; i++) {
		if (n_jobs > 0 &&
		    bsearch(settled[i], list, n_jobs, sizeof(*list), compare_name_to_stored) &&
		    load_one(&store->settled, settled[i], false, &list[used], NULL))
			used++;
	}
	qsort(list, used, sizeof(*list), compare_stored);
	*records = list;
	*n = used;
	rv = 0;
out:
	ds_directory_names_free(waiting);
	ds_directory_names_free(settled);
	return rv;
}

void ds_store_free(struct ds_stored *records, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(records[i].name);
	free(records);
}

static int move(const struct ds_store *store, const struct ds_stored *record,
		const struct ds_directory *to, struct ds_error *err)
{
	struct stat st;
	int rv = 0;

	if (lock(store, err) < 0)
		return -1;
	if (fstatat(store->waiting.fd, record->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    st.st_ino == record->inode && st.st_mtim.tv_sec == record->stored.tv_sec &&
	    st.st_mtim.tv_nsec == record->stored.tv_nsec)
		rv = ds_directory_move(&store->waiting, record->name, to, err);
	unlock(store);
	return rv;
}

int ds_store_settle(const struct ds_store *store, const struct ds_stored *record,
		    struct ds_error *err)
{
	return move(store, record, &store->settled, err);
}

int ds_store_unclaim(const struct ds_store *store, const struct ds_stored *record,
		     struct ds_error *err)
{
	return move(store, record, &store->unclaimed, err);
}

void ds_store_expire(const struct ds_store *store, time_t age_s)
{
	char **names = ds_directory_names(&store->settled, NULL, NULL);
	time_t now = time(NULL);

	for (size_t i = 0; names && names[i]; i++) {
		struct stat st;
		if (fstatat(store->settled.fd, names[i], &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    now - st.st_mtime > age_s)
			unlinkat(store->settled.fd, names[i], 0);
	}
	ds_directory_names_free(names);
}

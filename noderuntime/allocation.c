/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/allocation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "noderuntime/port_protocol.h"

enum { STATE_MAGIC = 0x44535354 /* "DSST" */, STATE_VERSION = 5 };

bool ds_allocation_name_valid(const char *name)
{
	static const char allowed[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t length = strlen(name);

	return length > 0 && length < DS_NAME_SIZE && strspn(name, allowed) == length &&
	       name[0] != '.' && name[0] != '-' && strncmp(name, "gpu-", 4) != 0;
}

int ds_allocation_path(const struct ds_node_config *config, const char *name, const char *file,
		       char path[PATH_MAX], struct ds_error *err)
{
	int length = snprintf(path, PATH_MAX, "%s/%s%s%s", config->runtime_dir, name,
			      file ? "/" : "", file ? file : "");

	if (length < 0 || length >= PATH_MAX)
		return ds_fail(err, "runtime_dir %s is too long", config->runtime_dir);
	return 0;
}

int ds_allocation_create(const struct ds_node_config *config, const char *name,
			 struct ds_error *err)
{
	const char *runtime_dir = config->runtime_dir;
	char path[PATH_MAX];
	struct stat st;

	if (ds_allocation_path(config, name, NULL, path, err) < 0)
		return -1;
	if (mkdir(runtime_dir, 0755) == 0)
		chmod(runtime_dir, 0755); /* whatever the caller's umask is */
	else if (errno != EEXIST)
		return ds_fail(err, "cannot create %s: %s", runtime_dir, strerror(errno));
	/* Whoever can put files there decides what we open, and what tasks get preloaded. */
	if (lstat(runtime_dir, &st) < 0)
		return ds_fail(err, "cannot stat %s: %s", runtime_dir, strerror(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & S_IWOTH) ||
	    ((st.st_mode & S_IWGRP) && st.st_gid != 0))
		return ds_fail(err,
			       "%s must be a directory of uid %u that nobody else can write to",
			       runtime_dir, (unsigned)geteuid());
	if (mkdir(path, 0711) < 0 || chmod(path, 0711) < 0)
		return ds_fail(err, "cannot create %s: %s", path, strerror(errno));
	return 0;
}

int ds_allocation_write(const struct ds_node_config *config, const char *name, const char *file,
			mode_t mode, const char *text, struct ds_error *err)
{
	char path[PATH_MAX], temporary[PATH_MAX], temporary_file[64];

	snprintf(temporary_file, sizeof(temporary_file), "%.50s.new", file);
	if (ds_allocation_path(config, name, file, path, err) < 0 ||
	    ds_allocation_path(config, name, temporary_file, temporary, err) < 0)
		return -1;
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return ds_fail(err, "cannot create %s: %s", temporary, strerror(errno));
	int rc = ds_write_whole(fd, text, strlen(text));
	if (rc == 0)
		rc = fchmod(fd, mode);
	if (rc == 0)
		rc = rename(temporary, path);
	int reason = errno;
	close(fd);
	if (rc < 0) {
		unlink(temporary);
		errno = reason;
		return ds_fail(err, "cannot write %s: %s", path, strerror(reason));
	}
	return 0;
}

int ds_allocation_remove(const struct ds_node_config *config, const char *name,
			 struct ds_error *err)
{
	char path[PATH_MAX];
	const struct dirent *entry;

	if (ds_allocation_path(config, name, NULL, path, err) < 0)
		return -1;
	DIR *dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0
				       : ds_fail(err, "cannot open %s: %s", path, strerror(errno));
	while ((entry = readdir(dir))) {
		/* Only files are ever made here; anything else makes rmdir() fail and is told. */
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			unlinkat(dirfd(dir), entry->d_name, 0);
	}
	closedir(dir);
	if (rmdir(path) < 0 && errno != ENOENT)
		return ds_fail(err, "cannot remove %s: %s", path, strerror(errno));
	return 0;
}

int ds_allocation_save(int fd, const struct ds_allocation *allocation)
{
	struct ds_allocation copy = *allocation;

	copy.magic = STATE_MAGIC;
	copy.version = STATE_VERSION;
	return pwrite(fd, &copy, sizeof(copy), 0) == (ssize_t)sizeof(copy) ? 0 : -1;
}

int ds_allocation_open(const struct ds_node_config *config, const struct ds_allocation *allocation,
		       struct ds_error *err)
{
	char path[PATH_MAX];

	if (ds_allocation_path(config, allocation->name, "state", path, err) < 0)
		return -1;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return ds_fail(err, "cannot create %s: %s", path, strerror(errno));
	if (ds_allocation_save(fd, allocation) < 0) {
		ds_fail(err, "cannot write %s: %s", path, strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

int ds_allocation_read(const struct ds_node_config *config, const char *name,
		       struct ds_allocation *allocation, struct ds_error *err)
{
	char path[PATH_MAX];

	memset(allocation, 0, sizeof(*allocation));
	if (ds_allocation_path(config, name, "state", path, err) < 0)
		return -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return ds_fail(err, "cannot open %s: %s", path, strerror(errno));
	ssize_t n = pread(fd, allocation, sizeof(*allocation), 0);
	close(fd);
	if (n != (ssize_t)sizeof(*allocation) || allocation->magic != STATE_MAGIC ||
	    allocation->version != STATE_VERSION || strcmp(allocation->name, name) != 0) {
		memset(allocation, 0, sizeof(*allocation));
		errno = EINVAL;
		return ds_fail(err, "%s is not a whole state of this version", path);
	}
	return 0;
}

static int append_note(const struct ds_node_config *config, const char *name, const char *text,
		       struct ds_error *err)
{
	char path[PATH_MAX], line[1024];
	int rv = 0;

	if (ds_allocation_path(config, name, DS_PORT_LAST_NOTES, path, err) < 0)
		return -1;
	snprintf(line, sizeof(line), "%s\n", text);
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || write(fd, line, strlen(line)) != (ssize_t)strlen(line))
		rv = ds_fail(err, "cannot write to %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return rv;
}

int ds_allocation_note_late(const struct ds_node_config *config, const char *name, const char *text,
			    bool ended, struct ds_error *err)
{
	struct ds_allocation allocation;
	char path[PATH_MAX];
	int rv = -1;

	if (append_note(config, name, text, err) < 0 ||
	    ds_allocation_path(config, name, "state", path, err) < 0)
		return -1;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	/* Several of its neighbours may do this for several of its programs. */
	if (fd < 0 || flock(fd, LOCK_EX) < 0) {
		ds_fail(err, "cannot open and lock %s: %s", path, strerror(errno));
		goto done;
	}
	if (ds_allocation_read(config, name, &allocation, err) < 0)
		goto done;
	allocation.late_programs++;
	allocation.ended_programs += ended;
	if (ds_allocation_save(fd, &allocation) < 0)
		ds_fail(err, "cannot write %s: %s", path, strerror(errno));
	else
		rv = 0;
done:
	if (fd >= 0)
		close(fd);
	return rv;
}

struct ds_held_sms ds_allocation_sms(const struct ds_ledger_state *state,
				     const struct ds_ledger_resident *self)
{
	struct ds_groups others = {{0, 0}};

	/* Lent is what is to be another one's: nobody tells us when that lets its programs in. */
	for (uint32_t i = 0; i < state->n_residents; i++) {
		const struct ds_ledger_resident *other = &state->residents[i];
		if (other != self)
			others =
			    ds_groups_union(others, ds_groups_union(other->planned, other->held));
	}
	/* Less what it holds: a group that is shared in time is nobody's to lend. */
	others = ds_groups_difference(ds_groups_intersection(others, self->own), self->held);
	const struct ds_groups borrowed = ds_groups_difference(self->held, self->own);
	const struct ds_groups kept = ds_groups_intersection(self->held, self->own);
	const uint32_t lent_sms = ds_groups_sms(&others, &state->shape);
	return (struct ds_held_sms){.granted = ds_groups_sms(&kept, &state->shape) + lent_sms,
				    .borrowed = ds_groups_sms(&borrowed, &state->shape),
				    .lent = lent_sms};
}

void ds_allocation_count(struct ds_allocation *allocation, int64_t now_ns,
			 const struct ds_held_sms *held)
{
	int64_t passed_ns = now_ns - allocation->counted_until_ns;
	double passed_s = passed_ns > 0 ? (double)passed_ns / 1e9 : 0;

	allocation->granted_sm_s += allocation->held.granted * passed_s;
	allocation->borrowed_sm_s += allocation->held.borrowed * passed_s;
	allocation->lent_sm_s += allocation->held.lent * passed_s;
	allocation->counted_until_ns = now_ns;
	allocation->held = *held;
}

void ds_allocation_record(const struct ds_allocation *allocation, const char *node_name,
			  double end_unix_s, struct ds_usage_record *record)
{
	memset(record, 0, sizeof(*record));
	snprintf(record->node, sizeof(record->node), "%s", node_name);
	snprintf(record->class_name, sizeof(record->class_name), "%s",
		 allocation->grant.class_name);
	snprintf(record->gpu_uuid, sizeof(record->gpu_uuid), "%s", allocation->gpu_uuid);
	record->job_id = allocation->job_id;
	record->restart = allocation->restart;
	record->uid = allocation->uid;
	record->share_milli = allocation->grant.share_milli;
	record->begin_unix_s = allocation->begin_unix_s;
	/* A clock that was set back meanwhile must not make a record that nobody accepts. */
	record->end_unix_s =
	    end_unix_s < allocation->begin_unix_s ? allocation->begin_unix_s : end_unix_s;
	record->granted_sm_s = allocation->granted_sm_s;
	record->borrowed_sm_s = allocation->borrowed_sm_s;
	record->lent_sm_s = allocation->lent_sm_s;
	record->programs = allocation->programs;
	record->late_programs = allocation->late_programs;
	record->ended_programs = allocation->ended_programs;
	record->step_granted_max_milli = allocation->step_granted_max_milli;
	record->fault_code = allocation->fault_code;
	record->fault_suspect = allocation->fault_suspect;
	ds_measured_report(&allocation->measured, &record->reported);
	record->reported.memory_peak_mib = allocation->memory_peak_mib;
}

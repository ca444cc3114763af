/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/send.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "accounting/credential.h"
#include "accounting/directory.h"
#include "accounting/log.h"
#include "accounting/message.h"
#include "accounting/record.h"
#include "common/clock.h"

enum {
	ANSWER_MAX_S = 10, /* connect, send, or wait for the collector's next bytes */
	PAUSE_MIN_MS = 1000,
	PAUSE_MAX_MS = 60000,
	TEMPORARY_AGE_S = 3600,
	FOR_MAX_S = 30 * 86400,
};

struct sender {
	const struct ds_node_config *config;
	uid_t collector_uid;
	struct ds_directory spool;
	int lock_fd;
	int connection;      /* -1: none; kept from record to record */
	size_t n_left;       /* records that wait after the present round */
	struct ds_error why; /* the last reason why one does */
};

/* "root" or "0". */
static int find_user(const char *name, uid_t *uid, struct ds_error *err)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);
	const struct passwd *user;

	if (*name && !*end && number < UINT32_MAX) {
		*uid = (uid_t)number;
		return 0;
	}
	user = getpwnam(name);
	if (!user)
		return ds_fail(err, "usage_user = \"%s\": there is no such user", name);
	*uid = user->pw_uid;
	return 0;
}

static int connect_to(const struct ds_node_config *config, struct ds_error *err)
{
	const struct timeval patience = {.tv_sec = ANSWER_MAX_S};
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *addresses = NULL;
	char port[8];
	int fd = -1;
	int error = 0;

	snprintf(port, sizeof(port), "%u", config->usage_port);
	int rc = getaddrinfo(config->usage_host, port, &hints, &addresses);
	if (rc != 0)
		return ds_fail(err, "cannot find the collector's host %s: %s", config->usage_host,
			       gai_strerror(rc));
	for (const struct addrinfo *a = addresses; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd < 0) {
			error = errno;
			continue;
		}
		/* On Linux the send timeout bounds connect(), too. */
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
			error = errno == EINPROGRESS ? ETIMEDOUT : errno;
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(addresses);
	if (fd < 0)
		return ds_fail(err, "cannot connect to the collector at %s port %s: %s",
			       config->usage_host, port, strerror(error));
	return fd;
}

static const char *network_reason(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK ? "no answer in time" : strerror(error);
}

static int write_frame(int fd, const char *body, struct ds_error *err)
{
	size_t length = strlen(body), sent = 0;
	char frame[DS_MESSAGE_HEADER + DS_MESSAGE_BODY_MAX];

	if (length > DS_MESSAGE_BODY_MAX)
		return ds_fail(err, "cannot send a credential of %zu bytes: the limit is %d",
			       length, DS_MESSAGE_BODY_MAX);
	ds_message_header(length, frame);
	memcpy(frame + DS_MESSAGE_HEADER, body, length);
	length += DS_MESSAGE_HEADER;
	while (sent < length) {
		ssize_t n = send(fd, frame + sent, length - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ds_fail(err, "cannot send to the collector: %s",
				       network_reason(errno));
		sent += (size_t)n;
	}
	return 0;
}

static int read_frame(int fd, struct ds_message_reader *reader, struct ds_error *err)
{
	ds_message_reset(reader);
	for (;;) {
		ssize_t n = recv(fd, ds_message_room(reader), ds_message_wanted(reader), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ds_fail(err, "no answer from the collector: %s",
				       network_reason(errno));
		if (n == 0)
			return ds_fail(err, "the collector closed the connection without an "
					    "answer; its log says why");
		switch (ds_message_came(reader, (size_t)n)) {
		case DS_MESSAGE_MORE:
			break;
		case DS_MESSAGE_WHOLE:
			return 0;
		case DS_MESSAGE_BROKEN:
			return ds_fail(err, "what answers at the collector's port is no collector");
		}
	}
}

/* 128 random bits in hexadecimal, so that an answer fits one try only. */
static int make_nonce(char nonce[DS_NONCE_SIZE], struct ds_error *err)
{
	unsigned char bytes[(DS_NONCE_SIZE - 1) / 2];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return ds_fail(err, "cannot get random bytes: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(nonce + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

/* One record over, one answer back; the answer is signed by the collector and meant for this try. */
static int exchange(struct sender *sender, const struct ds_usage_record *record,
		    struct ds_answer *answer, struct ds_error *err)
{
	const char *munge = sender->config->munge_socket;
	struct ds_credential credential = {.text = NULL};
	struct ds_message_reader reader;
	char nonce[DS_NONCE_SIZE];
	char *message = NULL, *signed_message = NULL;
	size_t length;
	int rv = -1;

	if (make_nonce(nonce, err) < 0)
		return -1;
	message = ds_message_record_format(nonce, record);
	if (!message) {
		ds_fail(err, "cannot format the record of job %u: memory is out", record->job_id);
		goto out;
	}
	if (ds_credential_encode(munge, sender->collector_uid, message, &signed_message, err) < 0 ||
	    write_frame(sender->connection, signed_message, err) < 0 ||
	    read_frame(sender->connection, &reader, err) < 0)
		goto out;
	if (ds_credential_decode(munge, ds_message_body(&reader, &length), sender->collector_uid,
				 &credential, err) < 0) {
		ds_fail_within(err, "cannot believe the collector's answer");
		goto out;
	}
	if (ds_answer_parse(credential.text, credential.length, answer, err) < 0)
		goto out;
	if (strcmp(answer->nonce, nonce) != 0) {
		ds_fail(err, "the collector answered something else");
		goto out;
	}
	if (answer->verdict == DS_VERDICT_STORED &&
	    (answer->job_id != record->job_id || answer->restart != record->restart ||
	     strcmp(answer->node, record->node) != 0)) {
		ds_fail(err, "the collector stored job %u of %s instead of job %u of %s",
			answer->job_id, answer->node, record->job_id, record->node);
		goto out;
	}
	rv = 0;
out:
	free(credential.text);
	free(signed_message);
	free(message);
	return rv;
}

static bool is_unchanged(const struct sender *sender, const char *name, const struct stat *seen)
{
	struct stat now;

	return fstatat(sender->spool.fd, name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
	       now.st_ino == seen->st_ino && now.st_mtim.tv_sec == seen->st_mtim.tv_sec &&
	       now.st_mtim.tv_nsec == seen->st_mtim.tv_nsec;
}

/* Never tried again, never lost. */
static void set_aside(struct sender *sender, const char *name, const char *where,
		      const char *reason)
{
	struct ds_directory directory = DS_DIRECTORY_CLOSED;
	struct ds_error err;

	if (ds_directory_open_below(&sender->spool, where, &directory, &err) < 0 ||
	    ds_directory_move(&sender->spool, name, &directory, &err) < 0) {
		ds_log("%s", err.text);
		sender->why = err;
		sender->n_left++;
	} else {
		ds_log("set aside %s/%s: %s", directory.path, name, reason);
	}
	ds_directory_close(&directory);
}

static void disconnect(struct sender *sender)
{
	if (sender->connection >= 0)
		close(sender->connection);
	sender->connection = -1;
}

/* Returns -1 when the collector cannot be reached, so that trying more records is no use. */
static int deliver(struct sender *sender, const char *name, const struct ds_usage_record *record,
		   const struct stat *seen, struct ds_error *err)
{
	struct ds_answer answer;

	if (sender->connection < 0)
		sender->connection = connect_to(sender->config, err);
	if (sender->connection < 0 || exchange(sender, record, &answer, err) < 0) {
		disconnect(sender);
		return -1;
	}
	/* A record that was replaced meanwhile has not been delivered. */
	bool unchanged = is_unchanged(sender, name, seen);
	switch (answer.verdict) {
	case DS_VERDICT_STORED:
		if (unchanged)
			unlinkat(sender->spool.fd, name, 0);
		else
			sender->n_left++;
		break;
	case DS_VERDICT_REFUSED:
		if (unchanged)
			set_aside(sender, name, "refused", answer.reason);
		else
			sender->n_left++;
		break;
	case DS_VERDICT_LATER:
		ds_fail(&sender->why, "the collector cannot store now: %s", answer.reason);
		sender->n_left++;
		break;
	}
	return 0;
}

/* Try every record once. Returns -1 when the spool itself cannot be read. */
static int try_all(struct sender *sender, struct ds_error *err)
{
	char **names = ds_directory_names(&sender->spool, NULL, err);
	bool reachable = true;

	if (!names)
		return -1;
	sender->n_left = 0;
	for (size_t i = 0; names[i]; i++) {
		struct ds_usage_record record;
		struct ds_error reason = {""};
		struct stat seen;
		size_t length;
		char *data = ds_directory_read(&sender->spool, names[i], DS_USAGE_RECORD_MAX,
					       &length, &seen, &reason);

		if (!data && errno == ENOENT)
			continue;
		if (!data && errno != EINVAL && errno != EFBIG) {
			sender->why = reason;
			sender->n_left++;
			continue;
		}
		int parsed = data ? ds_usage_record_parse(data, length, &record, &reason) : -1;
		free(data);
		if (parsed < 0) {
			set_aside(sender, names[i], "broken", reason.text);
		} else if (!reachable ||
			   deliver(sender, names[i], &record, &seen, &sender->why) < 0) {
			reachable = false;
			sender->n_left++;
		}
	}
	disconnect(sender);
	ds_directory_names_free(names);
	return 0;
}

/*
 * Until when the sender at work goes on stands in the lock file, so that one who comes and finds
 * it at work can have it go on for longer, instead of waiting beside it. Real time, because the
 * file outlives a reboot.
 */
static long long read_deadline_ms(int lock_fd)
{
	char text[32] = "";

	if (pread(lock_fd, text, sizeof(text) - 1, 0) < 0)
		return 0;
	long long deadline = strtoll(text, NULL, 10);
	return deadline <= ds_now_ms(CLOCK_REALTIME) + FOR_MAX_S * 1000LL ? deadline : 0;
}

static void write_deadline_ms(int lock_fd, long long deadline_ms)
{
	char text[32];
	int length = snprintf(text, sizeof(text), "%020lld\n", deadline_ms);

	/* If it fails, the records only wait for the next sender. */
	if (pwrite(lock_fd, text, (size_t)length, 0) != length)
		ds_log("cannot write the lock file of the spool: %s", strerror(errno));
}

/*
 * Become the spool's one sender. Returns 1, or 0 when another is and knows our deadline, or -1. The
 * second try catches one that ended without having seen it.
 */
static int become_the_sender(const struct sender *sender, long long deadline_ms,
			     struct ds_error *err)
{
	for (int tries = 0; tries < 2; tries++) {
		if (flock(sender->lock_fd, LOCK_EX | LOCK_NB) == 0) {
			/* Whatever stands there is of one that was killed. */
			write_deadline_ms(sender->lock_fd, deadline_ms);
			return 1;
		}
		if (errno != EWOULDBLOCK)
			return ds_fail(err, "cannot lock %s: %s", sender->spool.path,
				       strerror(errno));
		if (deadline_ms > read_deadline_ms(sender->lock_fd))
			write_deadline_ms(sender->lock_fd, deadline_ms);
	}
	return 0;
}

/* Up to a quarter longer, at random: after an outage not all nodes come at the same instant. */
static long long with_jitter(long long pause_ms)
{
	uint16_t random = 0;

	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		random = (uint16_t)getpid();
	return pause_ms + pause_ms * random / (4 * 65536LL);
}

static void pause_ms(long long ms)
{
	struct timespec rest = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	while (nanosleep(&rest, &rest) < 0 && errno == EINTR)
		;
}

static int send_until_deadline(struct sender *sender, struct ds_error *err)
{
	long long pause = PAUSE_MIN_MS;

	for (;;) {
		if (try_all(sender, err) < 0)
			return -1;
		if (sender->n_left == 0)
			return 0;
		long long this_pause = with_jitter(pause);
		if (ds_now_ms(CLOCK_REALTIME) + this_pause > read_deadline_ms(sender->lock_fd))
			return ds_fail(err, "%zu usage records wait in %s: %s", sender->n_left,
				       sender->spool.path, sender->why.text);
		pause_ms(this_pause);
		pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
	}
}

static bool spool_has_records(const struct sender *sender)
{
	size_t n = 0;
	char **names = ds_directory_names(&sender->spool, &n, NULL);

	ds_directory_names_free(names);
	return n > 0;
}

int ds_send(const struct ds_node_config *config, unsigned for_s, struct ds_error *err)
{
	struct sender sender = {
	    .config = config, .spool = DS_DIRECTORY_CLOSED, .lock_fd = -1, .connection = -1};
	int rv = -1;

	if (!*config->usage_host)
		return 0; /* a site without a collector: records stay, and that is no news */
	if (find_user(config->usage_user, &sender.collector_uid, err) < 0 ||
	    ds_directory_open(config->spool_dir, &sender.spool, err) < 0)
		goto out;
	sender.lock_fd =
	    openat(sender.spool.fd, ".send.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (sender.lock_fd < 0) {
		ds_fail(err, "cannot open %s/.send.lock: %s", sender.spool.path, strerror(errno));
		goto out;
	}
	ds_directory_sweep(&sender.spool, TEMPORARY_AGE_S);

	long long deadline_ms = ds_now_ms(CLOCK_REALTIME) + for_s * 1000LL;
	bool again;
	do {
		int mine = become_the_sender(&sender, deadline_ms, err);
		if (mine <= 0) {
			rv = mine;
			goto out;
		}
		rv = send_until_deadline(&sender, err);
		flock(sender.lock_fd, LOCK_UN);
		/* Somebody who found us at work may have left a record, or a later deadline. */
		long long later_ms = read_deadline_ms(sender.lock_fd);
		again = spool_has_records(&sender) &&
			(rv == 0 || later_ms > ds_now_ms(CLOCK_REALTIME) + PAUSE_MAX_MS);
		if (later_ms > deadline_ms)
			deadline_ms = later_ms;
	} while (again);
out:
	if (sender.lock_fd >= 0)
		close(sender.lock_fd);
	ds_directory_close(&sender.spool);
	return rv;
}

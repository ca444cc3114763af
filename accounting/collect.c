/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/collect.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "accounting/credential.h"
#include "accounting/log.h"
#include "accounting/message.h"
#include "accounting/settler.h"
#include "accounting/store.h"
#include "common/clock.h"

enum {
	LISTENERS_MAX = 8,
	CONNECTIONS_MAX = 64,
	MESSAGE_MAX_MS = 10000, /* for a whole message, or for taking a whole answer */
	COMPLAINT_PAUSE_MS = 10000,
	PEER_SIZE = NI_MAXHOST,
};

struct connection {
	int fd; /* -1: free */
	long long deadline_ms;
	char peer[PEER_SIZE];
	struct ds_message_reader *reader;
	char *answer; /* the frame to send; NULL: reading */
	size_t answer_length, answer_sent;
};

struct collector {
	const struct ds_collector_config *config;
	struct ds_store store;
	struct ds_settler settler;
	int only_fd; /* the right to be the one collector */
	int signal_fd;
	int listeners[LISTENERS_MAX];
	size_t n_listeners;
	struct connection connections[CONNECTIONS_MAX];
	long long complained_ms; /* a stranger must not fill the log */
	unsigned n_unsaid;
	bool ending;
};

static void complain(struct collector *collector, const char *peer, const char *reason)
{
	long long now = ds_now_ms(CLOCK_BOOTTIME);

	if (collector->complained_ms && now - collector->complained_ms < COMPLAINT_PAUSE_MS) {
		collector->n_unsaid++;
		return;
	}
	if (collector->n_unsaid)
		ds_log("%s: %s (and %u more like it)", peer, reason, collector->n_unsaid);
	else
		ds_log("%s: %s", peer, reason);
	collector->complained_ms = now;
	collector->n_unsaid = 0;
}

static void hang_up(struct connection *connection)
{
	close(connection->fd);
	free(connection->reader);
	free(connection->answer);
	*connection = (struct connection){.fd = -1};
}

/* A free place, or that of whoever has had theirs longest: silence buys nothing. */
static struct connection *make_room(struct collector *collector)
{
	struct connection *oldest = &collector->connections[0];

	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *connection = &collector->connections[i];
		if (connection->fd < 0)
			return connection;
		if (connection->deadline_ms < oldest->deadline_ms)
			oldest = connection;
	}
	hang_up(oldest);
	return oldest;
}

static void welcome(struct collector *collector, int listener)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);
	int fd =
	    accept4(listener, (struct sockaddr *)&address, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return; /* it went away again; EMFILE cannot be: places are bounded */

	struct connection *connection = make_room(collector);
	connection->reader = malloc(sizeof(*connection->reader));
	if (!connection->reader) {
		close(fd);
		return;
	}
	ds_message_reset(connection->reader);
	connection->fd = fd;
	connection->deadline_ms = ds_now_ms(CLOCK_BOOTTIME) + MESSAGE_MAX_MS;
	if (getnameinfo((struct sockaddr *)&address, size, connection->peer,
			sizeof(connection->peer), NULL, 0, NI_NUMERICHOST) != 0)
		snprintf(connection->peer, sizeof(connection->peer), "?");
}

/* What to say to a message that came from a friend. */
static void judge(struct collector *collector, const char *peer,
		  const struct ds_credential *credential, struct ds_answer *answer)
{
	struct ds_usage_record record;
	struct ds_error err = {""};

	*answer = (struct ds_answer){.verdict = DS_VERDICT_REFUSED};
	if (ds_message_record_parse(credential->text, credential->length, answer->nonce, &record,
				    &err) < 0) {
		ds_log("%s: %s", peer, err.text);
		snprintf(answer->reason, sizeof(answer->reason), "%s", err.text);
		return;
	}
	answer->job_id = record.job_id;
	answer->restart = record.restart;
	snprintf(answer->node, sizeof(answer->node), "%s", record.node);
	if (ds_store_put(&collector->store, &record, &err) < 0) {
		ds_log("%s", err.text);
		answer->verdict = DS_VERDICT_LATER;
		snprintf(answer->reason, sizeof(answer->reason), "%s", err.text);
		return;
	}
	answer->verdict = DS_VERDICT_STORED;
	/* The node's own word against the address munge vouches for: kept where an operator looks. */
	ds_log("stored job %u.%u of node %s, signed on %s by uid %u, from %s", record.job_id,
	       record.restart, record.node, credential->origin, (unsigned)credential->uid, peer);
	ds_settler_ask(&collector->settler, ds_now_ms(CLOCK_BOOTTIME));
}

static int prepare_answer(struct collector *collector, struct connection *connection,
			  const struct ds_answer *answer, uid_t reader, struct ds_error *err)
{
	char *json = ds_answer_format(answer);
	char *credential = NULL;
	int rv = -1;

	if (!json) {
		ds_fail(err, "cannot answer: memory is out");
		goto out;
	}
	if (ds_credential_encode(collector->config->munge_socket, reader, json, &credential, err) <
	    0)
		goto out;
	size_t length = strlen(credential);
	connection->answer = malloc(DS_MESSAGE_HEADER + length);
	if (!connection->answer) {
		ds_fail(err, "cannot answer: memory is out");
		goto out;
	}
	ds_message_header(length, connection->answer);
	memcpy(connection->answer + DS_MESSAGE_HEADER, credential, length);
	connection->answer_length = DS_MESSAGE_HEADER + length;
	connection->answer_sent = 0;
	connection->deadline_ms = ds_now_ms(CLOCK_BOOTTIME) + MESSAGE_MAX_MS;
	rv = 0;
out:
	free(credential);
	free(json);
	return rv;
}

/* A whole message is there. Returns -1 when the connection has to go. */
static int take_message(struct collector *collector, struct connection *connection)
{
	struct ds_credential credential;
	struct ds_answer answer;
	struct ds_error err;
	size_t length;

	/* Strangers, forgers and replayers get no answer, and cost no more than this. */
	if (ds_credential_decode(collector->config->munge_socket,
				 ds_message_body(connection->reader, &length), geteuid(),
				 &credential, &err) < 0) {
		complain(collector, connection->peer, err.text);
		return -1;
	}
	judge(collector, connection->peer, &credential, &answer);
	free(credential.text);
	if (prepare_answer(collector, connection, &answer, credential.uid, &err) < 0) {
		complain(collector, connection->peer, err.text);
		return -1;
	}
	ds_message_reset(connection->reader);
	return 0;
}

static int read_more(struct collector *collector, struct connection *connection)
{
	ssize_t n = recv(connection->fd, ds_message_room(connection->reader),
			 ds_message_wanted(connection->reader), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -1;
	switch (ds_message_came(connection->reader, (size_t)n)) {
	case DS_MESSAGE_MORE:
		return 0;
	case DS_MESSAGE_WHOLE:
		return take_message(collector, connection);
	case DS_MESSAGE_BROKEN:
		complain(collector, connection->peer, "not a usage message");
		break;
	}
	return -1;
}

static int write_more(struct connection *connection)
{
	ssize_t n = send(connection->fd, connection->answer + connection->answer_sent,
			 connection->answer_length - connection->answer_sent, MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	connection->answer_sent += (size_t)n;
	if (connection->answer_sent == connection->answer_length) {
		free(connection->answer);
		connection->answer = NULL;
		connection->deadline_ms = ds_now_ms(CLOCK_BOOTTIME) + MESSAGE_MAX_MS;
	}
	return 0;
}

static void serve(struct collector *collector, struct connection *connection)
{
	int rc = connection->answer ? write_more(connection) : read_more(collector, connection);

	/* An answer nearly always fits into the socket's buffer: no need to poll for that. */
	if (rc == 0 && connection->answer && connection->answer_sent == 0)
		rc = write_more(connection);
	if (rc < 0)
		hang_up(connection);
}

static void handle_signals(struct collector *collector)
{
	struct signalfd_siginfo info;

	while (read(collector->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			ds_settler_reap(&collector->settler, ds_now_ms(CLOCK_BOOTTIME));
		else
			collector->ending = true;
	}
}

static void hang_up_on_the_late(struct collector *collector)
{
	long long now = ds_now_ms(CLOCK_BOOTTIME);

	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *connection = &collector->connections[i];
		if (connection->fd >= 0 && connection->deadline_ms <= now)
			hang_up(connection);
	}
}

/* Milliseconds until something is due, for poll(). */
static int patience(const struct collector *collector, long long end_ms)
{
	long long due = end_ms;

	if (!collector->settler.pid && collector->settler.next_ms < due)
		due = collector->settler.next_ms;
	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		const struct connection *connection = &collector->connections[i];
		if (connection->fd >= 0 && connection->deadline_ms < due)
			due = connection->deadline_ms;
	}
	long long rest = due - ds_now_ms(CLOCK_BOOTTIME);
	if (rest < 0)
		return 0;
	/* One more, so that it is due when poll() returns, not a fraction before. */
	return rest >= INT_MAX ? INT_MAX : (int)rest + 1;
}

enum { FDS_MAX = 2 + LISTENERS_MAX + CONNECTIONS_MAX };

static void turn(struct collector *collector, long long end_ms)
{
	struct pollfd fds[FDS_MAX] = {
	    {.fd = collector->signal_fd, .events = POLLIN},
	    {.fd = collector->settler.output, .events = POLLIN},
	};
	struct pollfd *listeners = fds + 2;
	struct pollfd *connections = listeners + LISTENERS_MAX;

	for (size_t i = 0; i < LISTENERS_MAX; i++) {
		listeners[i].fd = i < collector->n_listeners ? collector->listeners[i] : -1;
		listeners[i].events = POLLIN;
	}
	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		connections[i].fd = collector->connections[i].fd;
		connections[i].events = collector->connections[i].answer ? POLLOUT : POLLIN;
	}
	if (poll(fds, FDS_MAX, patience(collector, end_ms)) > 0) {
		if (fds[1].revents)
			ds_settler_read(&collector->settler);
		if (fds[0].revents)
			handle_signals(collector);
		for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
			if (connections[i].revents)
				serve(collector, &collector->connections[i]);
		}
		for (size_t i = 0; i < collector->n_listeners; i++) {
			if (listeners[i].revents)
				welcome(collector, collector->listeners[i]);
		}
	}
	hang_up_on_the_late(collector);
	ds_settler_tick(&collector->settler, ds_now_ms(CLOCK_BOOTTIME));
}

static int listen_on(struct collector *collector, struct ds_error *err)
{
	const struct ds_collector_config *config = collector->config;
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *addresses = NULL;
	char port[8];
	int on = 1, error = 0;

	snprintf(port, sizeof(port), "%u", config->port);
	int rc = getaddrinfo(*config->listen ? config->listen : NULL, port, &hints, &addresses);
	if (rc != 0)
		return ds_fail(err, "cannot listen on %s: %s", config->listen, gai_strerror(rc));
	for (const struct addrinfo *a = addresses; a && collector->n_listeners < LISTENERS_MAX;
	     a = a->ai_next) {
		int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
				a->ai_protocol);
		if (fd < 0)
			continue; /* a host without IPv6 */
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (a->ai_family == AF_INET6)
			setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
		if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
			error = errno;
			close(fd);
			continue;
		}
		collector->listeners[collector->n_listeners++] = fd;
	}
	freeaddrinfo(addresses);
	if (collector->n_listeners == 0)
		return ds_fail(err, "cannot listen on %s port %s: %s",
			       *config->listen ? config->listen : "any address", port,
			       strerror(error));
	return 0;
}

static int catch_signals(struct collector *collector, struct ds_error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGCHLD);
	/* A supervisor may have left SIGCHLD ignored; then there would be no exit status. */
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 ||
	    (collector->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
		return ds_fail(err, "cannot wait for signals: %s", strerror(errno));
	return 0;
}

int ds_collect(const struct ds_collector_config *config, unsigned for_s, struct ds_error *err)
{
	struct collector collector = {
	    .config = config, .store = DS_STORE_CLOSED, .only_fd = -1, .signal_fd = -1};
	long long end_ms = for_s ? ds_now_ms(CLOCK_BOOTTIME) + for_s * 1000LL : INT64_MAX;
	int rv = -1;

	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		collector.connections[i].fd = -1;
	ds_settler_init(&collector.settler, config, ds_now_ms(CLOCK_BOOTTIME));
	if (ds_store_open(config->state_dir, &collector.store, err) < 0)
		goto out;
	collector.only_fd = ds_store_only_one(&collector.store, "collect", err);
	if (collector.only_fd < 0 || catch_signals(&collector, err) < 0 ||
	    listen_on(&collector, err) < 0)
		goto out;
	while (!collector.ending && ds_now_ms(CLOCK_BOOTTIME) < end_ms)
		turn(&collector, end_ms);
	rv = 0;
out:
	ds_settler_stop(&collector.settler);
	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		if (collector.connections[i].fd >= 0)
			hang_up(&collector.connections[i]);
	}
	for (size_t i = 0; i < collector.n_listeners; i++)
		close(collector.listeners[i]);
	if (collector.signal_fd >= 0)
		close(collector.signal_fd);
	if (collector.only_fd >= 0)
		close(collector.only_fd);
	ds_store_close(&collector.store);
	return rv;
}

int ds_settle_once(const struct ds_collector_config *config, struct ds_error *err)
{
	int status;
	pid_t pid = ds_settler_spawn(config, -1, err);

	if (pid < 0)
		return -1;
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return ds_fail(err, "cannot wait for %s: %s", config->settle_program,
				       strerror(errno));
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == EX_TEMPFAIL)
		return 1;
	return ds_fail(err, "%s failed (wait status %#x)", config->settle_program,
		       (unsigned)status);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stand-in for nvidia-cuda-mps-control: the same commands and files, for clients of the emulated GPU.
 * What the MPS server does for its clients (running their work together, dying together) happens in
 * the GPU's shared memory; the server process here only has the pid by which it is known.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <fcntl.h>
#include <unistd.h>

#include "tests/emugpu/mps_protocol.h"
#include "tests/emugpu/shm.h"

enum { CUDA_ERROR_MPS_CLIENT_TERMINATED = 810, ANSWER_SIZE = 65536 };

struct client {
	int fd; /* -1: free */
	pid_t pid;
	uid_t uid;
	bool served; /* has its server; else it waits for another user's clients to go */
	pid_t first; /* who had been served before all others when it was served */
	bool terminated;
	char emugpu_dir[PATH_MAX];
};

static struct client clients[EMU_MPS_CLIENT_MAX];

/* Clients that are gone, and listed until then: their work on the GPU ends later than they do. */
static struct {
	pid_t pid;
	uint64_t until_ns;
} lingering[EMU_MPS_CLIENT_MAX];
static uint64_t linger_ns;
static pid_t server;
/* Bytes, per device: for servers to come, and for clients to come of the server that runs; 0: none. */
static uint64_t default_limits[16], limits[16];
static uid_t server_uid;
static bool multiuser;
static double percentage = 100; /* what is set is told, and has no effect */
static char pipe_dir[PATH_MAX], log_dir[PATH_MAX];
static uint64_t quit_at_ns; /* 0: nobody asked to quit */
static int quit_fd = -1;    /* who asked: is answered by the end of the daemon */

static const char usage[] =
    "Usage: nvidia-cuda-mps-control -d | -f [-M]   start the daemon (-f: in the foreground)\n"
    "       nvidia-cuda-mps-control                commands from standard input\n";

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void note(const char *format, ...)
{
	char path[PATH_MAX + 16];
	va_list args;
	FILE *log;

	snprintf(path, sizeof(path), "%s/control.log", log_dir);
	log = fopen(path, "ae");
	if (!log)
		return;
	fprintf(log, "[%lld Control %d] ", (long long)time(NULL), (int)getpid());
	va_start(args, format);
	vfprintf(log, format, args);
	va_end(args);
	fputc('\n', log);
	fclose(log);
}

/* A line of server.log, as the real server writes it. */
static void server_says(pid_t client, const char *what)
{
	char path[PATH_MAX + 16];
	FILE *log;

	snprintf(path, sizeof(path), "%s/server.log", log_dir);
	log = fopen(path, "ae");
	if (!log)
		return;
	fprintf(log, "[%lld Server %d] Client {PID: %d, %s\n", (long long)time(NULL), (int)server,
		(int)client, what);
	fclose(log);
}

static struct sockaddr_un address_of(const char *dir)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, EMU_MPS_SOCKET) >=
	    (int)sizeof(address.sun_path)) {
		fprintf(stderr, "nvidia-cuda-mps-control: %s/%s is too long for a socket's name\n",
			dir, EMU_MPS_SOCKET);
		exit(1);
	}
	return address;
}

/* ---- signals that end it ---- */

static volatile sig_atomic_t stopped;
static sigset_t
    heard; /* the signals that are let through while the daemon waits, and by its server */

static void stop(int signal_number)
{
	(void)signal_number;
	stopped = 1;
}

/* Before anybody can know the daemon's pid; and blocked but while it waits, so that none comes just before that. */
static void catch_stop(void)
{
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, &heard);
	sigaction(SIGTERM, &(struct sigaction){.sa_handler = stop}, NULL);
	sigaction(SIGINT, &(struct sigaction){.sa_handler = stop}, NULL);
}

/* ---- the server process ---- */

static void start_server(uid_t uid)
{
	server_uid = uid;
	memcpy(limits, default_limits, sizeof(limits));
	server = fork();
	if (server)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "nvidia-cuda-mps-server");
	signal(SIGTERM, SIG_DFL);
	sigprocmask(SIG_SETMASK, &heard, NULL);
	for (int fd = 0; fd < 1024; fd++)
		close(fd);
	for (;;)
		pause();
}

static void stop_server(void)
{
	if (server <= 0)
		return;
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	note("server %d exited", (int)server);
	server = 0;
}

/* One that was killed is replaced for the next client, as the real daemon does. */
static void notice_dead_server(void)
{
	if (server > 0 && waitpid(server, NULL, WNOHANG) == server) {
		note("server %d is gone", (int)server);
		server = 0;
	}
}

/* ---- clients ---- */

static unsigned n_served(void)
{
	unsigned n = 0;

	for (int i = 0; i < EMU_MPS_CLIENT_MAX; i++)
		n += clients[i].fd >= 0 && clients[i].served;
	return n;
}

/* One user at a time, unless the daemon was started with -M. */
static void serve_waiting(void)
{
	notice_dead_server();
	for (int i = 0; i < EMU_MPS_CLIENT_MAX; i++) {
		struct client *c = &clients[i];
		if (c->fd < 0 || c->served)
			continue;
		if (server > 0 && !multiuser && server_uid != c->uid) {
			if (n_served())
				continue;
			stop_server();
		}
		if (server <= 0) {
			start_server(c->uid);
			note("server %d for user %u", (int)server, (unsigned)c->uid);
		}
		struct emu_mps_reply reply = {.server_pid = server};
		memcpy(reply.memory_limits, limits, sizeof(reply.memory_limits));
		c->served =
		    send(c->fd, &reply, sizeof(reply), MSG_NOSIGNAL) == (ssize_t)sizeof(reply);
		c->first = c->pid;
		for (int k = 0; k < EMU_MPS_CLIENT_MAX; k++)
			if (k != i && clients[k].fd >= 0 && clients[k].served)
				c->first = clients[k].first;
		note("client %d of user %u connected to server %d", (int)c->pid, (unsigned)c->uid,
		     (int)server);
		server_says(c->pid, "Context ID: 1} connected");
	}
}

/* Give a client's process a sticky error on its GPUs; 0: it is gone. */
static void fault_client(const struct client *c, int fault)
{
	struct emu_map map;

	for (unsigned gpu = 0; gpu < EMU_GPUS_MAX && !emu_gpu_open(c->emugpu_dir, gpu, &map);
	     gpu++) {
		emu_lock(map.gpu);
		if (fault)
			emu_fault_process(map.gpu, c->pid, fault);
		else
			emu_client_lost(map.gpu, c->pid);
		emu_unlock(map.gpu);
		emu_gpu_close(&map);
	}
}

static void terminate(struct client *c)
{
	fault_client(c, CUDA_ERROR_MPS_CLIENT_TERMINATED);
	c->terminated = true;
	note("client %d terminated", (int)c->pid);
}

/* ---- commands ---- */

static void say(char *answer, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(char *answer, const char *format, ...)
{
	size_t used = strlen(answer);
	va_list args;

	va_start(args, format);
	vsnprintf(answer + used, ANSWER_SIZE - used, format, args);
	va_end(args);
}

/* The program's first word, as ps(1) shows it. */
static void command_of(pid_t pid, char *text, size_t size)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	snprintf(text, size, "?");
	f = fopen(path, "re");
	if (!f)
		return;
	if (!fgets(text, (int)size, f)) /* ends at the first word's NUL for all who print it */
		snprintf(text, size, "?");
	fclose(f);
}

/* The GPU that a client uses, cut as the real program cuts it. */
static void device_of(const struct client *c, char *text, size_t size)
{
	struct emu_map map;

	snprintf(text, size, "-");
	for (unsigned gpu = 0; gpu < EMU_GPUS_MAX && !emu_gpu_open(c->emugpu_dir, gpu, &map);
	     gpu++) {
		emu_lock(map.gpu);
		for (int i = 0; i < EMU_CLIENTS_MAX; i++)
			if (map.gpu->clients[i].in_use && map.gpu->clients[i].pid == c->pid)
				snprintf(text, size, "%.22s", map.gpu->uuid);
		emu_unlock(map.gpu);
		emu_gpu_close(&map);
	}
}

static unsigned long namespace_of(pid_t pid)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
	return stat(path, &st) ? 0 : (unsigned long)st.st_ino;
}

static void linger(pid_t pid)
{
	for (int i = 0; linger_ns && i < EMU_MPS_CLIENT_MAX; i++) {
		if (lingering[i].until_ns > emu_now_ns())
			continue;
		lingering[i].pid = pid;
		lingering[i].until_ns = emu_now_ns() + linger_ns;
		return;
	}
}

static void list_clients(char *answer, bool table)
{
	char program[256], device[32];

	if (table)
		say(answer, "%-9s %-9s %-14s %-25s %-14s %-15s\n", "PID", "ID", "SERVER", "DEVICE",
		    "NAMESPACE", "COMMAND");
	for (int i = 0; i < EMU_MPS_CLIENT_MAX; i++) {
		const struct client *c = &clients[i];
		if (c->fd < 0 || !c->served || c->terminated)
			continue;
		if (!table) {
			say(answer, "%d\n", (int)c->pid);
			continue;
		}
		command_of(c->pid, program, sizeof(program));
		device_of(c, device, sizeof(device));
		say(answer, "%-9d %-9d %-14d %-25s %-14lu %-15s\n", (int)c->pid, i + 1, (int)server,
		    device, namespace_of(c->pid), program);
	}
	for (int i = 0; !table && i < EMU_MPS_CLIENT_MAX; i++)
		if (lingering[i].until_ns > emu_now_ns())
			say(answer, "%d\n", (int)lingering[i].pid);
}

static void terminate_command(char *answer, long server_pid, long pid)
{
	for (int i = 0; i < EMU_MPS_CLIENT_MAX; i++)
		if (clients[i].fd >= 0 && clients[i].served && !clients[i].terminated &&
		    clients[i].pid == pid && server_pid == server) {
			terminate(&clients[i]);
			say(answer, "0\n");
			return;
		}
	say(answer, "Invalid process %ld!\n1\n", pid);
}

/* "0", or with a daemon of one GPU its UUID. -1: no such device. */
static int device_number(const char *text)
{
	char *end;
	unsigned long device = strtoul(text, &end, 10);

	if (!strncmp(text, "GPU-", 4))
		return 0;
	return *end || end == text || device >= 16 ? -1 : (int)device;
}

/* "10G", "512M". */
static bool parse_limit(const char *text, uint64_t *bytes)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	*bytes = *end == 'G' ? value << 30 : value << 20;
	return end != text && (*end == 'G' || *end == 'M') && !end[1];
}

static void set_limit(uint64_t *of, const char *device, const char *value, char *answer)
{
	int n = device ? device_number(device) : -1;
	uint64_t bytes;

	if (n < 0 || !value || !parse_limit(value, &bytes))
		say(answer, "Invalid device or limit\n");
	else
		of[n] = bytes;
}

/* As the driver shows it: whole gigabytes, or megabytes below one. */
static void show_limit(const uint64_t *of, const char *device, char *answer)
{
	int n = device ? device_number(device) : -1;

	if (n < 0)
		say(answer, "Invalid device\n");
	else if (of[n] >> 30)
		say(answer, "%lluG\n", (unsigned long long)(of[n] >> 30));
	else
		say(answer, "%lluM\n", (unsigned long long)(of[n] >> 20));
}

static void command(char *text, char *answer)
{
	char *rest, *word = strtok_r(text, " \t\n", &rest);
	char *first = word ? strtok_r(NULL, " \t\n", &rest) : NULL;
	char *second = first ? strtok_r(NULL, " \t\n", &rest) : NULL;
	char *third = second ? strtok_r(NULL, " \t\n", &rest) : NULL;

	if (!word)
		return;
	if (!strcmp(word, "get_server_list")) {
		if (server > 0)
			say(answer, "%d\n", (int)server);
	} else if (!strcmp(word, "get_client_list") && first) {
		if (server > 0 && atol(first) == server)
			list_clients(answer, false);
		else
			say(answer, "Server %s not found\n", first);
	} else if (!strcmp(word, "ps")) {
		list_clients(answer, true);
	} else if (!strcmp(word, "get_server_status") && first) {
		say(answer,
		    server > 0 && atol(first) == server ? "ACTIVE\n" : "Server not found\n");
	} else if (!strcmp(word, "get_default_active_thread_percentage")) {
		say(answer, "%.1f\n", percentage);
	} else if (!strcmp(word, "set_default_active_thread_percentage") && first) {
		percentage = strtod(first, NULL);
	} else if (!strcmp(word, "start_server") && first && !strcmp(first, "-uid") && second) {
		if (server <= 0)
			start_server((uid_t)strtoul(second, NULL, 10));
	} else if (!strcmp(word, "terminate_client") && second) {
		terminate_command(answer, atol(first), atol(second));
	} else if (!strcmp(word, "set_default_device_pinned_mem_limit")) {
		set_limit(default_limits, first, second, answer);
	} else if (!strcmp(word, "get_default_device_pinned_mem_limit")) {
		show_limit(default_limits, first, answer);
	} else if (!strcmp(word, "set_device_pinned_mem_limit") && first) {
		if (server > 0 && atol(first) == server)
			set_limit(limits, second, third, answer);
		else
			say(answer, "Server %s not found\n", first);
	} else if (!strcmp(word, "get_device_pinned_mem_limit") && first) {
		if (server > 0 && atol(first) == server)
			show_limit(limits, second, answer);
		else
			say(answer, "Server %s not found\n", first);
	} else if (!strcmp(word, "quit")) {
		/* Waits for the clients to go; -t: ends them after so many seconds. */
		double wait_s =
		    first && !strcmp(first, "-t") && second ? strtod(second, NULL) : 1e9;
		quit_at_ns = emu_now_ns() + (uint64_t)(wait_s * 1e9);
	} else {
		say(answer, "Unknown command \"%s\"\n", word);
	}
}

/* ---- the daemon ---- */

static void accept_one(int listener)
{
	struct emu_mps_request request;
	struct ucred peer;
	socklen_t size = sizeof(peer);
	struct timeval patience = {.tv_sec = 2};
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) ||
	    recv(fd, &request, sizeof(request), 0) != (ssize_t)sizeof(request)) {
		close(fd);
		return;
	}
	request.text[sizeof(request.text) - 1] = '\0';
	if (request.kind == EMU_MPS_COMMAND) {
		static char answer[ANSWER_SIZE];
		answer[0] = '\0';
		command(request.text, answer);
		if (answer[0])
			send(fd, answer, strlen(answer), MSG_NOSIGNAL);
		if (quit_at_ns && quit_fd < 0)
			quit_fd = fd;
		else
			close(fd);
		return;
	}
	for (int i = 0; i < EMU_MPS_CLIENT_MAX; i++)
		if (clients[i].fd < 0) {
			clients[i] = (struct client){.fd = fd, .pid = peer.pid, .uid = peer.uid};
			memcpy(clients[i].emugpu_dir, request.text, sizeof(request.text));
			return;
		}
	close(fd);
}

/*
 * A client says one thing only after it was served: that the GPU's error was its own. The real server
 * names the client that connected first; where there is a file mps-tells in EMUGPU_DIR, it can tell.
 */
static bool had_fault(const struct client *c)
{
	char path[PATH_MAX + 16], byte;

	if (recv(c->fd, &byte, 1, MSG_DONTWAIT) != 1)
		return false;
	snprintf(path, sizeof(path), "%s/mps-tells", c->emugpu_dir);
	server_says(access(path, F_OK) == 0 ? c->pid : c->first,
		    "Context: 1} encountered a fatal GPU error.");
	return true;
}

static int serve(int listener)
{
	struct pollfd fds[EMU_MPS_CLIENT_MAX + 1];

	while (!stopped) {
		int n = 0, of[EMU_MPS_CLIENT_MAX + 1];
		fds[n++] = (struct pollfd){.fd = listener, .events = POLLIN};
		for (int i = 0; i < EMU_MPS_CLIENT_MAX; i++)
			if (clients[i].fd >= 0) {
				of[n] = i;
				fds[n++] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
			}
		if (quit_at_ns && (n == 1 || emu_now_ns() >= quit_at_ns))
			break;
		if (ppoll(fds, (nfds_t)n,
			  quit_at_ns ? &(struct timespec){.tv_nsec = 20 * 1000000} : NULL,
			  &heard) < 0)
			continue;
		for (int k = 1; k < n; k++)
			if (fds[k].revents && !had_fault(&clients[of[k]])) { /* it went */
				fault_client(&clients[of[k]], 0);
				linger(clients[of[k]].pid);
				close(clients[of[k]].fd);
				clients[of[k]].fd = -1;
			}
		if (fds[0].revents)
			accept_one(listener);
		serve_waiting();
	}
	stop_server(); /* clients that are left fail, as those of a server that died */
	return 0;
}

static int in_dir(const char *name, char *path, size_t size)
{
	return snprintf(path, size, "%s/%s", pipe_dir, name) < (int)size ? 0 : -1;
}

/* From here on the daemon can be asked to end. */
static int write_pid(void)
{
	char path[PATH_MAX + 32];
	FILE *f;

	catch_stop();
	in_dir("nvidia-cuda-mps-control.pid", path, sizeof(path));
	f = fopen(path, "we");
	if (!f)
		return -1;
	fprintf(f, "%d\n", (int)getpid());
	return fclose(f);
}

static int detach(void)
{
	int ready[2], null;
	char byte;
	pid_t child;

	if (pipe2(ready, O_CLOEXEC))
		return -1;
	child = fork();
	if (child < 0)
		return -1;
	if (child) {
		close(ready[1]);
		_exit(read(ready[0], &byte, 1) == 1 ? 0 : 1);
	}
	setsid();
	child = fork();
	if (child)
		_exit(child < 0);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close(null);
	if (chdir("/") || write_pid() || write(ready[1], "", 1) != 1)
		_exit(1);
	close(ready[0]);
	close(ready[1]);
	return 0;
}

static int run_daemon(bool background)
{
	struct sockaddr_un address = address_of(pipe_dir);
	char pid_path[PATH_MAX + 32];
	int rc, listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (listener < 0)
		return 1;
	if (!connect(listener, (struct sockaddr *)&address, sizeof(address))) {
		fprintf(stderr, "An instance of this daemon is already running\n");
		close(listener);
		return 1;
	}
	unlink(address.sun_path);
	/* Every user's programs connect; the directory decides who can. */
	umask(0);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 128)) {
		fprintf(stderr, "nvidia-cuda-mps-control: cannot listen on %s: %s\n",
			address.sun_path, strerror(errno));
		close(listener);
		return 1;
	}
	umask(022);
	if (background ? detach() : write_pid()) {
		fprintf(stderr, "nvidia-cuda-mps-control: cannot start in %s: %s\n", pipe_dir,
			strerror(errno));
		close(listener);
		return 1;
	}
	for (int i = 0; i < EMU_MPS_CLIENT_MAX; i++)
		clients[i].fd = -1;
	note("started%s", multiuser ? ", multi-user" : "");
	rc = serve(listener);
	/* As the real one: the socket's name stays, and refuses connections. */
	in_dir("nvidia-cuda-mps-control.pid", pid_path, sizeof(pid_path));
	unlink(pid_path);
	close(listener);
	note("exited");
	return rc;
}

/* A file that a test writes: so many commands are refused, as the real daemon does when it is busy. */
static bool is_busy(void)
{
	char path[PATH_MAX + 16];
	unsigned left = 0;
	FILE *file;

	in_dir("busy", path, sizeof(path));
	file = fopen(path, "r+e");
	if (!file)
		return false;
	if (fscanf(file, "%u", &left) != 1)
		left = 0;
	rewind(file);
	if (left)
		fprintf(file, "%u\n", left - 1);
	fclose(file);
	return left > 0;
}

static int ask(const char *text)
{
	struct sockaddr_un address = address_of(pipe_dir);
	struct emu_mps_request request = {.kind = EMU_MPS_COMMAND};
	static char answer[ANSWER_SIZE + 1];
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	ssize_t n;

	snprintf(request.text, sizeof(request.text), "%s", text);
	if (is_busy()) {
		fprintf(stderr, "Cannot send command to MPS control daemon process\n");
		if (fd >= 0)
			close(fd);
		return 1;
	}
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    send(fd, &request, sizeof(request), MSG_NOSIGNAL) != (ssize_t)sizeof(request)) {
		fprintf(stderr, "Cannot find MPS control daemon process\n");
		if (fd >= 0)
			close(fd);
		return 1;
	}
	n = recv(fd, answer, ANSWER_SIZE, 0);
	close(fd);
	fwrite(answer, 1, n > 0 ? (size_t)n : 0, stdout);
	return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	const char *hang = getenv("EMUGPU_HANG"), *dir = getenv("CUDA_MPS_PIPE_DIRECTORY");
	const char *logs = getenv("CUDA_MPS_LOG_DIRECTORY"), *late = getenv("EMUGPU_LINGER_MS");
	bool background = false, foreground = false;
	char line[PATH_MAX];
	int c;

	linger_ns = late ? strtoull(late, NULL, 10) * 1000000 : 0;
	while (hang && !strcmp(hang, "mps"))
		pause();
	snprintf(pipe_dir, sizeof(pipe_dir), "%s", dir && *dir ? dir : EMU_MPS_PIPE_DIRECTORY);
	snprintf(log_dir, sizeof(log_dir), "%s", logs && *logs ? logs : "/var/log/nvidia-mps");
	while ((c = getopt(argc, argv, "dfM")) != -1) {
		if (c == 'd')
			background = true;
		else if (c == 'f')
			foreground = true;
		else if (c == 'M')
			multiuser = true;
		else
			return fputs(usage, stderr), 1;
	}
	if (background || foreground)
		return run_daemon(background);
	while (fgets(line, sizeof(line), stdin)) {
		c = ask(line);
		if (c)
			return c;
	}
	return 0;
}

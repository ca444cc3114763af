/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/emugpu/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)

enum { CUDA_ERROR_ILLEGAL_ADDRESS = 700 };

/* A broken rule of the emulation itself: every result after it would be a lie. */
static _Noreturn void broken(const char *what, unsigned sm, const struct emu_slot *slot)
{
	fprintf(stderr, "emugpu: BUG: %s: SM %u, owner %u, kernel %s, pid %d\n", what, sm,
		slot->owner, slot->block.kernel, slot->block.pid);
	abort();
}

unsigned emu_sms_count(const struct emu_sms *set)
{
	unsigned n = 0;

	for (unsigned i = 0; i < EMU_SMS_MAX / 64; i++)
		n += (unsigned)__builtin_popcountll(set->bits[i]);
	return n;
}

uint64_t emu_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int emu_gpu_create(const char *path, const struct emu_shape *shape)
{
	struct emu_gpu *gpu = MAP_FAILED;
	pthread_mutexattr_t attr;
	int rc = -1, fd;

	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return -1;
	/* Every user's programs write to it, whatever the umask of its creator. */
	if (fchmod(fd, 0666) || ftruncate(fd, sizeof(*gpu)))
		goto done;
	gpu = mmap(NULL, sizeof(*gpu), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (gpu == MAP_FAILED)
		goto done;
	gpu->version = EMU_VERSION;
	gpu->index = shape->index;
	gpu->n_sms = shape->n_sms;
	gpu->group_sms = shape->group_sms;
	gpu->n_groups = shape->n_groups;
	gpu->total_memory = shape->total_memory;
	memcpy(gpu->uuid, shape->uuid, sizeof(gpu->uuid));
	memcpy(gpu->bus_id, shape->bus_id, sizeof(gpu->bus_id));
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&gpu->mutex, &attr);
	pthread_mutexattr_destroy(&attr);
	gpu->magic = EMU_MAGIC;
	rc = 0;
done:
	if (gpu != MAP_FAILED)
		munmap(gpu, sizeof(*gpu));
	close(fd);
	return rc;
}

int emu_gpu_open(const char *dir, unsigned index, struct emu_map *map)
{
	char path[PATH_MAX];
	struct stat st;
	int saved;

	map->gpu = NULL;
	snprintf(path, sizeof(path), "%s/gpu%u", dir, index);
	map->fd = open(path, O_RDWR | O_CLOEXEC);
	if (map->fd < 0)
		return -1;
	if (fstat(map->fd, &st))
		goto fail;
	if (st.st_size != (off_t)sizeof(*map->gpu)) {
		errno = EPROTO;
		goto fail;
	}
	map->gpu = mmap(NULL, sizeof(*map->gpu), PROT_READ | PROT_WRITE, MAP_SHARED, map->fd, 0);
	if (map->gpu == MAP_FAILED) {
		map->gpu = NULL;
		goto fail;
	}
	if (map->gpu->magic != EMU_MAGIC || map->gpu->version != EMU_VERSION) {
		errno = EPROTO;
		goto fail;
	}
	return 0;
fail:
	saved = errno;
	emu_gpu_close(map);
	errno = saved;
	return -1;
}

void emu_gpu_close(struct emu_map *map)
{
	if (map->gpu)
		munmap(map->gpu, sizeof(*map->gpu));
	if (map->fd >= 0)
		close(map->fd);
	map->gpu = NULL;
	map->fd = -1;
}

void emu_lock(struct emu_gpu *gpu)
{
	/* Every change under the lock is whole after each store that others act on. */
	if (pthread_mutex_lock(&gpu->mutex) == EOWNERDEAD)
		pthread_mutex_consistent(&gpu->mutex);
}

void emu_unlock(struct emu_gpu *gpu)
{
	pthread_mutex_unlock(&gpu->mutex);
}

static struct flock client_byte(short type, int client)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = client, .l_len = 1};
}

static bool client_alive(const struct emu_map *map, int client)
{
	struct flock lock = client_byte(F_WRLCK, client);

	/* One's own locks never show: they cannot be in one's own way. */
	if (map->gpu->clients[client].pid == getpid())
		return true;
	return fcntl(map->fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

static void end_block(struct emu_gpu *gpu, struct emu_slot *slot, uint64_t end_ns, bool killed)
{
	struct emu_block *entry = &gpu->trace[gpu->n_trace % EMU_TRACE_MAX];
	/* Whoever was killed in here left it half done, and so it is done once more. */
	const bool again = slot->block.end_ns && slot->free_since_ns == slot->block.end_ns;

	if (end_ns <= slot->block.begin_ns)
		end_ns = slot->block.begin_ns + 1;
	slot->block.end_ns = end_ns;
	slot->block.killed = killed;
	gpu->n_overlaps += !again && slot->block.begin_ns < slot->free_since_ns;
	*entry = slot->block;
	gpu->n_trace++;
	atomic_signal_fence(memory_order_seq_cst); /* or `again` would not be seen */
	slot->free_since_ns = end_ns;
	atomic_store(&slot->deadline_ns, 0);
	slot->owner = 0;
}

/* True if the client, an MPS client, is or was in the middle of a block that its death cuts off. */
static bool dies_in_long_block(const struct emu_gpu *gpu, int client, uint64_t now)
{
	const struct emu_client *c = &gpu->clients[client];

	if (!c->server_pid || atomic_load(&c->fault) || atomic_load(&c->exits))
		return false;
	for (unsigned sm = 0; sm < gpu->n_sms; sm++) {
		const struct emu_slot *slot = &gpu->slots[sm];
		uint64_t end = atomic_load(&slot->deadline_ns);
		if (slot->owner == (uint32_t)client + 1 && end > now &&
		    end - slot->block.begin_ns >= EMU_DEADLY_MS * NS_PER_MS)
			return true;
	}
	return false;
}

static void forget_client(struct emu_gpu *gpu, int client)
{
	uint64_t now = emu_now_ns();

	if (dies_in_long_block(gpu, client, now))
		emu_fault_neighbours(gpu, client, CUDA_ERROR_ILLEGAL_ADDRESS);
	for (unsigned sm = 0; sm < gpu->n_sms; sm++) {
		struct emu_slot *slot = &gpu->slots[sm];
		if (slot->owner == (uint32_t)client + 1)
			end_block(gpu, slot, now, true);
	}
	for (unsigned w = 0; w < EMU_SMS_MAX / 64; w++)
		atomic_store(&gpu->clients[client].active[w], 0);
	gpu->clients[client].wants_ns = 0;
	gpu->clients[client].gathers = 0;
	gpu->clients[client].memory = 0;
	gpu->clients[client].in_use = 0;
	emu_wake_waiting(gpu, client);
}

int emu_client_join(const struct emu_map *map, int server_pid)
{
	struct emu_gpu *gpu = map->gpu;

	emu_reap(map);
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (gpu->clients[i].in_use && gpu->clients[i].pid == getpid())
			forget_client(gpu,
				      i); /* an earlier process with this pid, or before exec */
	for (int i = 0; i < EMU_CLIENTS_MAX; i++) {
		struct emu_client *c = &gpu->clients[i];
		struct flock lock = client_byte(F_WRLCK, i);
		if (c->in_use)
			continue;
		if (fcntl(map->fd, F_SETLK, &lock))
			return -1;
		*c = (struct emu_client){.pid = getpid(), .server_pid = server_pid};
		/* An MPS server's clients are one tenant; a pid is never as large as a number here. */
		c->tenant =
		    server_pid ? (uint64_t)server_pid : (UINT64_C(1) << 40) + gpu->tenants++;
		c->in_use = 1;
		return i;
	}
	errno = EUSERS;
	return -1;
}

void emu_client_leave(const struct emu_map *map, int client)
{
	struct flock lock = client_byte(F_UNLCK, client);

	forget_client(map->gpu, client);
	fcntl(map->fd, F_SETLK, &lock);
}

void emu_reap(const struct emu_map *map)
{
	struct emu_gpu *gpu = map->gpu;
	uint64_t now = emu_now_ns();

	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (gpu->clients[i].in_use && !client_alive(map, i))
			forget_client(gpu, i);
	/* A GPU goes on when the process that launched a kernel is stopped. */
	for (unsigned sm = 0; sm < gpu->n_sms; sm++) {
		struct emu_slot *slot = &gpu->slots[sm];
		uint64_t deadline = atomic_load(&slot->deadline_ns);
		if (slot->owner && deadline && deadline + EMU_LAG_MAX_MS * NS_PER_MS < now)
			end_block(gpu, slot, deadline, false);
	}
}

void emu_client_lost(struct emu_gpu *gpu, int pid)
{
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (gpu->clients[i].in_use && gpu->clients[i].pid == pid)
			forget_client(gpu, i);
}

void emu_fault_neighbours(struct emu_gpu *gpu, int client, int fault)
{
	int server_pid = gpu->clients[client].server_pid;

	for (int i = 0; i < EMU_CLIENTS_MAX; i++) {
		struct emu_client *c = &gpu->clients[i];
		if (i != client && c->in_use && server_pid && c->server_pid == server_pid) {
			atomic_store(&c->fault, fault);
			emu_wake(c);
		}
	}
}

void emu_fault_process(struct emu_gpu *gpu, int pid, int fault)
{
	uint64_t now = emu_now_ns();

	for (int i = 0; i < EMU_CLIENTS_MAX; i++) {
		struct emu_client *c = &gpu->clients[i];
		if (!c->in_use || c->pid != pid)
			continue;
		atomic_store(&c->fault, fault);
		for (unsigned sm = 0; sm < gpu->n_sms; sm++)
			if (gpu->slots[sm].owner == (uint32_t)i + 1)
				end_block(gpu, &gpu->slots[sm], now, true);
		emu_wake(c);
		emu_wake_waiting(gpu, i);
	}
}

static bool gpu_idle(const struct emu_gpu *gpu)
{
	for (unsigned sm = 0; sm < gpu->n_sms; sm++)
		if (gpu->slots[sm].owner)
			return false;
	return true;
}

static bool wants(const struct emu_client *client, uint64_t now)
{
	return client->in_use && client->wants_ns + EMU_WANT_MS * NS_PER_MS > now;
}

/* Does another tenant than `tenant` wait? Says also when the one that waits longest had its turn. */
static bool others_want(const struct emu_gpu *gpu, uint64_t tenant, uint64_t now,
			uint64_t *oldest_turn_ns)
{
	bool want = false;

	*oldest_turn_ns = UINT64_MAX;
	for (int i = 0; i < EMU_CLIENTS_MAX; i++) {
		const struct emu_client *c = &gpu->clients[i];
		if (!wants(c, now) || c->tenant == tenant)
			continue;
		want = true;
		if (c->turn_ns < *oldest_turn_ns)
			*oldest_turn_ns = c->turn_ns;
	}
	return want;
}

static bool tenant_wants(const struct emu_gpu *gpu, uint64_t tenant, uint64_t now)
{
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (gpu->clients[i].tenant == tenant && wants(&gpu->clients[i], now))
			return true;
	return false;
}

/*
 * Time slices: blocks of one tenant at a time. A switch waits until the last block of the old tenant
 * has ended (a real GPU preempts it; nothing here can).
 */
static bool has_turn(struct emu_gpu *gpu, const struct emu_client *client, uint64_t now)
{
	uint64_t oldest, begin = 0;
	bool others = others_want(gpu, client->tenant, now, &oldest);

	if (gpu->tenant == client->tenant)
		return now < gpu->slice_end_ns || !others;
	if (!gpu_idle(gpu))
		return false;
	if (now < gpu->slice_end_ns && tenant_wants(gpu, gpu->tenant, now))
		return false;
	/* Longest without a turn first, unless it does not come to take it. */
	if (others && oldest < client->turn_ns && now < gpu->slice_end_ns + 5 * NS_PER_MS)
		return false;
	for (unsigned sm = 0; sm < gpu->n_sms; sm++)
		if (gpu->slots[sm].free_since_ns > begin)
			begin = gpu->slots[sm].free_since_ns;
	gpu->tenant = client->tenant;
	gpu->tenant_since_ns = begin;
	gpu->slice_end_ns = now + EMU_SLICE_US * UINT64_C(1000);
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (gpu->clients[i].tenant == client->tenant)
			gpu->clients[i].turn_ns = now;
	return true;
}

static unsigned held_by(const struct emu_gpu *gpu, int client)
{
	unsigned held = 0;

	for (unsigned sm = 0; sm < gpu->n_sms; sm++)
		held += gpu->slots[sm].owner == (uint32_t)client + 1;
	return held;
}

/*
 * SMs that `client` leaves to waiting clients (of its tenant) that hold fewer than it does. What a grid
 * still needs to be on the GPU as a whole comes before that: it would hold the others for ever.
 */
static struct emu_sms left_to_others(const struct emu_gpu *gpu, int client, uint64_t now,
				     unsigned held)
{
	struct emu_sms left = {{0}};

	if (gpu->clients[client].gathers)
		return left;

	for (int i = 0; i < EMU_CLIENTS_MAX; i++) {
		const struct emu_client *c = &gpu->clients[i];
		if (i == client || !wants(c, now) || c->tenant != gpu->clients[client].tenant ||
		    (held_by(gpu, i) >= held && !c->gathers))
			continue;
		for (unsigned w = 0; w < EMU_SMS_MAX / 64; w++)
			left.bits[w] |= c->wanted.bits[w];
	}
	return left;
}

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

bool emu_may_gather(const struct emu_gpu *gpu, int client)
{
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (gpu->clients[i].in_use && gpu->clients[i].gathers &&
		    gpu->clients[i].tenant == gpu->clients[client].tenant)
			return false;
	return true;
}

struct emu_turn emu_turn(struct emu_gpu *gpu, int client)
{
	struct emu_turn turn = {.now_ns = emu_now_ns()};

	turn.mine = has_turn(gpu, &gpu->clients[client], turn.now_ns);
	turn.held = held_by(gpu, client);
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (i != client && gpu->clients[i].tenant == gpu->clients[client].tenant &&
		    wants(&gpu->clients[i], turn.now_ns))
			turn.shared = true;
	return turn;
}

/* The free SM of `allowed` that has been free for longest: it lets a late host thread catch up. */
static struct emu_slot *choose_slot(struct emu_gpu *gpu, const struct emu_sms *allowed,
				    const struct emu_sms *left)
{
	struct emu_slot *best = NULL;

	for (unsigned sm = 0; sm < gpu->n_sms; sm++) {
		struct emu_slot *s = &gpu->slots[sm];
		if (!s->owner && emu_sms_has(allowed, sm) && !emu_sms_has(left, sm) &&
		    (!best || s->free_since_ns < best->free_since_ns))
			best = s;
	}
	return best;
}

int emu_claim(struct emu_gpu *gpu, int client, struct emu_turn *turn, const struct emu_sms *allowed,
	      const char *kernel, const uint32_t index[3], uint64_t ready_ns, uint64_t *claim,
	      uint64_t *begin_ns)
{
	const struct emu_client *c = &gpu->clients[client];
	struct emu_sms left = {{0}};
	struct emu_slot *slot;
	uint64_t earliest;
	unsigned sm;

	if (!turn->mine || (c->max_slots && turn->held >= c->max_slots))
		return -1;
	if (turn->shared)
		left = left_to_others(gpu, client, turn->now_ns, turn->held);
	slot = choose_slot(gpu, allowed, &left);
	if (!slot)
		return -1;
	sm = (unsigned)(slot - gpu->slots);
	if (slot->owner)
		broken("a second user for one SM", sm, slot);
	if (!emu_sms_has(allowed, sm) || sm >= gpu->n_sms)
		broken("a block outside its partition", sm, slot);

	/* A block begins when it could have, not when this thread got round to it. */
	earliest = turn->now_ns - EMU_LAG_MAX_MS * NS_PER_MS;
	earliest = max64(earliest, max64(ready_ns, gpu->tenant_since_ns));
	earliest = max64(earliest, slot->free_since_ns);
	slot->block = (struct emu_block){.sm = sm, .pid = c->pid, .begin_ns = earliest};
	memcpy(slot->block.kernel, kernel, strnlen(kernel, sizeof(slot->block.kernel) - 1));
	memcpy(slot->block.index, index, sizeof(slot->block.index));
	slot->claim = ++gpu->claims;
	slot->owner = (uint32_t)client + 1;
	turn->held++;
	*claim = slot->claim;
	*begin_ns = earliest;
	return (int)sm;
}

void emu_release(struct emu_gpu *gpu, int client, unsigned sm, uint64_t claim, uint64_t end_ns)
{
	struct emu_slot *slot = &gpu->slots[sm];

	if (slot->claim != claim || !slot->owner)
		return; /* ended by emu_reap while this process was stopped */
	if (slot->owner != (uint32_t)client + 1)
		broken("one claim, two owners", sm, slot);
	end_block(gpu, slot, end_ns, false);
}

void emu_wake_waiting(struct emu_gpu *gpu, int client)
{
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (i != client && gpu->clients[i].in_use && gpu->clients[i].wants_ns)
			emu_wake(&gpu->clients[i]);
}

void emu_wake(struct emu_client *client)
{
	atomic_fetch_add(&client->wake, 1);
	syscall(SYS_futex, &client->wake, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void emu_sleep(struct emu_client *client, uint32_t seen, uint64_t deadline_ns)
{
	struct timespec t = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
			     .tv_nsec = (long)(deadline_ns % 1000000000u)};

	/* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time. */
	syscall(SYS_futex, &client->wake, FUTEX_WAIT_BITSET, seen, deadline_ns ? &t : NULL, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

static bool could_meet(const struct emu_client *a, const struct emu_client *b)
{
	return a != b && b->in_use && a->tenant == b->tenant && a->pid != b->pid;
}

/* An SM of the set that another process's kernels may use now, and which; -1: none. */
static int shared_sm(struct emu_gpu *gpu, int client, const struct emu_sms *sms, int *other)
{
	const struct emu_client *me = &gpu->clients[client];

	for (int i = 0; i < EMU_CLIENTS_MAX; i++) {
		struct emu_client *c = &gpu->clients[i];
		for (unsigned w = 0; could_meet(me, c) && w < EMU_SMS_MAX / 64; w++) {
			uint64_t both = sms->bits[w] & atomic_load(&c->active[w]);
			if (both) {
				*other = i;
				return (int)(w * 64) + __builtin_ctzll(both);
			}
		}
	}
	return -1;
}

static void note_meeting(struct emu_gpu *gpu, int client, int other, int sm)
{
	uint64_t *met = &gpu->clients[client].met[other / 64];
	uint64_t *others = &gpu->clients[other].met[client / 64];

	gpu->n_meetings++;
	/* Both must say so: who comes anew into a place has met nobody. */
	if (*met >> (other % 64) & *others >> (client % 64) & 1)
		return;
	*met |= UINT64_C(1) << (other % 64);
	*others |= UINT64_C(1) << (client % 64);
	if (gpu->n_kept < EMU_MEETINGS_MAX)
		gpu->meetings[gpu->n_kept++] =
		    (struct emu_meeting){.pid = gpu->clients[client].pid,
					 .other_pid = gpu->clients[other].pid,
					 .sm = (uint32_t)sm,
					 .at_ns = emu_now_ns()};
}

void emu_kernel_begins(const struct emu_map *map, int client, const struct emu_sms *sms)
{
	struct emu_gpu *gpu = map->gpu;
	struct emu_client *me = &gpu->clients[client];
	int other, sm;

	for (unsigned i = 0; i < EMU_SMS_MAX; i++)
		if (emu_sms_has(sms, i) && !me->n_active[i]++)
			atomic_fetch_or(&me->active[i / 64], UINT64_C(1) << (i % 64));
	/* Both sides mark first and look then: one of them sees the other. */
	if (shared_sm(gpu, client, sms, &other) < 0)
		return;
	emu_lock(gpu);
	emu_reap(map); /* the dead use nothing */
	sm = shared_sm(gpu, client, sms, &other);
	if (sm >= 0)
		note_meeting(gpu, client, other, sm);
	emu_unlock(gpu);
}

void emu_kernel_ends(const struct emu_map *map, int client, const struct emu_sms *sms)
{
	struct emu_client *me = &map->gpu->clients[client];

	for (unsigned i = 0; i < EMU_SMS_MAX; i++)
		if (emu_sms_has(sms, i) && !--me->n_active[i])
			atomic_fetch_and(&me->active[i / 64], ~(UINT64_C(1) << (i % 64)));
}

void emu_clear_trace(struct emu_gpu *gpu)
{
	gpu->n_trace = gpu->n_overlaps = gpu->n_meetings = gpu->n_kept = 0;
	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		memset(gpu->clients[i].met, 0, sizeof(gpu->clients[i].met));
}

bool emu_print_check(const struct emu_gpu *gpu, FILE *out)
{
	fprintf(out, "{\"blocks\":%" PRIu64 ",\"overlaps\":%" PRIu64 ",\"meetings\":%" PRIu64,
		gpu->n_trace, gpu->n_overlaps, gpu->n_meetings);
	for (uint64_t i = 0; i < gpu->n_kept; i++) {
		const struct emu_meeting *m = &gpu->meetings[i];
		fprintf(out, "%s{\"pids\":[%d,%d],\"sm\":%u,\"at_ns\":%" PRIu64 "}",
			i ? "," : ",\"met\":[", m->pid, m->other_pid, m->sm, m->at_ns);
	}
	fputs(gpu->n_kept ? "]}\n" : "}\n", out);
	return !gpu->n_overlaps && !gpu->n_meetings;
}

uint64_t emu_memory_used(const struct emu_gpu *gpu)
{
	uint64_t used = 0;

	for (int i = 0; i < EMU_CLIENTS_MAX; i++)
		if (gpu->clients[i].in_use)
			used += gpu->clients[i].memory;
	return used;
}

void emu_print_trace(struct emu_gpu *gpu, FILE *out)
{
	uint64_t first = gpu->n_trace > EMU_TRACE_MAX ? gpu->n_trace - EMU_TRACE_MAX : 0;

	if (first)
		fprintf(stderr, "emugpu: the first %" PRIu64 " blocks are no longer in the trace\n",
			first);
	for (uint64_t i = first; i < gpu->n_trace; i++) {
		const struct emu_block *b = &gpu->trace[i % EMU_TRACE_MAX];
		fprintf(out,
			"{\"pid\":%d,\"kernel\":\"%s\",\"block\":[%u,%u,%u],\"sm\":%u,\"begin_ns\":"
			"%" PRIu64 ",\"end_ns\":%" PRIu64 "%s}\n",
			b->pid, b->kernel, b->index[0], b->index[1], b->index[2], b->sm,
			b->begin_ns, b->end_ns, b->killed ? ",\"killed\":true" : "");
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/* This process among those that use the GPU: it joins, learns of faults, and tells of its own. */
#include "tests/emugpu/op.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct emu_client *emu_client_of(struct emu_device *dev)
{
	return &dev->map.gpu->clients[dev->client];
}

/* A zombie is gone, too: not every container has a first process that collects orphans. */
static bool process_gone(int pid)
{
	char path[32], text[256];
	ssize_t n = -1;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	if (n < 0)
		return kill(pid, 0) && errno == ESRCH;
	text[n] = '\0';
	const char *state = strrchr(text, ')');
	return state && state[1] && (state[2] == 'Z' || state[2] == 'X');
}

/* Looks at most once a millisecond, because it costs system calls. */
static bool server_gone(void)
{
	static _Atomic uint64_t next_look_ns;
	static _Atomic bool gone;
	uint64_t now;

	if (!emu.server_pid || atomic_load(&gone))
		return emu.server_pid != 0;
	now = emu_now_ns();
	if (now < atomic_load(&next_look_ns))
		return false;
	atomic_store(&next_look_ns, now + 1000000);
	if (process_gone(emu.server_pid))
		atomic_store(&gone, true);
	return atomic_load(&gone);
}

CUresult emu_device_fault(struct emu_device *dev)
{
	int fault = atomic_load(&dev->fault);

	if (!fault && server_gone())
		fault = CUDA_ERROR_MPS_RPC_FAILURE;
	if (!fault && dev->client >= 0)
		fault = atomic_load(&emu_client_of(dev)->fault);
	return (CUresult)fault;
}

/* Neighbours first: once this process knows of the fault, it may exit before it told them. */
void emu_raise_fault(struct emu_device *dev, CUresult fault)
{
	emu_lock(dev->map.gpu);
	emu_fault_neighbours(dev->map.gpu, dev->client, (int)fault);
	emu_unlock(dev->map.gpu);
	if (emu.mps_fd >= 0)
		send(emu.mps_fd, "f", 1, MSG_NOSIGNAL | MSG_DONTWAIT); /* for the server's log */
	atomic_store(&dev->fault, (int)fault);
}

CUresult emu_device_join(struct emu_device *dev)
{
	struct emu_gpu *gpu = dev->map.gpu;
	unsigned n = 0;
	int client;

	if (dev->client >= 0)
		return emu_device_fault(dev);
	emu_lock(gpu);
	emu_reap(&dev->map);
	for (int i = 0; emu.server_pid && i < EMU_CLIENTS_MAX; i++)
		n += gpu->clients[i].in_use && gpu->clients[i].server_pid == emu.server_pid;
	if (n >= EMU_MPS_CLIENTS_MAX) {
		emu_unlock(gpu);
		return CUDA_ERROR_MPS_MAX_CLIENTS_REACHED;
	}
	client = emu_client_join(&dev->map, emu.server_pid);
	if (client >= 0 && dev->n_visible_sms < gpu->n_sms)
		gpu->clients[client].max_slots = dev->n_visible_sms;
	emu_unlock(gpu);
	if (client < 0)
		return CUDA_ERROR_OUT_OF_MEMORY;
	dev->client = client;
	dev->ready_end = &dev->ready;
	return CUDA_SUCCESS;
}

/* Nobody kills it: MPS sees it leave. What the neighbours of one see that is killed: emu_client_lost. */
__attribute__((destructor)) static void note_exit(void)
{
	for (unsigned i = 0; i < emu.n_devices; i++) {
		struct emu_device *dev = &emu.devices[i];
		if (dev->client >= 0 && dev->map.gpu->clients[dev->client].pid == getpid())
			atomic_store(&dev->map.gpu->clients[dev->client].exits, 1);
	}
}

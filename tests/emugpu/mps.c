/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of MPS. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/mps_protocol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

CUresult emu_mps_connect(void)
{
	const char *dir = getenv("CUDA_MPS_PIPE_DIRECTORY");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct emu_mps_request request = {.kind = EMU_MPS_CLIENT};
	struct emu_mps_reply reply;
	ssize_t n;
	int fd;

	n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s",
		     dir && *dir ? dir : EMU_MPS_PIPE_DIRECTORY, EMU_MPS_SOCKET);
	if (n >= (ssize_t)sizeof(address.sun_path))
		return CUDA_SUCCESS;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return CUDA_SUCCESS;
	/* No daemon: the driver works without MPS. */
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return CUDA_SUCCESS;
	}
	snprintf(request.text, sizeof(request.text), "%s", getenv("EMUGPU_DIR"));
	if (send(fd, &request, sizeof(request), MSG_NOSIGNAL) != (ssize_t)sizeof(request) ||
	    recv(fd, &reply, sizeof(reply), 0) != (ssize_t)sizeof(reply)) {
		close(fd);
		return CUDA_ERROR_MPS_CONNECTION_FAILED;
	}
	if (reply.error) {
		close(fd);
		return (CUresult)reply.error;
	}
	emu.mps_fd = fd;
	emu.server_pid = reply.server_pid;
	memcpy(emu.memory_limits, reply.memory_limits, sizeof(emu.memory_limits));
	return CUDA_SUCCESS;
}

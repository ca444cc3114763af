/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_MPS_PROTOCOL_H
#define DETSHARE_TESTS_EMUGPU_MPS_PROTOCOL_H

#include <limits.h>
#include <stdint.h>

/*
 * Between the stand-in for nvidia-cuda-mps-control and those who speak to it: a SOCK_SEQPACKET socket
 * named "control" in the pipe directory. One request, then for a command lines of answer and
 * end-of-file; for a client one reply, then the connection stays open while the client lives.
 */
#define EMU_MPS_SOCKET         "control"
#define EMU_MPS_PIPE_DIRECTORY "/tmp/nvidia-mps"

enum { EMU_MPS_CLIENT = 1, EMU_MPS_COMMAND = 2, EMU_MPS_CLIENT_MAX = 512 };

struct emu_mps_request {
	uint32_t kind;
	char text[PATH_MAX]; /* a command; of a client, its EMUGPU_DIR */
};

struct emu_mps_reply {
	int32_t server_pid;
	int32_t error;              /* a CUresult */
	uint64_t memory_limits[16]; /* bytes, per device of the daemon; 0: none */
};

#endif

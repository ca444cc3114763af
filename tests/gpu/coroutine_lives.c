/* SPDX-License-Identifier: Apache-2.0 */
/* How programs begin and end: contexts, resets, forks, and waiting for what comes on their input. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "coroutine_program.h"

void own_context(void)
{
	CUcontext context;

	load_driver();
	CALL(cuInit, 0);
	CALL(cuDeviceGet, &device, 0);
	printf("own context %d\n", (int)cu.do_cuCtxCreate_v2(&context, 0, device));
}

void reset(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, 0);
	CALL(cuLaunchKernel, kernels.spin_us, 1, 1, 1, 1, 1, 1, 0, stream,
	     (void *[]){&(unsigned){10}, &(CUdeviceptr){0}}, NULL);
	CALL(cuCtxSynchronize);
	CALL(cuDevicePrimaryCtxReset_v2, device);
	start();
	CALL(cuStreamCreate, &stream, 0);
	if (spin(stream, 10, 1) || spin(NULL, 10, 1) || spin(CU_STREAM_PER_THREAD, 10, 1))
		printf("launches fail\n");
	CALL(cuCtxSynchronize);
	printf("again\n");
}

/* Uses the GPU, waits for its input to end, resets it and uses it again. */
void reset_later(void)
{
	char c;

	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	printf("to be reset\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	reset();
}

static void in_child(void (*what)(void))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		what();
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	printf("child %d\n", status);
}

void fork_before(void)
{
	in_child(work);
	work();
}

static void nothing(void)
{
}

static void launch_and_say(void)
{
	printf("in child %d\n", (int)spin(NULL, 10, 1));
}

void fork_after(void)
{
	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	in_child(nothing);
	in_child(launch_and_say);
	printf("in parent %d\n", (int)spin(NULL, 10, 1));
	CALL(cuCtxSynchronize);
}

/* A program that clears its environment before it uses the GPU. */
void cleared_environment(void)
{
	clearenv();
	setenv("EMUGPU_DIR", emugpu_dir, 1);
	work();
}

/* Lives until its input ends, holding its partition. */
void hold(void)
{
	char c;

	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	printf("holding\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
}

/* One thread waits for a long kernel, which nobody will help to end. */
void blocked(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	spin(stream, 3000000, 44); /* so long that the one who tells it to move comes in time */
	printf("blocked\n");
	CALL(cuStreamSynchronize, stream);
	printf("done\n");
	spin(stream, 1000, 44);
	CALL(cuStreamSynchronize, stream);
	printf("again\n");
}

/* A kernel's stream waits for what another stream will write when there is a line of input. */
void waiting(void)
{
	CUdeviceptr word;
	CUstream first, second;
	char c;

	start();
	word = device_words(1);
	CALL(cuMemsetD32_v2, word, 0, 1);
	CALL(cuStreamCreate, &first, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamCreate, &second, CU_STREAM_NON_BLOCKING);
	CALL(cuStreamWaitValue32_v2, first, word, 1, CU_STREAM_WAIT_VALUE_EQ);
	spin(first, 100, 1);
	printf("waiting\n");
	if (read(STDIN_FILENO, &c, 1) < 0)
		exit(1);
	CALL(cuStreamWriteValue32_v2, second, word, 1, 0);
	CALL(cuStreamSynchronize, first);
	printf("woken\n");
}

/* Ends at once, with work queued that takes longer than the program. */
void exits(void)
{
	CUstream stream;

	start();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	for (unsigned i = 0; i < 50; i++)
		spin(i % 2 ? stream : NULL, 20000, 1);
	printf("exits\n");
}

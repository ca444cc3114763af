/* SPDX-License-Identifier: Apache-2.0 */
/* What is allowed while a stream is captured, and what graphs compute. */
#include <stdio.h>
#include <unistd.h>

#include "coroutine_program.h"

static void show_capturing(const char *what, CUstream stream)
{
	CUstreamCaptureStatus status = (CUstreamCaptureStatus)99;
	CUresult result = cu.do_cuStreamIsCapturing(stream, &status);

	printf("  %s: %d status %d\n", what, (int)result, result ? 0 : (int)status);
}

/* One call while `stream` is captured, then how the capture ends. */
static void during_capture(const char *name, CUstream stream, CUstreamCaptureMode mode, int act,
			   CUdeviceptr words)
{
	static const char *const acts[] = {
	    "nothing",    "null launch", "null async set", "sync copy",         "sync set",
	    "null query", "null sync",   "null capture",   "null waits for it", "context sync",
	    "free",       "own query",   "null is asked"};
	CUgraph graph = NULL;
	CUdeviceptr extra;
	CUevent event;
	CUresult result = CUDA_SUCCESS;

	CALL(cuMemAlloc_v2, &extra, 4);
	CALL(cuEventCreate, &event, CU_EVENT_DISABLE_TIMING);
	CALL(cuStreamBeginCapture_v2, stream, mode);
	CALL(cuMemsetD32Async, words, 7, 1, stream);
	switch (act) {
	case 1:
		result = spin(NULL, 1, 1);
		break;
	case 2:
		result = cu.do_cuMemsetD32Async(words + 4, 1, 1, NULL);
		break;
	case 3:
		result = cu.do_cuMemcpyDtoD_v2(words + 4, words, 4);
		break;
	case 4:
		result = cu.do_cuMemsetD32_v2(words + 4, 2, 1);
		break;
	case 5:
		result = cu.do_cuStreamQuery(NULL);
		break;
	case 6:
		result = cu.do_cuStreamSynchronize(NULL);
		break;
	case 7:
		result = cu.do_cuStreamBeginCapture_v2(NULL, mode);
		break;
	case 8:
		result = cu.do_cuEventRecord(event, stream);
		if (!result)
			result = cu.do_cuStreamWaitEvent(NULL, event, 0);
		break;
	case 9:
		result = cu.do_cuCtxSynchronize();
		break;
	case 10:
		result = cu.do_cuMemFree_v2(extra);
		break;
	case 11:
		result = cu.do_cuStreamQuery(stream);
		break;
	case 12:
		show_capturing("null", NULL);
		show_capturing("itself", stream);
		break;
	default:
		break;
	}
	printf("%s mode %d, %s: %d", name, (int)mode, acts[act], (int)result);
	printf(", end %d\n", (int)cu.do_cuStreamEndCapture(stream, &graph));
	show_capturing("after", stream);
	printf("  context %d\n", (int)cu.do_cuCtxSynchronize());
}

void capture(void)
{
	CUstream streams[KINDS];
	CUdeviceptr words;

	start();
	needs_graphs();
	make_streams(streams);
	words = device_words(4);
	for (int kind = 2; kind < KINDS; kind += kind == 3 ? 2 : 1)
		for (int mode = 0; mode < 3; mode++)
			for (int act = 0; act < 13; act++)
				during_capture(kinds[kind], streams[kind],
					       (CUstreamCaptureMode)mode, act, words);
}

/* What a copy on the NULL stream finds of a graph that writes behind a kernel of `us`. *quick: as in coroutine_order.c. */
static unsigned found_after_graph(CUstream captured, CUstream on, CUdeviceptr words, unsigned us,
				  bool *quick)
{
	CUgraph graph;
	CUgraphExec exec;
	double begun;

	CALL(cuMemsetD32_v2, words, 0, 4);
	CALL(cuStreamBeginCapture_v2, captured, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
	spin(captured, us, 1);
	CALL(cuMemsetD32Async, words, 5, 1, captured);
	CALL(cuStreamEndCapture, captured, &graph);
	CALL(cuGraphInstantiateWithFlags, &exec, graph, 0);
	begun = now_us();
	CALL(cuGraphLaunch, exec, on);
	CALL(cuMemcpyDtoDAsync_v2, words + 4, words, 4, NULL);
	*quick = gets_on(begun, us / 2);
	return read_word(words + 4);
}

/* Graphs captured, and made by hand: their result, in order with other work. */
void graphs(void)
{
	CUstream streams[KINDS];
	CUdeviceptr words;

	start();
	needs_graphs();
	make_streams(streams);
	words = device_words(4);
	for (int kind = 2; kind < KINDS; kind++) {
		for (int on = 0; on < KINDS; on++) {
			unsigned found = 5;
			bool quick = false;

			/* A busy machine may take as long for anything: see does_wait() in coroutine_order.c. */
			for (unsigned us = 8000; us <= 512000 && found && !quick; us *= 4)
				found = found_after_graph(streams[kind], streams[on], words, us,
							  &quick);
			printf("%s on %s then null: %u\n", kinds[kind], kinds[on], found);
		}
	}
}

/* A stream under capture, for as long as there is input. */
void capturing(void)
{
	CUstream stream;
	CUgraph graph;
	char c;

	start();
	needs_graphs();
	CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
	spin(stream, 1000, 1);
	CALL(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
	spin(stream, 1000, 1);
	printf("capturing\n");
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	spin(stream, 1000, 1);
	printf("end %d\n", (int)cu.do_cuStreamEndCapture(stream, &graph));
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_TESTS_EMUGPU_RANDOM_PROGRAM_H
#define DETSHARE_TESTS_EMUGPU_RANDOM_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include <cuda.h>

/* What the parts of random_program share. */
enum {
	LINES = 40, /* streams that a thread ever makes */
	BUFFERS = 8,
	HOST_BUFFERS = 2, /* the first ones are pinned host memory */
	WORDS = 96,
	EVENTS = 4,
	GRAPHS = 4,
	NODES = 10,
	THREADS_MAX = 8,
};

#define OK(call) must(call, #call, __FILE__, __LINE__)

/* How many operations of each line have happened. */
struct clock {
	unsigned at[LINES];
};

enum kind { LEGACY, PER_THREAD, BLOCKING, NON_BLOCKING };

struct stream {
	enum kind kind;
	CUstream handle;
	bool alive, capturing;
	struct clock clock;  /* what happened before the next operation in it */
	struct clock passed; /* what did before the end of its latest real operation */
};

struct buffer {
	CUdeviceptr at;
	bool async; /* from a stream-ordered allocation */
	int writer; /* line of the latest write; -1: none yet */
	unsigned written;
	unsigned read[LINES]; /* since then, per line */
};

struct event {
	CUevent handle;
	bool recorded;
	struct clock clock;
};

struct graph {
	CUgraphExec exec; /* NULL: none */
	CUgraph source;   /* that it was made from, if it is still there */
	unsigned n_kernels;
	struct {
		CUgraphNode node;
		int dst, src;
		bool disabled;
	} kernels[NODES];
	bool reads[BUFFERS], writes[BUFFERS];
	struct clock clock; /* after its latest launch */
};

/* What one host thread uses, and knows. */
struct world {
	uint64_t random;
	bool captures; /* streams are captured, too */
	bool alone; /* no other thread: the whole context and blocking streams may be waited for */
	CUcontext ctx;
	CUfunction mix;
	CUfunction
	    mix_after; /* may begin early, and waits for the one before; NULL: not on this GPU */
	struct stream streams[LINES];
	int n_streams;
	struct buffer buffers[BUFFERS];
	struct event events[EVENTS];
	struct graph graphs[GRAPHS];
	struct clock host; /* what this thread knows to have happened */
	uint64_t hash;
	unsigned steps, operations;
	struct call *calls;
};

/* An operation, about to be made. */
struct access {
	int dst, src; /* -1: none */
};

/* A host function's work; kept to the end. */
struct call {
	struct call *next;
	uint32_t *dst;
	const uint32_t *src;
	uint32_t a, b;
	unsigned us;
};

/* End the program unless the call succeeded. */
void must(CUresult result, const char *what, const char *file, int line);
/* A number below n. */
uint32_t draw(struct world *w, uint32_t n);

/* Order: make sure that it comes after what it must come after; note that it was made. */
void record(struct world *w, int s, struct event *e);
void wait_for(struct world *w, int s, const struct event *e);
void put_after(struct world *w, int s, int line);
void settle_after(struct world *w, int s, struct access a, const struct clock *known);
void join(struct clock *to, const struct clock *from);
void did(struct world *w, int s, struct access a);
void touched(struct buffer *b, int line, unsigned at, bool write);

/* Operations. */
int any_stream(struct world *w);
int any_buffer(struct world *w);
int other_buffer(struct world *w, int buffer);
unsigned duration_us(struct world *w);
void CUDA_CB host_mix(void *data);
struct call *host_call(struct world *w, struct access *a);
/* A kernel, copy, set or host function. */
void simple(struct world *w, int s);

/* random_graphs.c */
void capture(struct world *w);
void explicit_graph(struct world *w);
void launch_graph(struct world *w, int s);
/* Other constants, or other nodes enabled, in an executable. */
void change_graph(struct world *w);
void forget_graph(struct graph *g);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * random_program SEED [STEPS [THREADS [CAPTURE]]]: a CUDA program drawn at random. It prints a hash of all that it
 * computed, which CUDA's ordering rules determine, however the driver schedules its work: streams of all
 * kinds and priorities, events, copies, host functions, memory, graphs, threads. What runs too early, too
 * late, twice or not at all changes the hash, because x = (x ^ y) * a + b does not commute.
 *
 * The generator knows what has happened before what: one vector clock per stream, host thread, event and
 * executable graph. An operation may touch a buffer when it comes after all accesses that it conflicts
 * with; where it does not, an event or a wait is put in. The rules are the conservative ones: of an event
 * that is waited for on the NULL stream, say, only what comes later on that stream is taken to be after it.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/emugpu/random_program.h"

#define MIX(target, first)                                                                         \
	target                                                                                     \
	    ".address_size 64\n"                                                                   \
	    ".visible .entry mix(.param .u64 dst, .param .u64 src, .param .u32 n, .param .u32 "    \
	    "a,\n"                                                                                 \
	    " .param .u32 b, .param .u32 us)\n{\n"                                                 \
	    " .reg .pred %p<3>;\n .reg .b32 %r<12>;\n .reg .b64 %d<12>;\n" first                   \
	    " ld.param.u64 %d1, [dst];\n ld.param.u64 %d2, [src];\n ld.param.u32 %r1, [n];\n"      \
	    " ld.param.u32 %r2, [a];\n ld.param.u32 %r3, [b];\n ld.param.u32 %r4, [us];\n"         \
	    " cvt.u64.u32 %d3, %r4;\n mul.lo.u64 %d3, %d3, 1000;\n mov.u64 %d4, %globaltimer;\n"   \
	    "SPIN:\n mov.u64 %d5, %globaltimer;\n sub.u64 %d6, %d5, %d4;\n setp.lt.u64 %p1, %d6, " \
	    "%d3;\n"                                                                               \
	    " @%p1 bra SPIN;\n"                                                                    \
	    " mov.u32 %r5, %ctaid.x;\n mov.u32 %r6, %ntid.x;\n mov.u32 %r7, %tid.x;\n"             \
	    " mad.lo.u32 %r8, %r5, %r6, %r7;\n setp.ge.u32 %p2, %r8, %r1;\n @%p2 bra DONE;\n"      \
	    " mul.wide.u32 %d7, %r8, 4;\n add.u64 %d8, %d1, %d7;\n add.u64 %d9, %d2, %d7;\n"       \
	    " ld.global.u32 %r9, [%d8];\n ld.global.u32 %r10, [%d9];\n xor.b32 %r9, %r9, %r10;\n"  \
	    " mad.lo.u32 %r9, %r9, %r2, %r3;\n st.global.u32 [%d8], %r9;\n"                        \
	    "DONE:\n ret;\n}\n"

static const char ptx[] = MIX(".version 6.4\n.target sm_70\n", "");
/* May be launched while the kernel before it still runs. */
static const char ptx_after[] = MIX(".version 7.8\n.target sm_90\n", " griddepcontrol.wait;\n");

void must(CUresult result, const char *what, const char *file, int line)
{
	const char *name = NULL;

	if (result == CUDA_SUCCESS)
		return;
	cuGetErrorName(result, &name);
	fprintf(stderr, "random_program: %s:%d: %s: %s (%d)\n", file, line, what, name ? name : "?",
		(int)result);
	exit(1);
}

uint32_t draw(struct world *w, uint32_t n)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (uint32_t)((w->random >> 20) % n);
}

static void note(struct world *w, const uint32_t *words)
{
	for (int i = 0; i < WORDS; i++)
		w->hash = (w->hash ^ words[i]) * UINT64_C(0x100000001b3);
}

void join(struct clock *to, const struct clock *from)
{
	for (int i = 0; i < LINES; i++)
		if (from->at[i] > to->at[i])
			to->at[i] = from->at[i];
}

/* What comes before a real operation that stream `s` gets now. */
static struct clock before(const struct world *w, int s)
{
	struct clock c = w->streams[s].clock;

	if (w->streams[s].capturing)
		return c;
	join(&c, &w->host);
	for (int i = 0; i < w->n_streams; i++) {
		bool blocking = w->streams[i].kind == BLOCKING || w->streams[i].kind == PER_THREAD;
		if (w->streams[s].kind == LEGACY && blocking)
			join(&c, &w->streams[i].passed);
		else if (w->streams[s].kind != NON_BLOCKING && w->streams[i].kind == LEGACY)
			join(&c, &w->streams[i].passed);
	}
	return c;
}

/* A line whose latest access is in the way of this one, or -1. */
static int in_the_way(const struct buffer *b, const struct clock *c, bool write)
{
	if (b->writer >= 0 && c->at[b->writer] < b->written)
		return b->writer;
	for (int i = 0; write && i < LINES; i++)
		if (c->at[i] < b->read[i])
			return i;
	return -1;
}

void touched(struct buffer *b, int line, unsigned at, bool write)
{
	if (write) {
		b->writer = line;
		b->written = at;
		memset(b->read, 0, sizeof(b->read));
	} else {
		b->read[line] = at;
	}
}

/* ---- ordering ---- */

void record(struct world *w, int s, struct event *e)
{
	OK(cuEventRecord(e->handle, w->streams[s].handle));
	e->recorded = true;
	e->clock = w->streams[s].clock;
	if (!w->streams[s].capturing)
		join(&e->clock, &w->host);
}

void wait_for(struct world *w, int s, const struct event *e)
{
	OK(cuStreamWaitEvent(w->streams[s].handle, e->handle, 0));
	join(&w->streams[s].clock, &e->clock);
}

static void synchronize(struct world *w, int s)
{
	OK(cuStreamSynchronize(w->streams[s].handle));
	join(&w->host, &w->streams[s].clock);
}

static void synchronize_all(struct world *w)
{
	for (int i = 0; i < w->n_streams && !w->alone; i++)
		if (w->streams[i].alive)
			synchronize(w, i);
	if (!w->alone)
		return;
	OK(cuCtxSynchronize());
	for (int i = 0; i < w->n_streams; i++)
		join(&w->host, &w->streams[i].clock);
}

/* Stream `s` shall come after what the stream `line` has done. */
void put_after(struct world *w, int s, int line)
{
	struct event e = {0};
	uint32_t how = draw(w, 10);

	if (w->streams[s].capturing || (w->streams[line].alive && how < 7)) {
		OK(cuEventCreate(&e.handle, CU_EVENT_DISABLE_TIMING));
		record(w, line, &e);
		wait_for(w, s, &e);
		OK(cuEventDestroy(e.handle));
	} else if (w->streams[line].alive && how < 9) {
		synchronize(w, line);
	} else {
		synchronize_all(w);
	}
}

/*
 * Make sure that stream `s` comes after what this access must come after. `known` (or NULL) will have
 * happened before it anyway.
 */
void settle_after(struct world *w, int s, struct access a, const struct clock *known)
{
	for (;;) {
		struct clock c = before(w, s);
		int line = -1;
		if (known)
			join(&c, known);
		if (a.src >= 0)
			line = in_the_way(&w->buffers[a.src], &c, false);
		if (line < 0 && a.dst >= 0)
			line = in_the_way(&w->buffers[a.dst], &c, true);
		if (line < 0)
			return;
		put_after(w, s, line);
	}
}

static void settle(struct world *w, int s, struct access a)
{
	settle_after(w, s, a, NULL);
}

/* The operation was made. */
void did(struct world *w, int s, struct access a)
{
	struct stream *stream = &w->streams[s];

	stream->clock = before(w, s);
	stream->clock.at[s]++;
	stream->passed = stream->clock;
	if (a.src >= 0)
		touched(&w->buffers[a.src], s, stream->clock.at[s], false);
	if (a.dst >= 0)
		touched(&w->buffers[a.dst], s, stream->clock.at[s], true);
	w->operations++;
}

/* Before this thread itself touches a buffer. */
static void settle_host(struct world *w, int buffer, bool write)
{
	int line;

	while ((line = in_the_way(&w->buffers[buffer], &w->host, write)) >= 0) {
		if (w->streams[line].alive)
			synchronize(w, line);
		else
			synchronize_all(w);
	}
}

/* ---- operations ---- */

int any_buffer(struct world *w)
{
	return (int)draw(w, BUFFERS);
}

int other_buffer(struct world *w, int buffer)
{
	return (buffer + 1 + (int)draw(w, BUFFERS - 1)) % BUFFERS;
}

/* Long enough, now and then, that what does not wait comes too early. */
unsigned duration_us(struct world *w)
{
	return draw(w, 4) ? draw(w, 20) : 200 + draw(w, 600);
}

/* It may begin before the kernel before it is over, and waits for that itself. */
static void launch_beside(struct world *w, int s, unsigned blocks, void **params)
{
	CUlaunchAttribute attribute;
	const CUlaunchConfig config = {.gridDimX = blocks,
				       .gridDimY = 1,
				       .gridDimZ = 1,
				       .blockDimX = (WORDS + blocks - 1) / blocks,
				       .blockDimY = 1,
				       .blockDimZ = 1,
				       .hStream = w->streams[s].handle,
				       .attrs = &attribute,
				       .numAttrs = 1};

	memset(&attribute, 0, sizeof(attribute));
	attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
	attribute.value.programmaticStreamSerializationAllowed = 1;
	OK(cuLaunchKernelEx(&config, w->mix_after, params, NULL));
}

static void kernel(struct world *w, int s)
{
	struct access a = {.dst = any_buffer(w)};
	uint32_t n = WORDS, x = draw(w, 1000) * 2 + 3, y = draw(w, 100000);
	unsigned us = duration_us(w), blocks = 1 + draw(w, 3);

	a.src = other_buffer(w, a.dst);
	settle(w, s, a);
	if (draw(w, 3) || !w->mix_after)
		OK(cuLaunchKernel(
		    w->mix, blocks, 1, 1, (WORDS + blocks - 1) / blocks, 1, 1, 0,
		    w->streams[s].handle,
		    (void *[]){&w->buffers[a.dst].at, &w->buffers[a.src].at, &n, &x, &y, &us},
		    NULL));
	else
		launch_beside(
		    w, s, blocks,
		    (void *[]){&w->buffers[a.dst].at, &w->buffers[a.src].at, &n, &x, &y, &us});
	did(w, s, a);
}

static void copy(struct world *w, int s)
{
	struct access a = {.dst = any_buffer(w)};

	a.src = other_buffer(w, a.dst);
	settle(w, s, a);
	OK(cuMemcpyAsync(w->buffers[a.dst].at, w->buffers[a.src].at, WORDS / 2 * sizeof(uint32_t),
			 w->streams[s].handle));
	did(w, s, a);
}

static void set(struct world *w, int s)
{
	struct access a = {.dst = any_buffer(w), .src = -1};

	settle(w, s, a);
	OK(cuMemsetD32Async(w->buffers[a.dst].at + 8, draw(w, 100000), 1 + draw(w, WORDS / 4),
			    w->streams[s].handle));
	did(w, s, a);
}

void CUDA_CB host_mix(void *data)
{
	const struct call *c = data;

	usleep(c->us);
	for (int i = 0; i < WORDS; i++)
		c->dst[i] = (c->dst[i] ^ c->src[i]) * c->a + c->b;
}

struct call *host_call(struct world *w, struct access *a)
{
	struct call *c = calloc(1, sizeof(*c));

	if (!c)
		abort();
	a->dst = (int)draw(w, HOST_BUFFERS);
	a->src = (a->dst + 1) % HOST_BUFFERS;
	c->dst = (uint32_t *)(uintptr_t)w->buffers[a->dst].at;
	c->src = (const uint32_t *)(uintptr_t)w->buffers[a->src].at;
	c->a = draw(w, 1000) * 2 + 3;
	c->b = draw(w, 100000);
	c->us = duration_us(w);
	c->next = w->calls;
	w->calls = c;
	return c;
}

static void host_function(struct world *w, int s)
{
	struct access a = {0};
	struct call *c = host_call(w, &a);

	settle(w, s, a);
	OK(cuLaunchHostFunc(w->streams[s].handle, host_mix, c));
	did(w, s, a);
}

/* From memory that the program changes at once, and to such: the driver's side of it is over then. */
static void pageable_copy(struct world *w, int s)
{
	struct access a = {.dst = -1, .src = -1};
	uint32_t words[WORDS];

	if (draw(w, 2)) {
		a.dst = HOST_BUFFERS + (int)draw(w, BUFFERS - HOST_BUFFERS);
		for (int i = 0; i < WORDS; i++)
			words[i] = draw(w, 1u << 31);
		settle(w, s, a);
		OK(cuMemcpyHtoDAsync(w->buffers[a.dst].at, words, sizeof(words),
				     w->streams[s].handle));
		did(w, s, a);
		memset(words, 0, sizeof(words));
		return;
	}
	a.src = HOST_BUFFERS + (int)draw(w, BUFFERS - HOST_BUFFERS);
	settle(w, s, a);
	OK(cuMemcpyDtoHAsync(words, w->buffers[a.src].at, sizeof(words), w->streams[s].handle));
	did(w, s, a);
	join(&w->host, &w->streams[s].clock);
	note(w, words);
}

/* On the NULL stream, which every thread has first. */
static void synchronous_copy(struct world *w)
{
	struct access a = {.dst = -1, .src = HOST_BUFFERS + (int)draw(w, BUFFERS - HOST_BUFFERS)};
	uint32_t words[WORDS];

	settle(w, 0, a);
	OK(cuMemcpyDtoH(words, w->buffers[a.src].at, sizeof(words)));
	did(w, 0, a);
	join(&w->host, &w->streams[0].clock);
	note(w, words);
}

static void host_access(struct world *w)
{
	int b = (int)draw(w, HOST_BUFFERS);
	uint32_t *words = (uint32_t *)(uintptr_t)w->buffers[b].at;

	settle_host(w, b, true);
	note(w, words);
	for (int i = 0; i < WORDS; i++)
		words[i] = words[i] * 5 + 1;
}

/* Another allocation for a buffer, in the order of the stream or of the host. */
static void renew(struct world *w, int s)
{
	int b = HOST_BUFFERS + (int)draw(w, BUFFERS - HOST_BUFFERS);
	struct access a = {.dst = b, .src = -1};
	struct buffer *buffer = &w->buffers[b];

	bool async = draw(w, 2);

	if (async && buffer->async) {
		settle(w, s, a);
		OK(cuMemFreeAsync(buffer->at, w->streams[s].handle));
		OK(cuMemAllocAsync(&buffer->at, WORDS * sizeof(uint32_t), w->streams[s].handle));
	} else {
		settle_host(w, b, true);
		OK(cuMemFree(buffer->at));
		if (async)
			OK(cuMemAllocAsync(&buffer->at, WORDS * sizeof(uint32_t),
					   w->streams[s].handle));
		else
			OK(cuMemAlloc(&buffer->at, WORDS * sizeof(uint32_t)));
	}
	buffer->async = async;
	OK(cuMemsetD32Async(buffer->at, draw(w, 100000), WORDS, w->streams[s].handle));
	did(w, s, a);
	/* Graphs have the old address in them. */
	for (int g = 0; g < GRAPHS; g++)
		if (w->graphs[g].exec && (w->graphs[g].reads[b] || w->graphs[g].writes[b]))
			forget_graph(&w->graphs[g]);
}

void simple(struct world *w, int s)
{
	switch (draw(w, 8)) {
	case 0:
		copy(w, s);
		break;
	case 1:
		set(w, s);
		break;
	case 2:
		host_function(w, s);
		break;
	default:
		kernel(w, s);
		break;
	}
}

/* ---- streams ---- */

static int add_stream(struct world *w, enum kind kind, CUstream handle)
{
	if (w->n_streams == LINES)
		return -1;
	w->streams[w->n_streams] = (struct stream){.kind = kind, .handle = handle, .alive = true};
	return w->n_streams++;
}

static void make_stream(struct world *w)
{
	bool blocking = draw(w, 2);
	CUstream s;

	if (w->n_streams == LINES)
		return;
	OK(cuStreamCreateWithPriority(&s, blocking ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING,
				      -(int)draw(w, 3)));
	add_stream(w, blocking ? BLOCKING : NON_BLOCKING, s);
}

int any_stream(struct world *w)
{
	int s;

	do
		s = (int)draw(w, (uint32_t)w->n_streams);
	while (!w->streams[s].alive);
	return s;
}

/* Its work goes on, and the NULL stream still waits for that of a blocking one. */
static void replace_stream(struct world *w)
{
	int s = any_stream(w);

	if (w->streams[s].kind == LEGACY || w->streams[s].kind == PER_THREAD ||
	    w->n_streams == LINES)
		return;
	/* Only a wait for the whole context could wait for it afterwards. */
	if (!w->alone)
		synchronize(w, s);
	OK(cuStreamDestroy(w->streams[s].handle));
	w->streams[s].alive = false;
	make_stream(w);
}

/* ---- programs ---- */

static void step(struct world *w)
{
	struct event *e = &w->events[draw(w, EVENTS)];
	int s = any_stream(w);

	switch (draw(w, 26)) {
	case 0:
		pageable_copy(w, s);
		break;
	case 1:
		synchronous_copy(w);
		break;
	case 2:
		host_access(w);
		break;
	case 3:
		renew(w, s);
		break;
	case 4:
		replace_stream(w);
		break;
	case 5:
		if (w->captures)
			capture(w);
		break;
	case 6:
		explicit_graph(w);
		break;
	case 7:
	case 8:
	case 9:
		launch_graph(w, s);
		break;
	case 10:
		record(w, s, e);
		break;
	case 11:
		if (e->recorded)
			wait_for(w, s, e);
		break;
	case 12:
		if (e->recorded) {
			OK(cuEventSynchronize(e->handle));
			join(&w->host, &e->clock);
		}
		break;
	case 13:
	case 14:
		change_graph(w);
		break;
	default:
		simple(w, s);
		break;
	}
}

static void begin(struct world *w, CUcontext ctx, const CUfunction mix[2], uint64_t seed,
		  unsigned steps, bool alone)
{
	*w = (struct world){.random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15),
			    .alone = alone,
			    .ctx = ctx,
			    .mix = mix[0],
			    .mix_after = mix[1],
			    .hash = UINT64_C(0xcbf29ce484222325),
			    .steps = steps};
	OK(cuCtxSetCurrent(ctx));
	add_stream(w, LEGACY, draw(w, 2) ? NULL : CU_STREAM_LEGACY);
	add_stream(w, PER_THREAD, CU_STREAM_PER_THREAD);
	for (int i = 0; i < 6; i++)
		make_stream(w);
	for (int i = 0; i < EVENTS; i++)
		OK(cuEventCreate(&w->events[i].handle, CU_EVENT_DISABLE_TIMING));
	for (int i = 0; i < BUFFERS; i++) {
		void *pinned;
		if (i >= HOST_BUFFERS) {
			OK(cuMemAlloc(&w->buffers[i].at, WORDS * sizeof(uint32_t)));
		} else {
			OK(cuMemHostAlloc(&pinned, WORDS * sizeof(uint32_t),
					  CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
			w->buffers[i].at = (CUdeviceptr)(uintptr_t)pinned;
		}
		w->buffers[i].writer = -1;
		OK(cuMemsetD32Async(w->buffers[i].at, draw(w, 100000), WORDS,
				    w->streams[0].handle));
		did(w, 0, (struct access){.dst = i, .src = -1});
	}
}

static void end(struct world *w)
{
	uint32_t words[WORDS];

	for (int i = 0; i < w->n_streams; i++)
		if (w->streams[i].alive)
			OK(cuStreamSynchronize(w->streams[i].handle));
	for (int i = 0; i < BUFFERS; i++) {
		settle_host(w, i, true);
		OK(cuMemcpyDtoH(words, w->buffers[i].at, sizeof(words)));
		note(w, words);
	}
	while (w->calls) {
		struct call *c = w->calls;
		w->calls = c->next;
		free(c);
	}
}

static void *run(void *arg)
{
	struct world *w = arg;

	OK(cuCtxSetCurrent(w->ctx));
	for (unsigned i = 0; i < w->steps; i++)
		step(w);
	end(w);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct world worlds[THREADS_MAX];
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, hash = 0;
	unsigned steps = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 200;
	unsigned n = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 1, operations = 0;
	pthread_t threads[THREADS_MAX];
	CUcontext ctx;
	CUmodule module;
	CUfunction mix[2] = {NULL, NULL};
	CUdevice dev;

	if (!n || n > THREADS_MAX) {
		fprintf(stderr,
			"Usage: random_program SEED [STEPS [THREADS, 1 to %d [CAPTURE, 0 or 1]]]\n",
			THREADS_MAX);
		return 2;
	}
	alarm(120);
	OK(cuInit(0));
	OK(cuDeviceGet(&dev, 0));
	OK(cuDevicePrimaryCtxRetain(&ctx, dev));
	OK(cuCtxSetCurrent(ctx));
	OK(cuModuleLoadData(&module, ptx));
	OK(cuModuleGetFunction(&mix[0], module, "mix"));
	if (cuModuleLoadData(&module, ptx_after) == CUDA_SUCCESS)
		OK(cuModuleGetFunction(&mix[1], module, "mix"));
	for (unsigned i = 0; i < n; i++) {
		begin(&worlds[i], ctx, mix, seed * THREADS_MAX + i, steps, n == 1);
		worlds[i].captures = argc <= 4 || strcmp(argv[4], "0") != 0;
	}
	OK(cuCtxSynchronize());
	for (unsigned i = 1; i < n; i++)
		if (pthread_create(&threads[i], NULL, run, &worlds[i]))
			return 1;
	run(&worlds[0]);
	for (unsigned i = 1; i < n; i++)
		pthread_join(threads[i], NULL);
	OK(cuCtxSynchronize());
	for (unsigned i = 0; i < n; i++) {
		hash = hash * 31 + worlds[i].hash;
		operations += worlds[i].operations;
	}
	printf("%016llx after %u operations\n", (unsigned long long)hash, operations);
	return 0;
}

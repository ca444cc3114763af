/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/measure_report.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static uint64_t key_of(const char *name, const struct ds_launch_shape *shape)
{
	const unsigned char *bytes = (const unsigned char *)shape;
	uint64_t key = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

	for (const char *c = name; *c; c++)
		key = (key ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
	for (size_t i = 0; i < sizeof(*shape); i++)
		key = (key ^ bytes[i]) * UINT64_C(0x100000001b3);
	return key ? key : 1;
}

struct ds_kernel *ds_kernels_find(struct ds_kernels *kernels, const char *name,
				  const struct ds_launch_shape *shape)
{
	struct ds_kernel *kernel;
	uint64_t key;

	name = name ? name : "(unknown)";
	key = key_of(name, shape);
	for (unsigned i = 0; i < DS_KERNELS_MAX; i++) {
		kernel = &kernels->kernels[(key + i) % DS_KERNELS_MAX];
		if (kernel->key == key)
			return kernel;
		if (kernel->key)
			continue;
		kernel->key = key;
		kernel->shape = *shape;
		snprintf(kernel->name, sizeof(kernel->name), "%s", name);
		return kernel;
	}
	kernel = &kernels->kernels[DS_KERNELS_MAX];
	memcpy(kernel->name, "others", sizeof("others"));
	return kernel;
}

struct line {
	char *text;
	size_t size;
	size_t length;
	bool cut;
};

__attribute__((format(printf, 2, 3))) static void add(struct line *line, const char *format, ...)
{
	va_list arguments;
	int n;

	if (line->cut)
		return;
	va_start(arguments, format);
	n = vsnprintf(line->text + line->length, line->size - line->length, format, arguments);
	va_end(arguments);
	if (n < 0 || (size_t)n >= line->size - line->length)
		line->cut = true;
	else
		line->length += (size_t)n;
}

static void add_name(struct line *line, const char *name)
{
	for (; *name; name++) {
		const unsigned char c = (unsigned char)*name;

		if (c < ' ' || c >= 0x7f || c == '"' || c == '\\')
			add(line, "\\u%04x", c);
		else
			add(line, "%c", c);
	}
}

/* Every launch is as likely to be a sample as any other, so samples stand for launches. */
static double scaled(uint64_t part, uint64_t launches, uint64_t samples)
{
	return samples ? (double)part / (double)samples * (double)launches : 0;
}

static void add_kernel(struct line *line, const struct ds_kernel *kernel, uint64_t launches,
		       uint64_t samples, bool first)
{
	const struct ds_launch_shape *shape = &kernel->shape;

	add(line, "%s{\"name\":\"", first ? "" : ",");
	add_name(line, kernel->name);
	add(line,
	    "\",\"grid\":[%u,%u,%u],\"block\":[%u,%u,%u],\"samples\":%" PRIu64
	    ",\"launches\":%.0f,\"gpu_us\":%.3f}",
	    shape->grid[0], shape->grid[1], shape->grid[2], shape->block[0], shape->block[1],
	    shape->block[2], kernel->samples, scaled(kernel->samples, launches, samples),
	    (double)kernel->sampled_ns / 1e3 / (double)kernel->samples);
}

size_t ds_measure_format(char *text, size_t size, const struct ds_port *port,
			 const struct ds_kernels *kernels)
{
	const uint64_t launches = atomic_load_explicit(&port->launches, memory_order_relaxed);
	const uint64_t samples = atomic_load_explicit(&port->samples, memory_order_relaxed);
	const uint64_t sampled_ns = atomic_load_explicit(&port->sampled_ns, memory_order_relaxed);
	const struct ds_sketch steps = port->steps;
	struct line line = {.text = text, .size = size > 4 ? size - 4 : 0};
	bool first = true;

	add(&line,
	    "{\"pid\":%d,\"launches\":%" PRIu64 ",\"samples\":%" PRIu64
	    ",\"busy_gpu_s\":%.6f,\"steps\":%" PRIu64
	    ",\"step_p50_us\":%.3f,\"step_p99_us\":%.3f,\"remaps\":%" PRIu64 ",\"stalls\":%" PRIu64
	    ",\"export_tables\":%" PRIu64 ",\"launching_modules\":%" PRIu64
	    ",\"unread_modules\":%" PRIu64 ",\"pinned_graphs\":%" PRIu64 ",\"kernels\":[",
	    (int)getpid(), launches, samples, scaled(sampled_ns, launches, samples) / 1e9,
	    ds_sketch_count(&steps), (double)ds_sketch_quantile_ns(&steps, 500) / 1e3,
	    (double)ds_sketch_quantile_ns(&steps, 990) / 1e3,
	    atomic_load_explicit(&port->remaps, memory_order_relaxed),
	    atomic_load_explicit(&port->stalls, memory_order_relaxed),
	    atomic_load_explicit(&port->export_tables, memory_order_relaxed),
	    atomic_load_explicit(&port->launching_modules, memory_order_relaxed),
	    atomic_load_explicit(&port->unread_modules, memory_order_relaxed),
	    atomic_load_explicit(&port->pinned_graphs, memory_order_relaxed));
	if (line.cut)
		return 0;
	for (unsigned i = 0; i <= DS_KERNELS_MAX && !line.cut; i++) {
		const size_t whole = line.length;

		if (!kernels->kernels[i].samples)
			continue;
		add_kernel(&line, &kernels->kernels[i], launches, samples, first);
		if (line.cut)
			line.length = whole;
		first = false;
	}
	memcpy(text + line.length, "]}\n", sizeof("]}\n"));
	return line.length + 3;
}

void ds_measure_write_report(const char *path, const struct ds_port *port,
			     const struct ds_kernels *kernels)
{
	static char text[(DS_KERNELS_MAX + 1) * (DS_KERNEL_NAME_MAX + 160) + 1024];
	const size_t length = ds_measure_format(text, sizeof(text), port, kernels);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

	if (fd < 0)
		return;
	ssize_t ignored = write(fd, text, length);
	(void)ignored;
	close(fd);
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_MEASURE_REPORT_H
#define DETSHARE_COROUTINE_MEASURE_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "noderuntime/coroutine/bound.h"
#include "noderuntime/coroutine/measure.h"

/*
 * The table of kernels, and what was measured as one line of JSON. Knows nothing of the driver, and
 * allocates nothing.
 */
enum {
	DS_KERNELS_MAX = 256, /* what comes after them is counted together, as "others" */
	DS_KERNEL_NAME_MAX = 160,
};

/* One kernel in one launch shape. */
struct ds_kernel {
	uint64_t key; /* of the whole name and the shape; 0: free */
	char name[DS_KERNEL_NAME_MAX];
	struct ds_launch_shape shape;
	uint64_t samples;
	uint64_t sampled_ns;
	struct ds_bound bound;
};

struct ds_kernels {
	struct ds_kernel kernels[DS_KERNELS_MAX + 1]; /* the last: all others */
};

/* The entry of this kernel, made if there is room, else that of the others. `name` NULL: "(unknown)". */
struct ds_kernel *ds_kernels_find(struct ds_kernels *kernels, const char *name,
				  const struct ds_launch_shape *shape);

/*
 * The report: one line of JSON in `text` (size bytes), ended by a newline, cut to as many kernels as
 * fit. Returns its length; 0: `size` is too small for a line without kernels.
 */
size_t ds_measure_format(char *text, size_t size, const struct ds_port *port,
			 const struct ds_kernels *kernels);

/* Append the report to the file `path`, with one write(2). Fails silently: the program is ending. */
void ds_measure_write_report(const char *path, const struct ds_port *port,
			     const struct ds_kernels *kernels);

#endif

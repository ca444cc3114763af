/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels_ptx.h"

struct driver_calls cu;

void die(const char *what, CUresult result)
{
	fprintf(stderr, "%s: %s: error %d\n", program_invocation_short_name, what, (int)result);
	exit(1);
}

void *load_driver(void)
{
	void *libcuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!libcuda)
		exit(77);
#define LOAD(name) *(void **)&cu.do_##name = dlsym(libcuda, #name);
	DRIVER_CALLS(LOAD)
	return libcuda;
}

struct kernels load_kernels(void)
{
	struct kernels kernels;

	CALL(cuModuleLoadData, &kernels.module, kernels_ptx);
	CALL(cuModuleGetFunction, &kernels.vector_add, kernels.module, "vector_add");
	CALL(cuModuleGetFunction, &kernels.spin_us, kernels.module, "spin_us");
	return kernels;
}

static int run(const struct experiment *experiment, int rounds, const struct experiments *how)
{
	if (how->start)
		how->start();
	for (int round = 0; round < rounds; round++) {
		if (round)
			how->end_round();
		experiment->run();
	}
	return fflush(stdout) ? 1 : 0;
}

int run_experiment(int argc, char **argv, const struct experiments *experiments)
{
	const int rounds = argc == 3 && experiments->end_round ? atoi(argv[2]) : argc == 2;

	alarm(100);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; rounds > 0 && i < experiments->n; i++)
		if (!strcmp(argv[1], experiments->all[i].name))
			return run(&experiments->all[i], rounds, experiments);
	fprintf(stderr, "Usage: %s EXPERIMENT%s, one of", program_invocation_short_name,
		experiments->end_round ? " [ROUNDS]" : "");
	for (size_t i = 0; i < experiments->n; i++)
		fprintf(stderr, " %s", experiments->all[i].name);
	fprintf(stderr, "\n");
	return 2;
}

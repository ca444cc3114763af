/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the driver in every way a program can, and looks up every call that the driver has. What it prints
 * is the same with and without the coroutine library, but for where the functions are.
 * Usage: lookup_program EXPERIMENT [ARGUMENT...]
 */
#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

typedef CUresult CUDAAPI get_1(const char *, void **, int, cuuint64_t);
typedef CUresult CUDAAPI get_2(const char *, void **, int, cuuint64_t,
			       CUdriverProcAddressQueryResult *);

static void *open_driver(int flags)
{
	void *libcuda = dlopen("libcuda.so.1", flags);

	if (!libcuda) {
		printf("no driver: %s\n", dlerror());
		exit(0);
	}
	return libcuda;
}

/* "SYMBOL FILE", both as the dynamic linker knows them. */
static const char *where(void *address)
{
	static char text[256];
	Dl_info info = {0};
	const char *file;

	if (!address || !dladdr(address, &info))
		return "none none";
	file = strrchr(info.dli_fname, '/');
	snprintf(text, sizeof(text), "%s %s", info.dli_sname ? info.dli_sname : "none",
		 file ? file + 1 : info.dli_fname);
	return text;
}

/* ---- every call ---- */

/* Names on standard input, one on a line: by dlsym, and by cuGetProcAddress of every version and flag. */
static void every(void)
{
	static const int versions[] = {2000,  3020,  4000,  5050,  7000,  8000,  9000,
				       10000, 10010, 11000, 11030, 11040, 12000, 12020,
				       12030, 12040, 12050, 12080, 13000, 13010, -1};
	void *libcuda = open_driver(RTLD_NOW | RTLD_LOCAL);
	get_1 *first = (get_1 *)dlsym(libcuda, "cuGetProcAddress");
	get_2 *second = (get_2 *)dlsym(libcuda, "cuGetProcAddress_v2");
	char name[128];

	while (fgets(name, sizeof(name), stdin)) {
		name[strcspn(name, "\n")] = '\0';
		printf("dlsym %s: %s", name, where(dlsym(libcuda, name)));
		printf(" error %d\n", dlerror() != NULL);
		for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
			for (cuuint64_t flags = 0; flags < 4; flags++) {
				CUdriverProcAddressQueryResult status =
				    (CUdriverProcAddressQueryResult)77;
				void *found = (void *)1;
				CUresult result = second(name, &found, versions[i], flags, &status);

				printf("v2 %s %d %d = %d %d: %s\n", name, versions[i], (int)flags,
				       (int)result, (int)status,
				       where(found == (void *)1 ? NULL : found));
				found = (void *)1;
				if (!first)
					continue;
				result = first(name, &found, versions[i], flags);
				printf("v1 %s %d %d = %d: %s\n", name, versions[i], (int)flags,
				       (int)result, where(found == (void *)1 ? NULL : found));
			}
		}
	}
}

/* What is not there, and what must not be followed; and cuGetProcAddress that is asked for itself. */
static void odd(void)
{
	void *libcuda = open_driver(RTLD_NOW | RTLD_LOCAL);
	get_2 *get = (get_2 *)dlsym(libcuda, "cuGetProcAddress_v2");
	CUdriverProcAddressQueryResult status;
	void *found = NULL;

	printf("no status %d\n", (int)get("cuLaunchKernel", &found, 12050, 0, NULL));
	printf("bad flags %d\n", (int)get("cuLaunchKernel", &found, 12050, 64, &status));
	printf("empty %d\n", (int)get("", &found, 12050, 0, &status));
	for (int depth = 0; depth < 5; depth++) {
		CUresult result = get("cuGetProcAddress", &found, 12050, 0, &status);

		printf("itself %d %d %s\n", (int)result, (int)status, where(found));
		get = (get_2 *)found;
	}
	for (int depth = 0; depth < 3; depth++) {
		get_1 *first;
		CUresult result = get("cuGetProcAddress", &found, 11030, 0, &status);

		printf("first form %d %d %s\n", (int)result, (int)status, where(found));
		first = (get_1 *)found;
		printf("by it %d", (int)first("cuLaunchKernel", &found, 12050, 0));
		printf(" %s\n", where(found));
	}
}

/* ---- loading ---- */

static bool runs(void *libcuda)
{
	CUresult CUDAAPI (*init)(unsigned) = (CUresult(*)(unsigned))dlsym(libcuda, "cuInit");
	CUresult CUDAAPI (*get)(CUdevice *, int) =
	    (CUresult(*)(CUdevice *, int))dlsym(libcuda, "cuDeviceGet");
	CUresult CUDAAPI (*retain)(CUcontext *, CUdevice) =
	    (CUresult(*)(CUcontext *, CUdevice))dlsym(libcuda, "cuDevicePrimaryCtxRetain");
	CUresult CUDAAPI (*set)(CUcontext) =
	    (CUresult(*)(CUcontext))dlsym(libcuda, "cuCtxSetCurrent");
	CUresult CUDAAPI (*create)(CUstream *, unsigned) =
	    (CUresult(*)(CUstream *, unsigned))dlsym(libcuda, "cuStreamCreate");
	CUresult CUDAAPI (*sync)(CUstream) =
	    (CUresult(*)(CUstream))dlsym(libcuda, "cuStreamSynchronize");
	CUstream stream;
	CUcontext context;
	CUdevice device;

	return !init(0) && !get(&device, 0) && !retain(&context, device) && !set(context) &&
	       !create(&stream, 0) && !sync(stream) && !sync(NULL);
}

/* Late, closed, again, twice at once; by another name for the same file. */
static void again(void)
{
	char path[4096] = "";
	struct link_map *map = NULL;
	void *one, *two;

	printf("before %d\n", dlsym(RTLD_DEFAULT, "cuInit") != NULL);
	one = open_driver(RTLD_LAZY | RTLD_LOCAL);
	printf("launch %s\n", where(dlsym(one, "cuLaunchKernel")));
	printf("close %d\n", dlclose(one));
	one = open_driver(RTLD_NOW | RTLD_LOCAL);
	printf("again %s\n", where(dlsym(one, "cuLaunchKernel")));
	two = open_driver(RTLD_NOW | RTLD_GLOBAL);
	printf("same %d\n", one == two);
	printf("default %s\n", where(dlsym(RTLD_DEFAULT, "cuLaunchKernel")));
	if (dlinfo(one, RTLD_DI_LINKMAP, &map) == 0 && map)
		snprintf(path, sizeof(path), "%s", map->l_name);
	two = dlopen(path, RTLD_NOW);
	printf("by path %s\n", where(two ? dlsym(two, "cuLaunchKernel") : NULL));
	printf("runs %d\n", runs(one));
	printf("close %d %d\n", dlclose(one), dlclose(two));
	printf("runs %d\n", runs(open_driver(RTLD_NOW)));
}

/* dlsym as programs are linked with it: of the C library of before 2.34, when it was in libdl, and of today. */
#if defined(__x86_64__)
#define OLD_VERSION "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define OLD_VERSION "GLIBC_2.17"
#endif
#ifdef OLD_VERSION
void *old_dlsym(void *handle, const char *name);
__asm__(".symver old_dlsym, dlsym@" OLD_VERSION);
#else
#define old_dlsym dlsym
#endif

static void versions(void)
{
	void *libcuda = open_driver(RTLD_NOW | RTLD_LOCAL);
	void *(*look)(void *, const char *);

	printf("today's %s\n", where(dlsym(libcuda, "cuLaunchKernel")));
	printf("old %s\n", where(old_dlsym(libcuda, "cuLaunchKernel")));
	printf("next %d\n", old_dlsym(RTLD_NEXT, "malloc") == dlsym(RTLD_NEXT, "malloc"));
	look = (void *(*)(void *, const char *))dlsym(RTLD_DEFAULT, "dlsym");
	printf("default %s\n", look ? where(look(libcuda, "cuLaunchKernel")) : "-");
	look = (void *(*)(void *, const char *))dlvsym(RTLD_DEFAULT, "dlsym", OLD_VERSION);
	printf("dlvsym of dlsym %s\n", look ? where(look(libcuda, "cuLaunchKernel")) : "-");
	printf("dlvsym %s\n", where(dlvsym(libcuda, "cuLaunchKernel", "NO_SUCH_VERSION")));
	printf("error %d\n", dlerror() != NULL);
}

/* A copy of the driver in another namespace of the linker. */
static void namespaces(void)
{
	void *libcuda = dlmopen(LM_ID_NEWLM, "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	void *address = libcuda ? dlsym(libcuda, "cuLaunchKernel") : NULL;

	printf("opened %d\n", libcuda != NULL);
	printf("launch %s\n", where(address));
	printf("here %d\n", dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) != NULL);
}

/* As `import` does with a missing library: what is wrong must be told as alone. */
static void missing(void)
{
	static const char *const tried[] = {"libcuda.so.1", "libcuda.so", "/no/such/libcuda.so.1"};
	void *self = dlopen(NULL, RTLD_NOW);

	for (int i = 0; i < 3; i++) {
		void *handle = dlopen(tried[i], RTLD_NOW);

		printf("%s: %s\n", tried[i], handle ? "found" : dlerror());
	}
	printf("default %d", dlsym(RTLD_DEFAULT, "cuLaunchKernel") != NULL);
	printf(" %s\n", dlerror());
	printf("self %d", dlsym(self, "cuGetProcAddress") != NULL);
	printf(" %s\n", dlerror());
	printf("next %d", dlsym(RTLD_NEXT, "cuInit") != NULL);
	printf(" %s\n", dlerror());
	printf("next %d", dlsym(RTLD_NEXT, "cuLaunchKernel") != NULL);
	printf(" %s\n", dlerror());
}

static const struct experiment experiments[] = {
    {"every", every},           {"odd", odd},         {"again", again}, {"versions", versions},
    {"namespaces", namespaces}, {"missing", missing},
};

int main(int argc, char **argv)
{
	return run_experiment(
	    argc, argv,
	    &(struct experiments){.all = experiments,
				  .n = sizeof(experiments) / sizeof(experiments[0])});
}

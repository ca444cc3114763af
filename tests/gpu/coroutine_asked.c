/* SPDX-License-Identifier: Apache-2.0 */
/* What a program can find out: where the driver's calls are, and all about its streams. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "coroutine_program.h"

static void show_found(const char *path, void *address)
{
	Dl_info info = {0};
	const char *file = "none", *symbol = "none";

	if (address && dladdr(address, &info)) {
		file = strrchr(info.dli_fname, '/');
		file = file ? file + 1 : info.dli_fname;
		symbol = info.dli_sname ? info.dli_sname : "none";
	}
	printf("%s %s %.10s\n", path, symbol, file);
}

void lookup(void)
{
	typedef CUresult CUDAAPI get_1(const char *, void **, int, cuuint64_t);
	typedef CUresult CUDAAPI get_2(const char *, void **, int, cuuint64_t,
				       CUdriverProcAddressQueryResult *);
	static const struct {
		const char *name;
		int version;
		cuuint64_t flags;
	} asked[] = {
	    {"cuLaunchKernel", 12050, 0},
	    {"cuLaunchKernel", 12050, CU_GET_PROC_ADDRESS_LEGACY_STREAM},
	    {"cuLaunchKernel", 12050, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
	    {"cuLaunchKernel", 2000, 0},
	    {"cuMemcpyHtoD", 12050, 0},
	    {"cuMemcpyHtoD", 12050, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
	    {"cuStreamGetCtx", 12000, 0},
	    {"cuStreamGetCtx", 12050, 0},
	    {"cuStreamCreate", 12050, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM},
	    {"cuGetProcAddress", 11030, 0},
	    {"cuGetProcAddress", 12000, 0},
	    {"cuMemAlloc", 12050, 0},
	    {"cuNoSuchCall", 12050, 0},
	};
	void *libcuda = load_driver(), *deep, *address;
	get_1 *first;
	get_2 *second;

	show_found("dlsym", dlsym(libcuda, "cuLaunchKernel"));
	show_found("dlsym-ptsz", dlsym(libcuda, "cuLaunchKernel_ptsz"));
	show_found("dlsym-other", dlsym(libcuda, "cuMemGetAddressRange_v2"));
	show_found("dlsym-none", dlsym(libcuda, "cuNoSuchCall"));
	printf("dlerror %d\n", dlerror() != NULL);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	deep = libcuda; /* the sanitizers forbid RTLD_DEEPBIND */
#else
	deep = dlopen("libcuda.so.1", RTLD_NOW | RTLD_DEEPBIND);
#endif
	show_found("deepbind", dlsym(deep, "cuLaunchKernel"));
	dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
	show_found("default", dlsym(RTLD_DEFAULT, "cuLaunchKernel"));
	show_found("next", dlsym(RTLD_NEXT, "cuLaunchKernel"));
	show_found("v", dlvsym(libcuda, "no_such_symbol", "NONE"));
	first = (get_1 *)dlsym(libcuda, "cuGetProcAddress");
	second = (get_2 *)dlsym(libcuda, "cuGetProcAddress_v2");
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		CUdriverProcAddressQueryResult status = (CUdriverProcAddressQueryResult)99;
		char path[80];
		CUresult result;

		address = NULL;
		result = second(asked[i].name, &address, asked[i].version, asked[i].flags, &status);
		snprintf(path, sizeof(path), "v2:%s:%d:%d=%d,%d", asked[i].name, asked[i].version,
			 (int)asked[i].flags, (int)result, (int)status);
		show_found(path, address);
		address = NULL;
		result = first(asked[i].name, &address, asked[i].version, asked[i].flags);
		snprintf(path, sizeof(path), "v1:%s:%d:%d=%d", asked[i].name, asked[i].version,
			 (int)asked[i].flags, (int)result);
		show_found(path, address);
	}
	address = NULL;
	printf("no-status %d\n", (int)second("cuLaunchKernel", &address, 12050, 0, NULL));
}

/* ---- properties: everything a program can ask about its streams ---- */

static void show_stream(const char *name, CUstream stream)
{
	unsigned flags = 99;
	int priority = 99;
	CUcontext context = NULL, context_2 = NULL;
	CUgreenCtx green = (CUgreenCtx)1, green_2 = (CUgreenCtx)1;
	CUresult results[5];

	results[0] = cu.do_cuStreamGetFlags(stream, &flags);
	results[1] = cu.do_cuStreamGetPriority(stream, &priority);
	results[2] = cu.do_cuStreamGetCtx(stream, &context);
	results[3] = cu.do_cuStreamGetCtx_v2(stream, &context_2, &green_2);
	results[4] = cu.do_cuStreamGetGreenCtx(stream, &green);
	printf("%s: flags %u priority %d context %d %d green %d %d results %d %d %d %d %d\n", name,
	       flags, priority, context == primary, context_2 == primary, green == NULL,
	       green_2 == NULL, results[0], results[1], results[2], results[3], results[4]);
}

static void CUDA_CB note_stream(CUstream stream, CUresult status, void *data)
{
	*(CUstream *)data = stream;
}

void properties(void)
{
	CUstream streams[KINDS], stream = NULL, seen;
	int sms;

	start();
	make_streams(streams);
	CALL(cuDeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
	printf("sms %d\n", sms);
	for (int i = 0; i < KINDS; i++) {
		show_stream(kinds[i], streams[i]);
		seen = (CUstream)99;
		CALL(cuStreamAddCallback, streams[i], note_stream, &seen, 0);
		CALL(cuCtxSynchronize);
		printf("callback %d\n", seen == streams[i]);
	}
	printf("bad flags %d\n", (int)cu.do_cuStreamCreate(&stream, 77));
	printf("no pointer %d\n", (int)cu.do_cuStreamCreate(NULL, 0));
	printf("null out %d\n", (int)cu.do_cuStreamGetFlags(streams[3], NULL));
	CALL(cuStreamDestroy_v2, streams[3]);
	CALL(cuCtxSetCurrent, NULL);
	printf("no context %d %d %d\n", (int)spin(NULL, 1, 1),
	       (int)cu.do_cuStreamCreate(&stream, 0),
	       (int)cu.do_cuStreamQuery(CU_STREAM_PER_THREAD));
}

/* What a program can ask of a stream stays as it is when the stream moves. */
void moved_properties(void)
{
	CUstreamAttrValue value = {.syncPolicy = CU_SYNC_POLICY_YIELD}, found;
	CUstream streams[KINDS];
	unsigned long long before[KINDS], after;

	start();
	make_streams(streams);
	for (int i = 0; i < KINDS; i++)
		CALL(cuStreamGetId, streams[i], &before[i]);
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < KINDS; i++) {
			CUstream seen = (CUstream)99;

			for (int n = 0; n < 3; n++)
				spin(streams[i], 10, 1);
			show_stream(kinds[i], streams[i]);
			CALL(cuStreamGetId, streams[i], &after);
			printf("same id %d\n", after == before[i]);
			CALL(cuStreamAddCallback, streams[i], note_stream, &seen, 0);
			CALL(cuCtxSynchronize);
			printf("callback %d\n", seen == streams[i]);
			if (!cu.do_cuStreamSetAttribute || !cu.do_cuStreamGetAttribute)
				continue;
			memset(&found, 0, sizeof(found));
			if (round == 1)
				printf("set %d\n",
				       (int)cu.do_cuStreamSetAttribute(
					   streams[i], CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY,
					   &value));
			printf("get %d",
			       (int)cu.do_cuStreamGetAttribute(
				   streams[i], CU_STREAM_ATTRIBUTE_SYNCHRONIZATION_POLICY, &found));
			printf(" %d\n", (int)found.syncPolicy);
		}
	}
}

/* ---- other things that it may look at ---- */

/* Descriptors of the program's own keep the numbers they have alone. */
void descriptors(void)
{
	int fd;

	start();
	spin(NULL, 10, 1);
	CALL(cuCtxSynchronize);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	printf("descriptor %d\n", fd);
}

/* Never touches CUDA, but looks for it everywhere. */
void without_cuda(void)
{
	dlerror();
	printf("default %d", dlsym(RTLD_DEFAULT, "cuLaunchKernel") != NULL);
	printf(" error %d", dlerror() != NULL);
	printf(" next %d", dlsym(RTLD_NEXT, "cuLaunchKernel") != NULL);
	printf(" own %d", dlsym(dlopen(NULL, RTLD_NOW), "cuLaunchKernel") != NULL);
	printf(" library %d", dlopen("libno-such-cuda.so.1", RTLD_NOW) != NULL);
	printf(" malloc %d\n", dlsym(RTLD_NEXT, "malloc") == dlsym(RTLD_DEFAULT, "malloc"));
}

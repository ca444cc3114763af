/* SPDX-License-Identifier: Apache-2.0 */
/* emugpu-host: make, look into and remove a directory that holds emulated GPUs. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/emugpu/shm.h"

static const char usage[] =
    "Usage: emugpu-host create DIR [--gpus N] [--sms N] [--group-sms N] [--groups N]\n"
    "                              [--memory-mib N]\n"
    "       emugpu-host trace DIR GPU      blocks that ran, one JSON object per line\n"
    "       emugpu-host check DIR GPU      did processes share an SM since the last clear? Exit 1: "
    "yes\n"
    "       emugpu-host clear DIR GPU      forget the trace\n"
    "       emugpu-host clients DIR GPU    processes that use the GPU, one JSON object per line\n"
    "       emugpu-host destroy DIR\n"
    "Programs find the GPUs through EMUGPU_DIR=DIR.\n";

static int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int fail(const char *format, ...)
{
	va_list args;

	fputs("emugpu-host: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return 1;
}

static int make_dir(const char *path)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		return fail("cannot make directory %s: %s", path, strerror(errno));
	return 0;
}

/* FNV-1a of the directory's name: GPUs of two emulated hosts have different UUIDs, always the same. */
static uint64_t hash(const char *text)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
	return h;
}

static int write_information(const char *dir, const char *bus_id, const char *uuid, unsigned minor)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/%s", dir, bus_id);
	if (make_dir(path))
		return 1;
	snprintf(path, sizeof(path), "%s/proc/%s/information", dir, bus_id);
	f = fopen(path, "we");
	if (!f)
		return fail("cannot write %s: %s", path, strerror(errno));
	fprintf(f,
		"Model: \t\t Emulated GPU (detshare tests)\n"
		"IRQ:   \t\t 0\n"
		"GPU UUID: \t %s\n"
		"Video BIOS: \t ??.??.??.??.??\n"
		"Bus Type: \t PCIe\n"
		"DMA Size: \t 52 bits\n"
		"DMA Mask: \t 0xfffffffffffff\n"
		"Bus Location: \t %s\n"
		"Device Minor: \t %u\n"
		"GPU Excluded:\t No\n",
		uuid, bus_id, minor);
	if (fclose(f))
		return fail("cannot write %s: %s", path, strerror(errno));
	return 0;
}

static int create_gpu(const char *dir, struct emu_shape shape)
{
	char path[PATH_MAX], resolved[PATH_MAX];
	unsigned one_based = (shape.index + 1) & 0xff;
	FILE *f;

	if (!realpath(dir, resolved))
		return fail("cannot resolve %s: %s", dir, strerror(errno));
	uint64_t h = hash(resolved);
	snprintf(shape.uuid, sizeof(shape.uuid), "GPU-e0000000-%04x-4000-8000-%012llx", one_based,
		 (unsigned long long)(h & 0xffffffffffff));
	snprintf(shape.bus_id, sizeof(shape.bus_id), "0000:%02x:00.0", one_based);

	snprintf(path, sizeof(path), "%s/gpu%u", dir, shape.index);
	if (emu_gpu_create(path, &shape))
		return fail("cannot make %s: %s%s", path, strerror(errno),
			    errno == EEXIST ? "; use another directory, or destroy this one first"
					    : "");
	snprintf(path, sizeof(path), "%s/dev/emugpu%u", dir, shape.index);
	f = fopen(path, "we");
	if (!f || fclose(f))
		return fail("cannot make %s: %s", path, strerror(errno));
	return write_information(dir, shape.bus_id, shape.uuid, shape.index);
}

static int number(const char *option, const char *text, unsigned long low, unsigned long high,
		  unsigned long *value)
{
	char *end;

	errno = 0;
	*value = strtoul(text, &end, 10);
	if (errno || *end || end == text || *value < low || *value > high)
		return fail("--%s %s: want a number from %lu to %lu", option, text, low, high);
	return 0;
}

static int create(int argc, char **argv)
{
	static const struct option options[] = {
	    {"gpus", required_argument, NULL, 'g'},       {"sms", required_argument, NULL, 's'},
	    {"group-sms", required_argument, NULL, 'r'},  {"groups", required_argument, NULL, 'n'},
	    {"memory-mib", required_argument, NULL, 'm'}, {NULL, 0, NULL, 0}};
	unsigned long gpus = 4, sms = 132, group_sms = 8, groups = 0, memory_mib = 143360;
	char path[PATH_MAX];
	const char *dir;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'g' && number("gpus", optarg, 1, EMU_GPUS_MAX, &gpus))
			return 2;
		if (c == 's' && number("sms", optarg, 1, EMU_SMS_MAX, &sms))
			return 2;
		if (c == 'r' && number("group-sms", optarg, 2, EMU_SMS_MAX, &group_sms))
			return 2;
		if (c == 'n' && number("groups", optarg, 1, EMU_SMS_MAX, &groups))
			return 2;
		if (c == 'm' && number("memory-mib", optarg, 1, 1u << 20, &memory_mib))
			return 2;
		if (c == '?')
			return 2;
	}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		return 2;
	}
	/* The clusters of an H200 are uneven: its 132 SMs make 15 groups of 8, and 12 are left over. */
	if (!groups)
		groups = sms == 132 && group_sms == 8 ? 15 : sms / group_sms;
	if (!groups || groups * group_sms > sms)
		return fail("%lu groups of %lu SMs do not fit into %lu SMs", groups, group_sms,
			    sms);
	dir = argv[optind];
	if (make_dir(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/dev", dir);
	if (make_dir(path))
		return 1;
	snprintf(path, sizeof(path), "%s/dev/emugpu-uvm", dir);
	FILE *uvm = fopen(path, "we");
	if (!uvm || fclose(uvm))
		return fail("cannot make %s: %s", path, strerror(errno));
	snprintf(path, sizeof(path), "%s/proc", dir);
	if (make_dir(path))
		return 1;
	for (unsigned i = 0; i < gpus; i++)
		if (create_gpu(dir, (struct emu_shape){.index = i,
						       .n_sms = (uint32_t)sms,
						       .group_sms = (uint32_t)group_sms,
						       .n_groups = (uint32_t)groups,
						       .total_memory = (uint64_t)memory_mib << 20}))
			return 1;
	return 0;
}

/* How many SMs run blocks of a client now. */
static unsigned sms_of(const struct emu_gpu *gpu, uint32_t owner)
{
	unsigned n = 0;

	for (unsigned sm = 0; sm < gpu->n_sms; sm++)
		n += gpu->slots[sm].owner == owner && atomic_load(&gpu->slots[sm].deadline_ns);
	return n;
}

static int with_gpu(int argc, char **argv)
{
	struct emu_map map;
	unsigned long gpu;
	bool good = true;

	if (argc != 3) {
		fputs(usage, stderr);
		return 2;
	}
	if (number("GPU", argv[2], 0, EMU_GPUS_MAX - 1, &gpu))
		return 2;
	if (emu_gpu_open(argv[1], (unsigned)gpu, &map))
		return fail("cannot open GPU %lu of %s: %s; make it with: emugpu-host create %s",
			    gpu, argv[1], strerror(errno), argv[1]);
	emu_lock(map.gpu);
	emu_reap(&map);
	if (!strcmp(argv[0], "trace"))
		emu_print_trace(map.gpu, stdout);
	else if (!strcmp(argv[0], "clear"))
		emu_clear_trace(map.gpu);
	else if (!strcmp(argv[0], "check"))
		good = emu_print_check(map.gpu, stdout);
	else
		for (int i = 0; i < EMU_CLIENTS_MAX; i++) {
			const struct emu_client *c = &map.gpu->clients[i];
			if (c->in_use)
				printf("{\"pid\":%d,\"server\":%d,\"memory\":%llu,\"fault\":%d,"
				       "\"sms\":%u}\n",
				       c->pid, c->server_pid, (unsigned long long)c->memory,
				       atomic_load(&map.gpu->clients[i].fault),
				       sms_of(map.gpu, (uint32_t)i + 1));
		}
	emu_unlock(map.gpu);
	emu_gpu_close(&map);
	return fflush(stdout) ? fail("cannot write: %s", strerror(errno)) : !good;
}

/* Remove what create made, and nothing else. */
static int destroy(const char *dir)
{
	static const char *const gone[] = {"dev", "proc", "."};
	char path[PATH_MAX];
	int found = 0;

	for (unsigned i = 0; i < EMU_GPUS_MAX; i++) {
		snprintf(path, sizeof(path), "%s/gpu%u", dir, i);
		if (unlink(path))
			continue;
		found = 1;
		snprintf(path, sizeof(path), "%s/dev/emugpu%u", dir, i);
		unlink(path);
		snprintf(path, sizeof(path), "%s/proc/0000:%02x:00.0/information", dir, i + 1);
		unlink(path);
		snprintf(path, sizeof(path), "%s/proc/0000:%02x:00.0", dir, i + 1);
		rmdir(path);
	}
	if (!found)
		return fail("%s holds no emulated GPU", dir);
	snprintf(path, sizeof(path), "%s/dev/emugpu-uvm", dir);
	unlink(path);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), i < 2 ? "%s/%s" : "%s", dir, gone[i]);
		rmdir(path); /* what others put there stays */
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--help"))
		return fputs(usage, stdout) < 0;
	if (argc > 2 && !strcmp(argv[1], "create"))
		return create(argc - 1, argv + 1);
	if (argc > 2 && (!strcmp(argv[1], "trace") || !strcmp(argv[1], "check") ||
			 !strcmp(argv[1], "clear") || !strcmp(argv[1], "clients")))
		return with_gpu(argc - 1, argv + 1);
	if (argc == 3 && !strcmp(argv[1], "destroy"))
		return destroy(argv[2]);
	fputs(usage, stderr);
	return 2;
}

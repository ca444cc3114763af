/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzzer's entry point without libFuzzer: over every file named on the command line, or over
 * built-in simple inputs (empty, and every single byte, doubled bytes, a long run of each), so that
 * `make check` with any compiler exercises it. Speaks TAP.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LONG = 20000 };

/* Files that libFuzzer's dictionaries would find late: mutations of what the formats are made of. */
static const char *const words[] = {
    "A=1\n", "v=1,", "share=500,", "detshare:0.5", ",shard:500", "gres/", "{\"a\":1}",
    "\n",    "=",    ":",
};

static int run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	static uint8_t data[1 << 20];

	if (!file)
		return -1;
	size_t size = fread(data, 1, sizeof(data), file);
	fclose(file);
	/* A copy of the exact size, so that a sanitizer sees a read beyond the end. */
	uint8_t *exact = malloc(size ? size : 1);
	if (!exact)
		return -1;
	memcpy(exact, data, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	return 0;
}

static void run_bytes(void)
{
	uint8_t *run = malloc(LONG);

	if (!run)
		abort();
	LLVMFuzzerTestOneInput(run, 0);
	for (unsigned byte = 0; byte < 256; byte++) {
		memset(run, (int)byte, LONG);
		LLVMFuzzerTestOneInput(run, 1);
		LLVMFuzzerTestOneInput(run, 2);
		LLVMFuzzerTestOneInput(run, LONG);
	}
	free(run);
}

/* Random sequences of the words, with a byte changed here and there; always the same ones. */
static void run_words(void)
{
	uint32_t seed = 1;

	for (int round = 0; round < 2000; round++) {
		char text[512];
		size_t length = 0;
		int n = round % 12;
		while (n-- > 0) {
			seed = seed * 1664525 + 1013904223;
			const char *word = words[(seed >> 16) % (sizeof(words) / sizeof(words[0]))];
			memcpy(text + length, word, strlen(word));
			length += strlen(word);
			seed = seed * 1664525 + 1013904223;
			if (seed >> 30 == 0)
				text[(seed >> 8) % length] = (char)(seed >> 20);
		}
		uint8_t *exact = malloc(length ? length : 1);
		if (!exact)
			abort();
		memcpy(exact, text, length);
		LLVMFuzzerTestOneInput(exact, length);
		free(exact);
	}
}

int main(int argc, char **argv)
{
	alarm(60);
	printf("1..%d\n", argc > 1 ? argc - 1 : 1);
	if (argc == 1) {
		run_bytes();
		run_words();
		puts("ok 1 - built-in inputs");
	}
	for (int i = 1; i < argc; i++)
		printf("%s %d - %s\n", run_file(argv[i]) ? "not ok" : "ok", i, argv[i]);
	return 0;
}

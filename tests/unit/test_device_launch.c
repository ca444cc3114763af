/* SPDX-License-Identifier: Apache-2.0 */
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "noderuntime/coroutine/device_launch.h"

/* An image that is put together piece by piece. */
static struct {
	char bytes[1 << 20];
	size_t size;
} image;

static void begin(void)
{
	memset(&image, 0, sizeof(image));
}

static void put(const void *bytes, size_t size)
{
	memcpy(image.bytes + image.size, bytes, size);
	image.size += size;
}

static void put_fatbin(uint64_t size)
{
	const struct {
		uint32_t magic;
		uint16_t version, header_size;
		uint64_t size;
	} header = {0xba55ed50, 1, 16, size};

	put(&header, sizeof(header));
}

enum { PART = 64, PTX = 1, CUBIN = 2 };

static void put_part(unsigned kind, const void *bytes, size_t size)
{
	char header[PART] = {0};
	const struct {
		uint16_t kind, version;
		uint32_t header_size;
		uint64_t size;
	} begins = {(uint16_t)kind, 0x101, PART, size};

	memcpy(header, &begins, sizeof(begins));
	put(header, sizeof(header));
	put(bytes, size);
}

/* With one table of strings, before the headers of the sections, as compilers write it. */
static size_t make_elf(char *to, const char *names, size_t size)
{
	Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64},
			     .e_shentsize = sizeof(Elf64_Shdr),
			     .e_shnum = 2,
			     .e_shoff = sizeof(header) + size};
	const Elf64_Shdr sections[2] = {
	    {.sh_type = SHT_NULL},
	    {.sh_type = SHT_STRTAB, .sh_offset = sizeof(header), .sh_size = size},
	};

	memcpy(to, &header, sizeof(header));
	memcpy(to + sizeof(header), names, size);
	memcpy(to + sizeof(header) + size, sections, sizeof(sections));
	return sizeof(header) + size + sizeof(sections);
}

static const char plain_ptx[] = "//\n.version 8.0\n.visible .entry k() { ret; }\n";
static const char launching_ptx[] =
    "//\n.version 8.0\n.extern .func (.param .b64 r) cudaGetParameterBufferV2 ( )\n;\n";
static const char plain_names[] = "\0.text.k\0k";
static const char launching_names[] = "\0k\0__cudaCDP2LaunchDeviceV2\0cnpGetParameterBuffer";
static const char compressed[] = "\x1f\xf3\x01\x02GetParameterBuffer is not to be seen";

static enum ds_device_launch look(void)
{
	const enum ds_device_launch found = ds_device_launch_look(image.bytes, image.size);

	/* Wherever it lies, it says itself how long it is. */
	assert_int_equal(ds_device_launch_look(image.bytes, SIZE_MAX), found);
	return found;
}

static void ptx(void **state)
{
	begin();
	put(plain_ptx, sizeof(plain_ptx));
	assert_int_equal(look(), DS_LAUNCHES_NOTHING);
	begin();
	put(launching_ptx, sizeof(launching_ptx));
	assert_int_equal(look(), DS_LAUNCHES_KERNELS);
	/* What lies behind the end is not the module's. */
	begin();
	put(plain_ptx, sizeof(plain_ptx));
	put(launching_ptx, sizeof(launching_ptx));
	assert_int_equal(look(), DS_LAUNCHES_NOTHING);
	begin();
	memset(image.bytes, ' ', 300 << 10);
	image.size = 300 << 10;
	assert_int_equal(look(), DS_LAUNCHES_UNREAD);
}

static void cubins(void **state)
{
	begin();
	image.size = make_elf(image.bytes, plain_names, sizeof(plain_names));
	assert_int_equal(look(), DS_LAUNCHES_NOTHING);
	image.size = make_elf(image.bytes, launching_names, sizeof(launching_names));
	assert_int_equal(look(), DS_LAUNCHES_KERNELS);
	/* Cut anywhere, nothing is read beyond its end, and nobody knows. */
	for (size_t size = 4; size < image.size; size++)
		assert_int_equal(ds_device_launch_look(image.bytes, size), DS_LAUNCHES_UNREAD);
}

static void fat_binaries(void **state)
{
	static const struct {
		unsigned kinds[2];
		const char *parts[2];
		size_t sizes[2];
		enum ds_device_launch found;
	} cases[] = {
	    {{PTX, PTX}, {plain_ptx, plain_ptx}, {sizeof(plain_ptx), 20}, DS_LAUNCHES_NOTHING},
	    {{PTX, PTX},
	     {plain_ptx, launching_ptx},
	     {sizeof(plain_ptx), sizeof(launching_ptx)},
	     DS_LAUNCHES_KERNELS},
	    {{PTX, PTX},
	     {compressed, plain_ptx},
	     {sizeof(compressed), sizeof(plain_ptx)},
	     DS_LAUNCHES_UNREAD},
	    {{PTX, PTX},
	     {compressed, launching_ptx},
	     {sizeof(compressed), sizeof(launching_ptx)},
	     DS_LAUNCHES_KERNELS},
	    {{CUBIN, PTX},
	     {compressed, plain_ptx},
	     {sizeof(compressed), sizeof(plain_ptx)},
	     DS_LAUNCHES_UNREAD},
	    {{8, PTX}, {plain_ptx, plain_ptx}, {20, 20}, DS_LAUNCHES_UNREAD},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin();
		put_fatbin(2 * PART + cases[i].sizes[0] + cases[i].sizes[1]);
		for (unsigned part = 0; part < 2; part++)
			put_part(cases[i].kinds[part], cases[i].parts[part], cases[i].sizes[part]);
		assert_int_equal(look(), cases[i].found);
	}
}

static void cubins_in_fat_binaries(void **state)
{
	char elf[1024];
	const size_t size = make_elf(elf, launching_names, sizeof(launching_names));
	const struct {
		uint32_t magic, version;
		const void *fatbin, *unused;
	} wrapper = {0x466243b1, 1, image.bytes, NULL};

	begin();
	put_fatbin(2 * PART + sizeof(plain_ptx) + size);
	put_part(PTX, plain_ptx, sizeof(plain_ptx));
	put_part(CUBIN, elf, size);
	assert_int_equal(look(), DS_LAUNCHES_KERNELS);
	assert_int_equal(ds_device_launch_look(&wrapper, SIZE_MAX), DS_LAUNCHES_KERNELS);
	for (size_t cut = 4; cut < image.size; cut++)
		assert_int_not_equal(ds_device_launch_look(image.bytes, cut), DS_LAUNCHES_KERNELS);
}

static void what_is_too_long_is_not_read(void **state)
{
	begin();
	put_fatbin(65 * (PART + 8));
	for (unsigned part = 0; part < 65; part++)
		put_part(PTX, ".version", 8);
	assert_int_equal(look(), DS_LAUNCHES_UNREAD);
	begin();
	put_fatbin(PART);
	put_part(PTX, plain_ptx, 0);
	memset(image.bytes + 16 + 8, 0xff, 8); /* the size of the part */
	assert_int_equal(look(), DS_LAUNCHES_UNREAD);
	assert_int_equal(ds_device_launch_look(NULL, SIZE_MAX), DS_LAUNCHES_UNREAD);
	assert_int_equal(ds_device_launch_look("", 0), DS_LAUNCHES_UNREAD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ptx),
	    cmocka_unit_test(cubins),
	    cmocka_unit_test(fat_binaries),
	    cmocka_unit_test(cubins_in_fat_binaries),
	    cmocka_unit_test(what_is_too_long_is_not_read),
	};

	alarm(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

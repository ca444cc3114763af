/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/device_launch.h"

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
	FATBIN = (int)0xba55ed50,
	WRAPPER = 0x466243b1,
	PTX = 1,
	CUBIN = 2,
	PARTS_MAX = 64,
	SECTIONS_MAX = 1 << 12,
	TEXT_MAX = 256 << 10,
};

/* What comes before the parts of a fat binary, and before each of them; as the compilers write them. */
struct fatbin_header {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint64_t size; /* of what follows */
};

struct part_header {
	uint16_t kind;
	uint16_t version;
	uint32_t header_size;
	uint64_t size; /* of what follows this header, up to the next */
};

/* What a host program has of a fat binary. */
struct fatbin_wrapper {
	uint32_t magic;
	uint32_t version;
	const void *fatbin;
};

/* The calls behind <<<>>>, in all versions and forms of the device runtime. */
static bool has_calls(const char *text, size_t size)
{
	static const char *const names[] = {"GetParameterBuffer", "cudaLaunchDevice",
					    "CDP2LaunchDevice"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (memmem(text, size, names[i], strlen(names[i])))
			return true;
	return false;
}

static enum ds_device_launch look_at_text(const char *text, size_t size)
{
	const size_t length = strnlen(text, size < TEXT_MAX ? size : TEXT_MAX);

	if (has_calls(text, length))
		return DS_LAUNCHES_KERNELS;
	/* Declarations come first; a text of this length is still not known to be read to its end. */
	return length == TEXT_MAX ? DS_LAUNCHES_UNREAD : DS_LAUNCHES_NOTHING;
}

/* The names in a cubin are those in its tables of strings. */
static enum ds_device_launch look_at_elf(const char *image, size_t size)
{
	enum ds_device_launch found = DS_LAUNCHES_NOTHING;
	Elf64_Ehdr header;

	if (size < sizeof(header))
		return DS_LAUNCHES_UNREAD;
	memcpy(&header, image, sizeof(header));
	if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr) ||
	    header.e_shnum > SECTIONS_MAX || header.e_shoff > size ||
	    (size - header.e_shoff) / sizeof(Elf64_Shdr) < header.e_shnum)
		return DS_LAUNCHES_UNREAD;
	for (unsigned i = 0; i < header.e_shnum; i++) {
		Elf64_Shdr section;

		memcpy(&section, image + header.e_shoff + i * sizeof(section), sizeof(section));
		if (section.sh_type != SHT_STRTAB)
			continue;
		if (section.sh_offset > size || section.sh_size > size - section.sh_offset)
			return DS_LAUNCHES_UNREAD;
		if (has_calls(image + section.sh_offset,
			      section.sh_size < TEXT_MAX ? section.sh_size : TEXT_MAX))
			return DS_LAUNCHES_KERNELS;
		if (section.sh_size > TEXT_MAX)
			found = DS_LAUNCHES_UNREAD;
	}
	return found;
}

static bool is_elf(const char *image, size_t size)
{
	return size >= SELFMAG && memcmp(image, ELFMAG, SELFMAG) == 0;
}

/* PTX begins with a comment, a space or a directive; what was compressed does not. */
static bool is_text(const char *image, size_t size)
{
	size_t i;

	for (i = 0; i < size && i < 16 && image[i]; i++)
		if ((image[i] < ' ' || image[i] > '~') && image[i] != '\n' && image[i] != '\t' &&
		    image[i] != '\r')
			return false;
	return i > 0;
}

static enum ds_device_launch look_at_part(unsigned kind, const char *image, size_t size)
{
	if (kind == CUBIN && is_elf(image, size))
		return look_at_elf(image, size);
	if (kind == PTX && is_text(image, size))
		return look_at_text(image, size);
	return DS_LAUNCHES_UNREAD;
}

static enum ds_device_launch look_at_fatbin(const char *image, size_t size)
{
	enum ds_device_launch found = DS_LAUNCHES_NOTHING;
	struct fatbin_header header;
	size_t left;

	if (size < sizeof(header))
		return DS_LAUNCHES_UNREAD;
	memcpy(&header, image, sizeof(header));
	if (header.header_size < sizeof(header) || header.header_size > size)
		return DS_LAUNCHES_UNREAD;
	image += header.header_size;
	left = size - header.header_size;
	if (header.size < left)
		left = (size_t)header.size;
	for (unsigned part = 0; left >= sizeof(struct part_header); part++) {
		struct part_header of;
		enum ds_device_launch now;

		memcpy(&of, image, sizeof(of));
		if (part == PARTS_MAX || of.header_size < sizeof(of) || of.header_size > left ||
		    of.size > left - of.header_size)
			return DS_LAUNCHES_UNREAD;
		now = look_at_part(of.kind, image + of.header_size, (size_t)of.size);
		if (now == DS_LAUNCHES_KERNELS)
			return now;
		if (now == DS_LAUNCHES_UNREAD)
			found = now;
		image += of.header_size + of.size;
		left -= of.header_size + (size_t)of.size;
	}
	return found;
}

/* How long a cubin is that lies somewhere in memory: its headers come last. */
static size_t elf_size(const char *image)
{
	Elf64_Ehdr header;
	uint64_t sections, programs;

	memcpy(&header, image, sizeof(header));
	sections = header.e_shoff + (uint64_t)header.e_shnum * header.e_shentsize;
	programs = header.e_phoff + (uint64_t)header.e_phnum * header.e_phentsize;
	/* One that overflows is refused by the driver, too. */
	return sections > programs ? (size_t)sections : (size_t)programs;
}

enum ds_device_launch ds_device_launch_look(const void *image, size_t size)
{
	const bool anywhere = size == SIZE_MAX;
	struct fatbin_wrapper wrapper;
	struct fatbin_header header;
	uint32_t magic;

	if (!image || size < sizeof(magic))
		return DS_LAUNCHES_UNREAD;
	memcpy(&magic, image, sizeof(magic));
	if (magic == WRAPPER && anywhere) {
		memcpy(&wrapper, image, sizeof(wrapper));
		image = wrapper.fatbin;
		if (!image)
			return DS_LAUNCHES_UNREAD;
		memcpy(&magic, image, sizeof(magic));
	}
	if (magic == (uint32_t)FATBIN) {
		if (anywhere) {
			memcpy(&header, image, sizeof(header));
			size = header.size < SIZE_MAX - header.header_size
				   ? header.header_size + (size_t)header.size
				   : 0;
		}
		return look_at_fatbin(image, size);
	}
	if (is_elf(image, sizeof(magic)))
		return look_at_elf(image, anywhere ? elf_size(image) : size);
	return is_text(image, size) ? look_at_text(image, size) : DS_LAUNCHES_UNREAD;
}

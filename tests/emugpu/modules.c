/* SPDX-License-Identifier: Apache-2.0 */
/* Modules from PTX text, and libraries. */
#include "tests/emugpu/driver.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- PTX: names of the entries and the sizes of their parameters ---- */

/* The next word, skipping blanks and comments. Words: identifiers (with . and $), or one character. */
static const char *next_word(const char *p, char *word, size_t size)
{
	size_t n = 0;

	for (;;) {
		while (isspace((unsigned char)*p))
			p++;
		if (p[0] == '/' && p[1] == '/')
			p += strcspn(p, "\n");
		else if (p[0] == '/' && p[1] == '*')
			p = strstr(p + 2, "*/") ? strstr(p + 2, "*/") + 2 : p + strlen(p);
		else
			break;
	}
	if (isalnum((unsigned char)*p) || strchr("._$%", *p)) {
		while (*p && (isalnum((unsigned char)*p) || strchr("._$%", *p))) {
			if (n + 1 < size)
				word[n++] = *p;
			p++;
		}
	} else if (*p) {
		word[n++] = *p++;
	}
	word[n] = '\0';
	return p;
}

/* ".u64" is 8 bytes: the digits at the end are bits. */
static size_t type_size(const char *type)
{
	size_t bits = strtoul(type + strcspn(type, "0123456789"), NULL, 10);

	return bits / 8;
}

/* After ".entry": name ( .param [.align n] .type name [ [count] ] , … ). */
static const char *parse_entry(const char *p, struct emu_function *f)
{
	char word[64];
	size_t offset = 0;

	p = next_word(p, f->name, sizeof(f->name));
	p = next_word(p, word, sizeof(word));
	while (*word && strcmp(word, ")") && strcmp(word, "{")) {
		size_t size = 0, align, count = 1;
		if (strcmp(word, ".param")) {
			p = next_word(p, word, sizeof(word));
			continue;
		}
		p = next_word(p, word, sizeof(word));
		align = 0;
		while (*word == '.') {
			if (!strcmp(word, ".align")) {
				p = next_word(p, word, sizeof(word));
				align = strtoul(word, NULL, 10);
			} else if (type_size(word)) {
				size = type_size(word);
			}
			p = next_word(p, word, sizeof(word));
		}
		p = next_word(p, word, sizeof(word));
		if (!strcmp(word, "[")) {
			p = next_word(p, word, sizeof(word));
			count = strtoul(word, NULL, 10);
		}
		align = align ? align : size;
		if (f->n_params < 16 && size) {
			offset = (offset + align - 1) / align * align;
			f->param_offset[f->n_params] = offset;
			f->param_size[f->n_params++] = size * count;
			offset += size * count;
		}
	}
	return p;
}

/* Does the kernel, up to the next one, wait for what it may overlap with? */
static bool waits(const char *body)
{
	const char *end = strstr(body, ".entry"), *wait = strstr(body, "griddepcontrol.wait");

	return wait && (!end || wait < end);
}

/* Does the host function for this kernel take what the PTX says? */
static bool same_parameters(const struct emu_function *f)
{
	bool same = f->kernel->n_params == f->n_params;

	for (unsigned i = 0; same && i < f->n_params; i++)
		same = f->kernel->param_sizes[i] == f->param_size[i];
	return same;
}

static void free_module(struct CUmod_st *module)
{
	emu_handle_remove(module);
	while (module->functions) {
		struct emu_function *f = module->functions;
		module->functions = f->next;
		emu_handle_remove(f);
		free(f);
	}
	free(module);
}

static CUresult load_ptx(struct CUctx_st *ctx, const char *text, struct CUmod_st **out)
{
	struct CUmod_st *module;
	const char *p = text;
	char word[64];

	/* Cubins and fat binaries hold machine code, which nothing here can run. */
	if ((unsigned char)text[0] == 0x7f || !strstr(text, ".version")) {
		emu_say("a module is not PTX text, and the emulated GPU runs nothing else");
		return CUDA_ERROR_NO_BINARY_FOR_GPU;
	}
	module = calloc(1, sizeof(*module));
	if (!module)
		return CUDA_ERROR_OUT_OF_MEMORY;
	module->ctx_id = ctx ? ctx->id : 0;
	module->dev = ctx ? ctx->dev : &emu.devices[0];
	emu_handle_add(module, EMU_HANDLE_MODULE);
	while (*p) {
		struct emu_function *f;
		p = next_word(p, word, sizeof(word));
		if (strcmp(word, ".entry"))
			continue;
		f = calloc(1, sizeof(*f));
		if (!f)
			break;
		p = parse_entry(p, f);
		f->waits = waits(p);
		f->module = module;
		f->kernel = emu_kernel_find(f->name);
		f->next = module->functions;
		module->functions = f;
		emu_handle_add(f, EMU_HANDLE_FUNCTION);
		if (f->kernel && !same_parameters(f)) {
			emu_say(
			    "kernel %s has other parameters in the PTX than in its host function",
			    f->name);
			free_module(module);
			return CUDA_ERROR_INVALID_PTX;
		}
	}
	*out = module;
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned n,
				    CUjit_option *options, void **values)
{
	struct CUctx_st *ctx;
	CUresult rc = out && image ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = load_ptx(ctx->root, image, out);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuModuleLoadData(CUmodule *out, const void *image)
{
	return cuModuleLoadDataEx(out, image, 0, NULL, NULL);
}

CUresult CUDAAPI cuModuleLoad(CUmodule *out, const char *path)
{
	CUresult rc = CUDA_ERROR_OUT_OF_MEMORY;
	FILE *f = path ? fopen(path, "re") : NULL;
	char *text = NULL;
	size_t room = 0;
	ssize_t n;

	if (!f)
		return path ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_ERROR_INVALID_VALUE;
	n = getdelim(&text, &room, '\0', f);
	fclose(f);
	if (n >= 0)
		rc = cuModuleLoadData(out, text);
	free(text);
	return rc;
}

CUresult CUDAAPI cuModuleUnload(CUmodule module)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	if (emu_handle_is(module, EMU_HANDLE_MODULE)) {
		emu_wait_context(ctx->root);
		free_module(module);
	} else {
		rc = CUDA_ERROR_INVALID_HANDLE;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name)
{
	CUresult rc = out && name ? emu_begin() : CUDA_ERROR_INVALID_VALUE;
	struct emu_function *f;

	if (rc)
		return rc;
	if (!emu_handle_is(module, EMU_HANDLE_MODULE)) {
		rc = CUDA_ERROR_INVALID_HANDLE;
	} else {
		for (f = module->functions; f && strcmp(f->name, name);)
			f = f->next;
		if (f)
			*out = (CUfunction)f;
		else
			rc = CUDA_ERROR_NOT_FOUND;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuModuleGetGlobal(CUdeviceptr *p, size_t *bytes, CUmodule module, const char *name)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	rc = emu_handle_is(module, EMU_HANDLE_MODULE) ? CUDA_ERROR_NOT_FOUND
						      : CUDA_ERROR_INVALID_HANDLE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
	if (!mode)
		return CUDA_ERROR_INVALID_VALUE;
	*mode = CU_MODULE_EAGER_LOADING;
	return CUDA_SUCCESS;
}

/* ---- libraries: modules that belong to no context ---- */

CUresult CUDAAPI cuLibraryLoadData(CUlibrary *out, const void *code, CUjit_option *jit,
				   void **jit_values, unsigned n_jit, CUlibraryOption *options,
				   void **values, unsigned n)
{
	CUresult rc = out && code ? emu_begin() : CUDA_ERROR_INVALID_VALUE;
	struct CUmod_st *module;

	if (rc)
		return rc;
	rc = load_ptx(NULL, code, &module);
	if (!rc)
		*out = (CUlibrary)module;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuLibraryUnload(CUlibrary library)
{
	CUresult rc = emu_begin();

	if (rc)
		return rc;
	if (emu_handle_is(library, EMU_HANDLE_MODULE))
		free_module((struct CUmod_st *)library);
	else
		rc = CUDA_ERROR_INVALID_HANDLE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuLibraryGetKernel(CUkernel *out, CUlibrary library, const char *name)
{
	return cuModuleGetFunction((CUfunction *)out, (CUmodule)library, name);
}

/* A kernel and its function are one object here. */
CUresult CUDAAPI cuKernelGetFunction(CUfunction *out, CUkernel kernel)
{
	CUresult rc = out ? emu_begin() : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	if (emu_handle_is(kernel, EMU_HANDLE_FUNCTION))
		*out = (CUfunction)kernel;
	else
		rc = CUDA_ERROR_INVALID_HANDLE;
	emu_exit();
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: device memory is memory of this process, at the same address, counted per GPU. */
#include "tests/emugpu/driver.h"
#include "tests/emugpu/graph.h"
#include "tests/emugpu/twins.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum range_kind { RANGE_DEVICE, RANGE_HOST, RANGE_REGISTERED, RANGE_MAPPED };
enum { OF_A_GRAPH = 1 }; /* flag of device memory: a graph's node keeps it */

struct range {
	uintptr_t base;
	size_t bytes, mapped;
	enum range_kind kind;
	struct emu_device *dev;
	struct CUctx_st *root; /* the context that it goes with; NULL: none */
	unsigned flags;
	size_t charged; /* to the process; else a pool, a graph or physical memory has it */
	struct CUmemPoolHandle_st *pool; /* it is of this pool */
};

static struct {
	struct range *all; /* by base */
	size_t n, room;
	pthread_mutex_t
	    mutex; /* kernels look here while others change it; taken inside emu.mutex */
} ranges = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* The last range that begins at or below the address, or -1. */
static ptrdiff_t find(uintptr_t address)
{
	size_t low = 0, high = ranges.n;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (ranges.all[mid].base <= address)
			low = mid + 1;
		else
			high = mid;
	}
	return (ptrdiff_t)low - 1;
}

static bool lookup(uintptr_t address, size_t bytes, struct range *found)
{
	bool ok = false;
	ptrdiff_t i;

	pthread_mutex_lock(&ranges.mutex);
	i = find(address);
	if (i >= 0) {
		*found = ranges.all[i];
		ok = address - found->base < found->bytes &&
		     bytes <= found->bytes - (address - found->base);
	}
	pthread_mutex_unlock(&ranges.mutex);
	return ok;
}

static bool add(struct range range)
{
	pthread_mutex_lock(&ranges.mutex);
	if (ranges.n == ranges.room) {
		size_t room = ranges.room ? ranges.room * 2 : 64;
		struct range *more = realloc(ranges.all, room * sizeof(*more));
		if (!more) {
			pthread_mutex_unlock(&ranges.mutex);
			return false;
		}
		ranges.all = more;
		ranges.room = room;
	}
	size_t i = (size_t)(find(range.base) + 1);
	memmove(&ranges.all[i + 1], &ranges.all[i], (ranges.n - i) * sizeof(range));
	ranges.all[i] = range;
	ranges.n++;
	pthread_mutex_unlock(&ranges.mutex);
	return true;
}

static bool take(uintptr_t base, enum range_kind kind, struct range *taken)
{
	bool ok = false;

	pthread_mutex_lock(&ranges.mutex);
	ptrdiff_t i = find(base);
	if (i >= 0 && ranges.all[i].base == base && ranges.all[i].kind == kind) {
		ok = true;
		*taken = ranges.all[i];
		ranges.n--;
		memmove(&ranges.all[i], &ranges.all[i + 1],
			(ranges.n - (size_t)i) * sizeof(*taken));
	}
	pthread_mutex_unlock(&ranges.mutex);
	return ok;
}

int emu_device_may_touch(const void *address, size_t bytes)
{
	struct range r;

	return lookup((uintptr_t)address, bytes, &r);
}

static size_t round_up(size_t bytes, size_t to)
{
	return (bytes + to - 1) / to * to;
}

/*
 * This process's limit on the device, or none: that of its MPS server, and CUDA_MPS_PINNED_DEVICE_MEM_LIMIT,
 * "0=4G,1=512M", if that is tighter.
 */
static uint64_t memory_limit(const struct emu_device *dev)
{
	const char *text = getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT");
	uint64_t total = dev->map.gpu->total_memory;
	uint64_t server = emu.server_pid ? emu.memory_limits[emu_device_number(dev)] : 0;

	if (server && server < total)
		total = server;

	while (text && *text && emu.server_pid) {
		char *end;
		unsigned long device = strtoul(text, &end, 10);
		if (*end != '=')
			break;
		uint64_t bytes = strtoull(end + 1, &end, 10);
		if (*end == 'G')
			bytes <<= 30;
		else if (*end == 'M')
			bytes <<= 20;
		if (device == (unsigned long)emu_device_number(dev))
			return bytes < total ? bytes : total;
		text = strchr(end, ',');
		text = text ? text + 1 : NULL;
	}
	return total;
}

static uint64_t free_memory(struct emu_device *dev)
{
	struct emu_gpu *gpu = dev->map.gpu;
	uint64_t used = emu_memory_used(gpu), own = gpu->clients[dev->client].memory;
	uint64_t limit = memory_limit(dev);
	uint64_t left = used < gpu->total_memory ? gpu->total_memory - used : 0;
	uint64_t own_left = own < limit ? limit - own : 0;

	return left < own_left ? left : own_left;
}

static bool charge(struct emu_device *dev, uint64_t bytes)
{
	struct emu_gpu *gpu = dev->map.gpu;
	bool fits;

	emu_lock(gpu);
	emu_reap(&dev->map);
	fits = bytes <= free_memory(dev);
	if (fits)
		gpu->clients[dev->client].memory += bytes;
	emu_unlock(gpu);
	return fits;
}

bool emu_memory_charge(struct emu_device *dev, uint64_t bytes)
{
	if (charge(dev, bytes))
		return true;
	/* Before it gives up, the driver takes what pools do not use. */
	emu_pools_trim(dev);
	return charge(dev, bytes);
}

void emu_memory_credit(struct emu_device *dev, uint64_t bytes)
{
	emu_lock(dev->map.gpu);
	dev->map.gpu->clients[dev->client].memory -= bytes;
	emu_unlock(dev->map.gpu);
}

bool emu_memory_add_mapping(struct emu_device *dev, void *address, size_t bytes)
{
	return add((struct range){
	    .base = (uintptr_t)address, .bytes = bytes, .kind = RANGE_MAPPED, .dev = dev});
}

bool emu_memory_remove_mapping(void *address)
{
	struct range r;

	return take((uintptr_t)address, RANGE_MAPPED, &r);
}

static CUresult allocate_in(struct CUctx_st *ctx, size_t bytes, enum range_kind kind,
			    unsigned flags, struct CUmemPoolHandle_st *pool, void **out)
{
	size_t mapped = round_up(bytes, (size_t)sysconf(_SC_PAGESIZE));
	size_t charged = kind == RANGE_DEVICE && !(flags & OF_A_GRAPH) && !pool ? mapped : 0;
	void *p;

	if (!bytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (mapped < bytes || (charged && !emu_memory_charge(ctx->dev, charged)) ||
	    (pool && !emu_pool_take(pool, mapped)))
		return CUDA_ERROR_OUT_OF_MEMORY;
	p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 -1, 0);
	if (p != MAP_FAILED &&
	    add((struct range){.base = (uintptr_t)p,
			       .bytes = bytes,
			       .mapped = mapped,
			       .kind = kind,
			       .dev = ctx->dev,
			       .root = pool || flags & OF_A_GRAPH ? NULL : ctx->root,
			       .flags = flags,
			       .charged = charged,
			       .pool = pool})) {
		*out = p;
		return CUDA_SUCCESS;
	}
	if (p != MAP_FAILED)
		munmap(p, mapped);
	if (charged)
		emu_memory_credit(ctx->dev, charged);
	if (pool)
		emu_pool_give(pool, mapped);
	return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult allocate(struct CUctx_st *ctx, size_t bytes, enum range_kind kind, unsigned flags,
			 void **out)
{
	return allocate_in(ctx, bytes, kind, flags, NULL, out);
}

void emu_memory_free(struct emu_device *dev, void *address)
{
	struct range r;

	if (!take((uintptr_t)address, RANGE_DEVICE, &r))
		return;
	munmap((void *)r.base, r.mapped);
	if (r.charged)
		emu_memory_credit(dev, r.charged);
	if (r.pool)
		emu_pool_give(r.pool, r.mapped);
}

void emu_memory_drop(struct CUctx_st *root)
{
	for (;;) {
		struct range found = {0};

		pthread_mutex_lock(&ranges.mutex);
		for (size_t i = 0; i < ranges.n && !found.base; i++)
			if (ranges.all[i].root == root)
				found = ranges.all[i];
		pthread_mutex_unlock(&ranges.mutex);
		if (!found.base)
			return;
		if (found.kind == RANGE_DEVICE)
			emu_memory_free(found.dev, (void *)found.base);
		else if (take(found.base, found.kind, &found) && found.kind == RANGE_HOST)
			munmap((void *)found.base, found.mapped);
	}
}

CUresult emu_graph_allocate(struct CUctx_st *ctx, size_t bytes, CUdeviceptr *out)
{
	void *p = NULL;
	CUresult rc = allocate(ctx, bytes, RANGE_DEVICE, OF_A_GRAPH, &p);

	*out = (CUdeviceptr)p;
	return rc;
}

CUresult CUDAAPI cuMemGetInfo(size_t *free_bytes, size_t *total)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);

	if (rc)
		return rc;
	emu_lock(ctx->dev->map.gpu);
	emu_reap(&ctx->dev->map);
	if (free_bytes)
		*free_bytes = free_memory(ctx->dev);
	if (total)
		*total = ctx->dev->map.gpu->total_memory;
	emu_unlock(ctx->dev->map.gpu);
	emu_exit();
	return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
	struct CUctx_st *ctx;
	CUresult rc = out ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;
	void *p = NULL;

	if (rc)
		return rc;
	rc = allocate(ctx, bytes, RANGE_DEVICE, 0, &p);
	if (!rc)
		*out = (CUdeviceptr)p;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemAllocPitch(CUdeviceptr *out, size_t *pitch, size_t width, size_t height,
				 unsigned element)
{
	if (!out || !pitch || !width || !height)
		return CUDA_ERROR_INVALID_VALUE;
	*pitch = round_up(width, 512);
	return cuMemAlloc(out, *pitch * height);
}

CUresult CUDAAPI cuMemAllocManaged(CUdeviceptr *out, size_t bytes, unsigned flags)
{
	return flags == CU_MEM_ATTACH_GLOBAL || flags == CU_MEM_ATTACH_HOST
		   ? cuMemAlloc(out, bytes)
		   : CUDA_ERROR_INVALID_VALUE;
}

/* Device memory at exactly this address? */
static bool is_device(CUdeviceptr p, struct range *r)
{
	return lookup((uintptr_t)p, 0, r) && r->base == (uintptr_t)p && r->kind == RANGE_DEVICE;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr p)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_unsafe(&ctx);
	struct range r;

	if (rc)
		return rc;
	if (p && !is_device(p, &r)) {
		rc = CUDA_ERROR_INVALID_VALUE;
	} else if (p) {
		/* The driver waits for the work that may use it. */
		rc = emu_wait_context(ctx->root);
		if (!(r.flags & OF_A_GRAPH))
			emu_memory_free(r.dev, (void *)p);
	}
	emu_exit();
	return rc;
}

/* `pool` NULL: the device's. */
static CUresult allocate_async(CUdeviceptr *out, size_t bytes, CUmemoryPool pool, CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = out ? emu_begin_work(handle, &s) : CUDA_ERROR_INVALID_VALUE;
	void *p = NULL;

	if (rc)
		return rc;
	if (pool && !emu_handle_is(pool, EMU_HANDLE_POOL))
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (s->capture)
		rc = emu_capture_alloc(s, bytes, out);
	else
		rc = allocate_in(s->ctx, bytes, RANGE_DEVICE, 0,
				 pool ? pool : emu_pool_of(s->ctx->dev), &p);
	if (p)
		*out = (CUdeviceptr)p;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *out, size_t bytes, CUstream handle)
{
	return allocate_async(out, bytes, NULL, handle);
}
EMU_TWIN(cuMemAllocAsync_ptsz, (CUdeviceptr * p, size_t n, CUstream s),
	 cuMemAllocAsync(p, n, emu_per_thread(s)))

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr *out, size_t bytes, CUmemoryPool pool,
					 CUstream handle)
{
	return pool ? allocate_async(out, bytes, pool, handle) : CUDA_ERROR_INVALID_VALUE;
}
EMU_TWIN(cuMemAllocFromPoolAsync_ptsz, (CUdeviceptr * p, size_t n, CUmemoryPool q, CUstream s),
	 cuMemAllocFromPoolAsync(p, n, q, emu_per_thread(s)))

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr p, CUstream handle)
{
	struct CUstream_st *s;
	CUresult rc = emu_begin_work(handle, &s);
	struct emu_op *op;
	struct range r;

	if (rc)
		return rc;
	if (!is_device(p, &r)) {
		rc = CUDA_ERROR_INVALID_VALUE;
	} else if (s->capture) {
		rc = emu_capture_free(s, p);
	} else {
		op = emu_op_new(r.flags & OF_A_GRAPH ? EMU_OP_NOP : EMU_OP_FREE, s);
		if (op)
			op->work.u.memory = (void *)p;
		rc = op ? emu_op_submit(op, s) : CUDA_ERROR_OUT_OF_MEMORY;
	}
	emu_exit();
	return rc;
}
EMU_TWIN(cuMemFreeAsync_ptsz, (CUdeviceptr p, CUstream s), cuMemFreeAsync(p, emu_per_thread(s)))

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr p)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_context(&ctx);
	struct range r;

	if (rc)
		return rc;
	if (lookup((uintptr_t)p, 1, &r)) {
		if (base)
			*base = (CUdeviceptr)r.base;
		if (bytes)
			*bytes = r.bytes;
	} else {
		rc = CUDA_ERROR_NOT_FOUND;
	}
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr p)
{
	struct CUctx_st *ctx;
	CUresult rc = data ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct range r;

	if (rc)
		return rc;
	if (!lookup((uintptr_t)p, 1, &r))
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
		*(unsigned *)data =
		    r.kind == RANGE_DEVICE ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
	else if (attribute == CU_POINTER_ATTRIBUTE_CONTEXT)
		*(CUcontext *)data = r.root;
	else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
		*(int *)data = emu_device_number(r.dev);
	else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER ||
		 attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER)
		memcpy(data, &p, sizeof(p));
	else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)
		memcpy(data, &r.base, sizeof(r.base));
	else if (attribute == CU_POINTER_ATTRIBUTE_RANGE_SIZE)
		memcpy(data, &r.bytes, sizeof(r.bytes));
	else
		rc = CUDA_ERROR_NOT_SUPPORTED;
	emu_exit();
	return rc;
}

/* ---- host memory ---- */

CUresult CUDAAPI cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = out && !(flags & ~7u) ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	rc = allocate(ctx, bytes, RANGE_HOST, flags, out);
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemAllocHost(void **out, size_t bytes)
{
	return cuMemHostAlloc(out, bytes, 0);
}

CUresult CUDAAPI cuMemFreeHost(void *p)
{
	struct CUctx_st *ctx;
	CUresult rc = emu_begin_unsafe(&ctx);
	struct range r;

	if (rc)
		return rc;
	emu_wait_context(ctx->root);
	if (take((uintptr_t)p, RANGE_HOST, &r))
		munmap((void *)r.base, r.mapped);
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = p && bytes ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct range r;

	if (rc)
		return rc;
	if (lookup((uintptr_t)p, 1, &r))
		rc = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	else if (!add((struct range){.base = (uintptr_t)p,
				     .bytes = bytes,
				     .kind = RANGE_REGISTERED,
				     .dev = ctx->dev,
				     .root = ctx->root,
				     .flags = flags}))
		rc = CUDA_ERROR_OUT_OF_MEMORY;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostUnregister(void *p)
{
	struct CUctx_st *ctx;
	CUresult rc = p ? emu_begin_unsafe(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct range r;

	if (rc)
		return rc;
	emu_wait_context(ctx->root);
	if (!take((uintptr_t)p, RANGE_REGISTERED, &r))
		rc = CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *out, void *p, unsigned flags)
{
	struct CUctx_st *ctx;
	CUresult rc = out && !flags ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct range r;

	if (rc)
		return rc;
	if (lookup((uintptr_t)p, 1, &r) && r.kind != RANGE_DEVICE)
		*out = (CUdeviceptr)p;
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

CUresult CUDAAPI cuMemHostGetFlags(unsigned *flags, void *p)
{
	struct CUctx_st *ctx;
	CUresult rc = flags ? emu_begin_context(&ctx) : CUDA_ERROR_INVALID_VALUE;
	struct range r;

	if (rc)
		return rc;
	if (lookup((uintptr_t)p, 1, &r) && r.kind != RANGE_DEVICE)
		*flags = r.flags;
	else
		rc = CUDA_ERROR_INVALID_VALUE;
	emu_exit();
	return rc;
}

/* ---- copies ---- */

enum { TO_DEVICE = 1, FROM_DEVICE = 2, SYNC = 4 };

static bool is_range(const void *p, size_t bytes, bool must_be_device)
{
	struct range r;

	return lookup((uintptr_t)p, bytes, &r) && (!must_be_device || r.kind == RANGE_DEVICE);
}

static size_t extent(const struct emu_copy *c, size_t pitch, size_t slice)
{
	return (c->depth - 1) * slice + (c->height - 1) * pitch + c->width;
}

/* The rows of a copy whose source the program may change when the call has returned. */
static bool stage(struct emu_copy *c)
{
	struct emu_copy packed = *c;

	packed.staged = malloc(c->width * c->height * c->depth);
	if (!packed.staged)
		return false;
	for (size_t z = 0; z < c->depth; z++)
		for (size_t y = 0; y < c->height; y++)
			memcpy((char *)packed.staged + (z * c->height + y) * c->width,
			       c->from + z * c->from_slice + y * c->from_pitch, c->width);
	packed.from = packed.staged;
	packed.from_pitch = c->width;
	packed.from_slice = c->width * c->height;
	*c = packed;
	return true;
}

/*
 * A copy in a stream. Memory that the driver does not know is pageable: a copy from it is staged
 * before the call returns, a copy to it returns when it is done. A captured copy does neither.
 */
static CUresult copy_shape(const struct emu_copy *c, CUstream handle, unsigned how)
{
	struct CUstream_st *s;
	CUresult rc = how & SYNC ? emu_begin_wait(handle, &s) : emu_begin_work(handle, &s);
	bool to_known, from_known, wait;
	struct emu_op *op;

	if (rc)
		return rc;
	if (!c->width || !c->height || !c->depth)
		goto done;
	to_known = is_range(c->to, extent(c, c->to_pitch, c->to_slice), false);
	from_known = is_range(c->from, extent(c, c->from_pitch, c->from_slice), false);
	rc = CUDA_ERROR_INVALID_VALUE;
	if (!c->to || !c->from || ((how & TO_DEVICE) && !to_known) ||
	    ((how & FROM_DEVICE) && !from_known))
		goto done;
	rc = CUDA_ERROR_OUT_OF_MEMORY;
	op = emu_op_new(EMU_OP_COPY, s);
	if (!op)
		goto done;
	wait = !s->capture && ((how & SYNC) || !to_known);
	op->work.u.copy = *c;
	if (!from_known && !wait && !s->capture && !stage(&op->work.u.copy)) {
		emu_op_unref(op);
		goto done;
	}
	emu_op_ref(op);
	rc = emu_op_submit(op, s);
	if (!rc && wait)
		rc = emu_wait_op(op);
	emu_op_unref(op);
done:
	emu_exit();
	return rc;
}

static CUresult copy(void *to, const void *from, size_t bytes, CUstream handle, unsigned how)
{
	return copy_shape(
	    &(struct emu_copy){.to = to, .from = from, .width = bytes, .height = 1, .depth = 1},
	    handle, how);
}

#define PT CU_STREAM_PER_THREAD

CUresult CUDAAPI cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t n)
{
	return copy((void *)to, (void *)from, n, NULL, SYNC);
}
EMU_TWIN(cuMemcpy_ptds, (CUdeviceptr to, CUdeviceptr from, size_t n),
	 copy((void *)to, (void *)from, n, PT, SYNC))

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t n)
{
	return copy((void *)to, from, n, NULL, TO_DEVICE | SYNC);
}
EMU_TWIN(cuMemcpyHtoD_v2_ptds, (CUdeviceptr to, const void *from, size_t n),
	 copy((void *)to, from, n, PT, TO_DEVICE | SYNC))

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t n)
{
	return copy(to, (void *)from, n, NULL, FROM_DEVICE | SYNC);
}
EMU_TWIN(cuMemcpyDtoH_v2_ptds, (void *to, CUdeviceptr from, size_t n),
	 copy(to, (void *)from, n, PT, FROM_DEVICE | SYNC))

/* Between device memories the host does not wait. */
CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t n)
{
	return copy((void *)to, (void *)from, n, NULL, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyDtoD_v2_ptds, (CUdeviceptr to, CUdeviceptr from, size_t n),
	 copy((void *)to, (void *)from, n, PT, TO_DEVICE | FROM_DEVICE))

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s)
{
	return copy((void *)to, (void *)from, n, s, 0);
}
EMU_TWIN(cuMemcpyAsync_ptsz, (CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s),
	 cuMemcpyAsync(to, from, n, emu_per_thread(s)))

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t n, CUstream s)
{
	return copy((void *)to, from, n, s, TO_DEVICE);
}
EMU_TWIN(cuMemcpyHtoDAsync_v2_ptsz, (CUdeviceptr to, const void *from, size_t n, CUstream s),
	 copy((void *)to, from, n, emu_per_thread(s), TO_DEVICE))

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t n, CUstream s)
{
	return copy(to, (void *)from, n, s, FROM_DEVICE);
}
EMU_TWIN(cuMemcpyDtoHAsync_v2_ptsz, (void *to, CUdeviceptr from, size_t n, CUstream s),
	 copy(to, (void *)from, n, emu_per_thread(s), FROM_DEVICE))

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s)
{
	return copy((void *)to, (void *)from, n, s, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyDtoDAsync_v2_ptsz, (CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s),
	 copy((void *)to, (void *)from, n, emu_per_thread(s), TO_DEVICE | FROM_DEVICE))

/* One address space: the contexts say nothing that the addresses do not. */
CUresult CUDAAPI cuMemcpyPeer(CUdeviceptr to, CUcontext to_ctx, CUdeviceptr from,
			      CUcontext from_ctx, size_t n)
{
	return copy((void *)to, (void *)from, n, NULL, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyPeer_ptds,
	 (CUdeviceptr to, CUcontext tc, CUdeviceptr from, CUcontext fc, size_t n),
	 copy((void *)to, (void *)from, n, PT, TO_DEVICE | FROM_DEVICE))

CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_ctx, CUdeviceptr from,
				   CUcontext from_ctx, size_t n, CUstream s)
{
	return copy((void *)to, (void *)from, n, s, TO_DEVICE | FROM_DEVICE);
}
EMU_TWIN(cuMemcpyPeerAsync_ptsz,
	 (CUdeviceptr to, CUcontext tc, CUdeviceptr from, CUcontext fc, size_t n, CUstream s),
	 cuMemcpyPeerAsync(to, tc, from, fc, n, emu_per_thread(s)))

static bool is_array(CUmemorytype type)
{
	return type == CU_MEMORYTYPE_ARRAY;
}

CUresult emu_copy_shape(const CUDA_MEMCPY3D *c, struct emu_copy *shape)
{
	char *to = c->dstMemoryType == CU_MEMORYTYPE_HOST ? c->dstHost : (void *)c->dstDevice;
	const char *from =
	    c->srcMemoryType == CU_MEMORYTYPE_HOST ? c->srcHost : (void *)c->srcDevice;

	if (is_array(c->srcMemoryType) || is_array(c->dstMemoryType))
		return CUDA_ERROR_NOT_SUPPORTED;
	if (!from || !to)
		return CUDA_ERROR_INVALID_VALUE;
	*shape = (struct emu_copy){.width = c->WidthInBytes,
				   .height = c->Height,
				   .depth = c->Depth,
				   .to_pitch = c->dstPitch,
				   .to_slice = c->dstPitch * c->dstHeight,
				   .from_pitch = c->srcPitch,
				   .from_slice = c->srcPitch * c->srcHeight};
	shape->to = to + c->dstZ * shape->to_slice + c->dstY * c->dstPitch + c->dstXInBytes;
	shape->from = from + c->srcZ * shape->from_slice + c->srcY * c->srcPitch + c->srcXInBytes;
	return CUDA_SUCCESS;
}

void emu_copy_describe(const struct emu_copy *shape, CUDA_MEMCPY3D *c)
{
	struct range r;

	*c = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_HOST,
			     .srcHost = shape->from,
			     .srcPitch = shape->from_pitch,
			     .srcHeight =
				 shape->from_pitch ? shape->from_slice / shape->from_pitch : 0,
			     .dstMemoryType = CU_MEMORYTYPE_HOST,
			     .dstHost = shape->to,
			     .dstPitch = shape->to_pitch,
			     .dstHeight = shape->to_pitch ? shape->to_slice / shape->to_pitch : 0,
			     .WidthInBytes = shape->width,
			     .Height = shape->height,
			     .Depth = shape->depth};
	if (lookup((uintptr_t)shape->from, 1, &r) && r.kind == RANGE_DEVICE) {
		c->srcMemoryType = CU_MEMORYTYPE_DEVICE;
		c->srcHost = NULL;
		c->srcDevice = (CUdeviceptr)shape->from;
	}
	if (lookup((uintptr_t)shape->to, 1, &r) && r.kind == RANGE_DEVICE) {
		c->dstMemoryType = CU_MEMORYTYPE_DEVICE;
		c->dstHost = NULL;
		c->dstDevice = (CUdeviceptr)shape->to;
	}
}

static CUresult copy_3d(const CUDA_MEMCPY3D *c, CUstream stream, unsigned how)
{
	struct emu_copy shape;
	CUresult rc = c ? emu_copy_shape(c, &shape) : CUDA_ERROR_INVALID_VALUE;

	if (rc)
		return rc;
	how |= c->srcMemoryType == CU_MEMORYTYPE_DEVICE ? FROM_DEVICE : 0;
	how |= c->dstMemoryType == CU_MEMORYTYPE_DEVICE ? TO_DEVICE : 0;
	return copy_shape(&shape, stream, how);
}

static CUresult copy_rows(const CUDA_MEMCPY2D *c, CUstream stream, unsigned how)
{
	return c ? copy_3d(&(CUDA_MEMCPY3D){.srcXInBytes = c->srcXInBytes,
					    .srcY = c->srcY,
					    .srcMemoryType = c->srcMemoryType,
					    .srcHost = c->srcHost,
					    .srcDevice = c->srcDevice,
					    .srcPitch = c->srcPitch,
					    .dstXInBytes = c->dstXInBytes,
					    .dstY = c->dstY,
					    .dstMemoryType = c->dstMemoryType,
					    .dstHost = c->dstHost,
					    .dstDevice = c->dstDevice,
					    .dstPitch = c->dstPitch,
					    .WidthInBytes = c->WidthInBytes,
					    .Height = c->Height,
					    .Depth = 1},
			   stream, how)
		 : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D *c)
{
	return copy_rows(c, NULL, SYNC);
}
EMU_TWIN(cuMemcpy2D_v2_ptds, (const CUDA_MEMCPY2D *c), copy_rows(c, PT, SYNC))

CUresult CUDAAPI cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *c)
{
	return copy_rows(c, NULL, SYNC);
}
EMU_TWIN(cuMemcpy2DUnaligned_v2_ptds, (const CUDA_MEMCPY2D *c), copy_rows(c, PT, SYNC))

CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D *c, CUstream s)
{
	return copy_rows(c, s, 0);
}
EMU_TWIN(cuMemcpy2DAsync_v2_ptsz, (const CUDA_MEMCPY2D *c, CUstream s),
	 copy_rows(c, emu_per_thread(s), 0))

/* ---- memset: in stream order, the host does not wait ---- */

CUresult emu_set_work(struct emu_work *work, const CUDA_MEMSET_NODE_PARAMS *p)
{
	unsigned size = p->elementSize;

	if ((size != 1 && size != 2 && size != 4) || p->dst % size || !p->width || !p->height ||
	    !is_range((void *)p->dst, (p->height - 1) * p->pitch + p->width * size, false))
		return CUDA_ERROR_INVALID_VALUE;
	*work = (struct emu_work){.kind = EMU_OP_SET};
	work->u.set.to = (void *)p->dst;
	work->u.set.pitch = p->pitch;
	work->u.set.width = p->width;
	work->u.set.height = p->height;
	work->u.set.value = p->value;
	work->u.set.size = size;
	return CUDA_SUCCESS;
}

static CUresult set(CUdeviceptr to, size_t pitch, unsigned value, unsigned size, size_t width,
		    size_t height, CUstream handle)
{
	CUDA_MEMSET_NODE_PARAMS params = {.dst = to,
					  .pitch = pitch,
					  .value = value,
					  .elementSize = size,
					  .width = width,
					  .height = height};
	struct CUstream_st *s;
	CUresult rc = to % size ? CUDA_ERROR_INVALID_VALUE : emu_begin_work(handle, &s);
	struct emu_op *op;

	if (rc)
		return rc;
	if (!width || !height) {
		emu_exit();
		return CUDA_SUCCESS;
	}
	op = emu_op_new(EMU_OP_NOP, s);
	rc = op ? emu_set_work(&op->work, &params) : CUDA_ERROR_OUT_OF_MEMORY;
	if (rc)
		emu_op_unref(op);
	else
		rc = emu_op_submit(op, s);
	emu_exit();
	return rc;
}

#define MEMSETS(name, type)                                                        \
	CUresult CUDAAPI name##_v2(CUdeviceptr to, type v, size_t n)               \
	{                                                                          \
		return set(to, 0, v, sizeof(type), n, 1, NULL);                    \
	}                                                                          \
	EMU_TWIN(name##_v2_ptds, (CUdeviceptr to, type v, size_t n),               \
		 set(to, 0, v, sizeof(type), n, 1, PT))                            \
	CUresult CUDAAPI name##Async(CUdeviceptr to, type v, size_t n, CUstream s) \
	{                                                                          \
		return set(to, 0, v, sizeof(type), n, 1, s);                       \
	}                                                                          \
	EMU_TWIN(name##Async_ptsz, (CUdeviceptr to, type v, size_t n, CUstream s), \
		 set(to, 0, v, sizeof(type), n, 1, emu_per_thread(s)))

#define MEMSETS_2D(name, type)                                                                 \
	CUresult CUDAAPI name##_v2(CUdeviceptr to, size_t pitch, type v, size_t w, size_t h)   \
	{                                                                                      \
		return set(to, pitch, v, sizeof(type), w, h, NULL);                            \
	}                                                                                      \
	EMU_TWIN(name##_v2_ptds, (CUdeviceptr to, size_t pitch, type v, size_t w, size_t h),   \
		 set(to, pitch, v, sizeof(type), w, h, PT))                                    \
	CUresult CUDAAPI name##Async(CUdeviceptr to, size_t pitch, type v, size_t w, size_t h, \
				     CUstream s)                                               \
	{                                                                                      \
		return set(to, pitch, v, sizeof(type), w, h, s);                               \
	}                                                                                      \
	EMU_TWIN(name##Async_ptsz,                                                             \
		 (CUdeviceptr to, size_t pitch, type v, size_t w, size_t h, CUstream s),       \
		 set(to, pitch, v, sizeof(type), w, h, emu_per_thread(s)))

MEMSETS(cuMemsetD8, unsigned char)
MEMSETS(cuMemsetD16, unsigned short)
MEMSETS(cuMemsetD32, unsigned)
MEMSETS_2D(cuMemsetD2D8, unsigned char)
MEMSETS_2D(cuMemsetD2D16, unsigned short)
MEMSETS_2D(cuMemsetD2D32, unsigned)

/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/seen.h"

#include <pthread.h>
#include <stdatomic.h>

#include "noderuntime/coroutine/driver.h"

enum { TABLES, LAUNCHING, UNREAD, N_SEEN };

static _Atomic uint64_t seen[N_SEEN];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ds_port *port_of_session; /* under the lock */

static _Atomic uint64_t *in_port(struct ds_port *port, unsigned what)
{
	switch (what) {
	case TABLES:
		return &port->export_tables;
	case LAUNCHING:
		return &port->launching_modules;
	default:
		return &port->unread_modules;
	}
}

void ds_seen_start(struct ds_port *port)
{
	pthread_mutex_lock(&lock);
	for (unsigned what = 0; what < N_SEEN && port != port_of_session; what++)
		atomic_store(in_port(port, what), atomic_load(&seen[what]));
	port_of_session = port;
	pthread_mutex_unlock(&lock);
}

void ds_seen_forget(void)
{
	pthread_mutex_init(&lock, NULL);
	port_of_session = NULL;
}

static void count(unsigned what)
{
	pthread_mutex_lock(&lock);
	atomic_fetch_add(&seen[what], 1);
	if (port_of_session)
		atomic_fetch_add(in_port(port_of_session, what), 1);
	pthread_mutex_unlock(&lock);
}

void ds_seen_module(enum ds_device_launch launches)
{
	if (launches != DS_LAUNCHES_NOTHING)
		count(launches == DS_LAUNCHES_KERNELS ? LAUNCHING : UNREAD);
}

bool ds_seen_tables(void)
{
	return atomic_load_explicit(&seen[TABLES], memory_order_relaxed) > 0;
}

CUresult ds_cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
	CUresult result;

	if (!ds_driver_ready())
		return CUDA_ERROR_NOT_INITIALIZED;
	result = ds_real.cuGetExportTable(ppExportTable, pExportTableId);
	if (result == CUDA_SUCCESS)
		count(TABLES);
	return result;
}
DS_EXPORT(cuGetExportTable);

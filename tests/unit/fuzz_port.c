/* SPDX-License-Identifier: Apache-2.0 */
/* What programs can send and write: no hello but a proper one passes, no group but an own one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/demand.h"
#include "noderuntime/port.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct ds_groups allowed = {{0x00ff00ff00ff00ff, 0x1}};
	struct ds_port_hello hello;
	struct ds_groups in_use;
	struct ds_error err;
	struct ds_port port = {0};
	const uint64_t epoch = 4;

	if (ds_port_check_hello(data, size, &hello, &err) == 0 &&
	    (hello.magic != DS_PORT_MAGIC ||
	     (size != sizeof(hello) && hello.kind != DS_PORT_END && hello.kind != DS_PORT_NOTES)))
		abort();
	struct ds_port_ask ask;
	if (ds_port_check_ask(data, size, &ask, &err) == 0 && size != sizeof(ask))
		abort();
	static struct ds_port_end end;
	int n = ds_port_check_end(data, size, &end, &err);
	for (int i = 0; i < n; i++) {
		if (n > DS_PORT_END_MAX || end.pids[i] <= 1)
			abort();
	}
	memcpy(&port, data, size < sizeof(port) ? size : sizeof(port));
	if (ds_port_understand(&port, epoch, &allowed, &in_use) == DS_PORT_SAID) {
		struct ds_groups beyond = ds_groups_difference(in_use, allowed);
		if (!ds_groups_empty(&beyond) || port.acknowledged_epoch != epoch)
			abort();
	}
	struct ds_demand_sum sum = {.drain_unknown = false};
	const struct ds_demand none = {0};
	ds_demand_add(&sum, &port);
	struct ds_demand demand = ds_demand_enter(&sum, &none);
	if (demand.active > 1 || demand.overlong > 1 || demand.busy_milli > 1000 ||
	    (demand.overlong && !demand.active))
		abort();
	struct ds_port_notice notice;
	if (ds_port_notice_kind(data, size) && size != sizeof(notice))
		abort();
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What programs can send and write: no hello but a proper one passes, no group but an own one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/port.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct ds_groups allowed = {{0x00ff00ff00ff00ff, 0x1}};
	struct ds_port_hello hello;
	struct ds_groups in_use;
	struct ds_error err;

	if (ds_port_check_hello(data, size, &hello, &err) == 0 &&
	    (size != sizeof(hello) || hello.magic != DS_PORT_MAGIC))
		abort();
	if (ds_port_understand(data, size, &allowed, &in_use)) {
		struct ds_groups beyond = ds_groups_difference(in_use, allowed);
		if (!ds_groups_empty(&beyond) || ds_groups_empty(&in_use))
			abort();
	}
	return 0;
}

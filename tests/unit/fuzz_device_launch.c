/* SPDX-License-Identifier: Apache-2.0 */
/* Code that programs load, of whatever form: nothing is read beyond its end, and it does not take long. */
#include <stdint.h>
#include <stdlib.h>

#include "noderuntime/coroutine/device_launch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (ds_device_launch_look(data, size) > DS_LAUNCHES_UNREAD)
		abort();
	return 0;
}

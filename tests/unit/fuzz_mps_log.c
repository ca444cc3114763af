/* SPDX-License-Identifier: Apache-2.0 */
/* What MPS writes into its log is in nobody's hand: a process that it does not name is never suspected. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "noderuntime/faults.h"
#include "noderuntime/mps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const int32_t pids[] = {1, 20, 4711, INT32_MAX};
	pid_t listed[4];
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	const int32_t named = ds_fault_named(text, pids, 4);
	if (named && named != 1 && named != 20 && named != 4711 && named != INT32_MAX)
		abort();
	if (named == 4711 && !strstr(text, "4711"))
		abort();
	if (ds_mps_parse_pids(text, listed, 4) > 4)
		abort();
	ds_mps_percentage_low(text);
	ds_mps_visible(text, "GPU-aaaaaaaa-0000-4000-8000-000000000001");
	free(text);
	return 0;
}

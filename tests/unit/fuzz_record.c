/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever is parsed as a usage record must survive being written and read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "accounting/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ds_usage_record record, again;
	struct ds_error err;

	if (ds_usage_record_parse((const char *)data, size, &record, &err) < 0)
		return 0;

	char *line = ds_usage_record_format(&record);
	if (!line || ds_usage_record_parse(line, strlen(line), &again, &err) < 0 ||
	    again.job_id != record.job_id || again.programs != record.programs ||
	    strcmp(again.node, record.node) != 0)
		abort();
	free(line);
	return 0;
}

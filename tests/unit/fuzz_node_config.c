/* SPDX-License-Identifier: Apache-2.0 */
/* Any text is either refused with one line or gives values that are safe to use as paths. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/node_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ds_node_config config;
	struct ds_error err = {""};
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (ds_node_config_parse(text, "fuzz", "node1", &config, &err) < 0) {
		if (!err.text[0])
			abort();
	} else if (config.runtime_dir[0] != '/' || strchr(config.runtime_dir, '\n') ||
		   !config.usage_port) {
		abort();
	}
	free(text);
	return 0;
}

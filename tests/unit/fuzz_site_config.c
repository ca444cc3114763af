/* SPDX-License-Identifier: Apache-2.0 */
/* Any file is either refused with a reason or gives rules that hold together. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gres/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ds_site_config config;
	struct ds_error err = {""};
	char *text;

	/* ds_site_config_read lets neither through. */
	if (size >= 65536 || memchr(data, '\0', size))
		return 0;
	text = malloc(size + 1);
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (ds_site_config_parse(text, "fuzz", &config, &err) < 0) {
		if (!err.text[0])
			abort();
	} else {
		if (!ds_site_config_class(&config, config.default_class) ||
		    strlen(config.digest) != 16 || config.n_classes > DS_CLASSES_MAX)
			abort();
		for (uint32_t i = 0; i < config.n_classes; i++)
			if (config.classes[i].min_share_milli > config.classes[i].max_share_milli ||
			    !ds_class_name_valid(config.classes[i].name))
				abort();
	}
	free(text);
	return 0;
}

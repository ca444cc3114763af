/* SPDX-License-Identifier: Apache-2.0 */
/* A grant that is accepted is written back byte for byte: there is one way to say each. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gres/grant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ds_grant grant;
	struct ds_error err = {""};
	char written[DS_GRANT_TEXT_SIZE];
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (ds_grant_parse(text, &grant, &err) == 0) {
		if (ds_grant_format(&grant, written, sizeof(written), &err) < 0 ||
		    strcmp(text, written) != 0)
			abort();
	}
	free(text);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What is accepted is in range, and written and read again it is the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ds_error err = {""};
	char written[DS_SIZE_TEXT_SIZE];
	uint32_t mib = 0, back = 0;
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (ds_size_parse(text, &mib, &err) == 0) {
		if (mib < 1 || mib > DS_SIZE_MIB_MAX ||
		    ds_size_parse(ds_size_format(mib, written), &back, &err) < 0 || back != mib)
			abort();
	} else if (!err.text[0] || strchr(err.text, '\n')) {
		abort();
	}
	free(text);
	return 0;
}

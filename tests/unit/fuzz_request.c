/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever is accepted keeps its meaning when it is rewritten, and rewriting ends there. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gres/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ds_request request, again;
	struct ds_error err = {""};
	char shown[32];
	char *text = malloc(size + 1);
	char *once = NULL, *twice = NULL;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	ds_gres_show(text, shown, sizeof(shown));
	if (ds_request_parse(text, &request, &err) < 0) {
		if (!err.text[0] || strchr(err.text, '\n'))
			abort();
	} else if (request.asks_share) {
		once = ds_request_rewrite(text, request.class_name, request.share_milli, 7);
		if (!once || ds_request_parse(once, &again, &err) < 0 ||
		    again.share_milli != request.share_milli || again.shard_count != 7 ||
		    strcmp(again.class_name, request.class_name) != 0)
			abort();
		twice = ds_request_rewrite(once, again.class_name, again.share_milli, 7);
		if (!twice || strcmp(once, twice) != 0)
			abort();
	}
	free(once);
	free(twice);
	free(text);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from the network, in pieces whose sizes the first byte decides: the reader never asks for more
 * than its room, and what it calls whole goes through both parsers.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "accounting/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse_both(const char *body, size_t length)
{
	struct ds_usage_record record;
	struct ds_answer answer;
	struct ds_error err;
	char nonce[DS_NONCE_SIZE];

	if (ds_message_record_parse(body, length, nonce, &record, &err) == 0) {
		char *text = ds_message_record_format(nonce, &record);
		if (!text || ds_message_record_parse(text, strlen(text), nonce, &record, &err) < 0)
			abort();
		free(text);
	}
	if (ds_answer_parse(body, length, &answer, &err) == 0) {
		char *text = ds_answer_format(&answer);
		if (!text || ds_answer_parse(text, strlen(text), &answer, &err) < 0)
			abort();
		free(text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ds_message_reader reader;

	if (size == 0)
		return 0;
	size_t step = 1 + data[0] % 64;
	data++;
	size--;
	parse_both((const char *)data, size);

	ds_message_reset(&reader);
	while (size > 0) {
		size_t wanted = ds_message_wanted(&reader);
		if (wanted == 0 || reader.used + wanted > sizeof(reader.data) - 1)
			abort();
		size_t n = wanted < step ? wanted : step;
		n = n < size ? n : size;
		memcpy(ds_message_room(&reader), data, n);
		data += n;
		size -= n;

		enum ds_message_state state = ds_message_came(&reader, n);
		if (state == DS_MESSAGE_BROKEN)
			return 0;
		if (state == DS_MESSAGE_WHOLE) {
			size_t length;
			const char *body = ds_message_body(&reader, &length);
			if (body[length] != '\0')
				abort();
			parse_both(body, length);
			ds_message_reset(&reader);
		}
	}
	return 0;
}

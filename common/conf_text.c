/* SPDX-License-Identifier: Apache-2.0 */
#include "common/conf_text.h"

#include <stdbool.h>
#include <string.h>

/* The end of the string that starts with the quote at `at`, or of the text. */
static char *skip_string(char *at)
{
	char quote = *at++;

	for (; *at && *at != quote; at++)
		if (*at == '\\' && at[1])
			at++;
	return *at ? at + 1 : at;
}

/* The end of the comment that starts at `at`; NULL if none does, or if it has none. */
static char *comment_end(char *at)
{
	if (at[0] == '#' || (at[0] == '/' && at[1] == '/'))
		return at + strcspn(at, "\n");
	if (at[0] == '/' && at[1] == '*') {
		char *end = strstr(at + 2, "*/");
		return end ? end + 2 : NULL;
	}
	return NULL;
}

void ds_conf_blank_comments(char *text)
{
	/* "a//b" without quotes is a value: a comment starts where a word could. */
	bool word_starts = true;

	for (char *at = text; *at;) {
		char *end = word_starts ? comment_end(at) : NULL;
		if (end) {
			for (; at < end; at++)
				if (*at != '\n')
					*at = ' ';
		} else if (*at == '"' || *at == '\'') {
			at = skip_string(at);
			word_starts = true;
		} else {
			word_starts = strchr(" \t\r\n={}(),+", *at) != NULL;
			at++;
		}
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COMMON_CONF_TEXT_H
#define DETSHARE_COMMON_CONF_TEXT_H

/*
 * Overwrite the comments (#, //, and C's) of a libconfuse file with blanks, keeping the ends of
 * lines: libconfuse 3.3 counts the end of a line several times behind a comment, so that its messages
 * name wrong lines. What is left means the same. Strings, and a comment that does not end, stay.
 */
void ds_conf_blank_comments(char *text);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_LOG_H
#define DETSHARE_ACCOUNTING_LOG_H

/*
 * One line for the operator, without a newline: to standard error, or to syslog (daemon facility)
 * when that is closed or /dev/null, as for a sender that an epilog started. Control characters are
 * shown as '?', because lines quote what peers sent.
 */
void ds_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_ACCOUNTING_CREDENTIAL_H
#define DETSHARE_ACCOUNTING_CREDENTIAL_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"

/*
 * munge: who says it (uid), to whom only (uid), when, and once. Credentials expire after munged's
 * time to live (5 minutes), so one is made afresh for every try.
 * `socket`: of munged; NULL or "": libmunge's default.
 */

/*
 * Sign `text` so that only `reader` can read it, on any host with our munge key. The credential is
 * malloc'd. Returns 0 or -1.
 */
int ds_credential_encode(const char *socket, uid_t reader, const char *text, char **credential,
			 struct ds_error *err);

struct ds_credential {
	uid_t uid; /* of the process that signed it */
	char origin
	    [INET_ADDRSTRLEN]; /* address of the host it was signed on, as its munged knows it */
	char *text;            /* malloc'd, with a NUL behind it */
	size_t length;
};

/*
 * Read a credential. Refused: anything munged refuses (forged, expired, from the future, replayed,
 * meant for another user), and every uid other than root's and `friend`. Returns 0 or -1.
 */
int ds_credential_decode(const char *socket, const char *credential, uid_t friend,
			 struct ds_credential *decoded, struct ds_error *err);

#endif

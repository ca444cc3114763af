/* SPDX-License-Identifier: Apache-2.0 */
#include "accounting/credential.h"

#include <arpa/inet.h>
#include <munge.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static munge_ctx_t open_context(const char *socket, struct ds_error *err)
{
	munge_ctx_t context = munge_ctx_create();

	if (!context) {
		ds_fail(err, "cannot use munge: memory is out");
		return NULL;
	}
	if (socket && *socket &&
	    munge_ctx_set(context, MUNGE_OPT_SOCKET, socket) != EMUNGE_SUCCESS) {
		ds_fail(err, "cannot use munge socket %s: %s", socket, munge_ctx_strerror(context));
		munge_ctx_destroy(context);
		return NULL;
	}
	return context;
}

/* munged's reason with libmunge's detail, and what to do when nobody listens. */
static int fail(munge_ctx_t context, const char *what, munge_err_t error, struct ds_error *err)
{
	const char *detail = munge_ctx_strerror(context);

	return ds_fail(err, "cannot %s a credential: %s%s", what,
		       detail ? detail : munge_strerror(error),
		       error == EMUNGE_SOCKET ? "; is munged running?" : "");
}

int ds_credential_encode(const char *socket, uid_t reader, const char *text, char **credential,
			 struct ds_error *err)
{
	munge_ctx_t context = open_context(socket, err);
	munge_err_t error;

	*credential = NULL;
	if (!context)
		return -1;
	error = munge_ctx_set(context, MUNGE_OPT_UID_RESTRICTION, reader);
	if (error == EMUNGE_SUCCESS)
		error = munge_encode(credential, context, text, (int)strlen(text));
	if (error != EMUNGE_SUCCESS)
		fail(context, "sign", error, err);
	munge_ctx_destroy(context);
	return error == EMUNGE_SUCCESS ? 0 : -1;
}

int ds_credential_decode(const char *socket, const char *credential, uid_t friend,
			 struct ds_credential *decoded, struct ds_error *err)
{
	void *payload = NULL;
	struct in_addr origin = {0};
	int length = 0;
	uid_t uid = (uid_t)-1;
	gid_t gid = (gid_t)-1;
	int rv = -1;

	*decoded = (struct ds_credential){.uid = (uid_t)-1};
	munge_ctx_t context = open_context(socket, err);
	if (!context)
		return -1;
	munge_err_t error = munge_decode(credential, context, &payload, &length, &uid, &gid);
	if (error != EMUNGE_SUCCESS) {
		fail(context, "accept", error, err);
		goto out;
	}
	if (uid != 0 && uid != friend) {
		ds_fail(err, "refusing a credential of uid %u: only root's and uid %u's count",
			(unsigned)uid, (unsigned)friend);
		goto out;
	}
	/* munge puts a NUL behind the payload; without a payload there is nothing at all. */
	decoded->text = payload ? strndup(payload, (size_t)length) : strdup("");
	if (!decoded->text) {
		ds_fail(err, "cannot accept a credential: memory is out");
		goto out;
	}
	decoded->length = strlen(decoded->text);
	decoded->uid = uid;
	munge_ctx_get(context, MUNGE_OPT_ADDR4, &origin);
	inet_ntop(AF_INET, &origin, decoded->origin, sizeof(decoded->origin));
	rv = 0;
out:
	munge_ctx_destroy(context);
	free(payload);
	return rv;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/squeeze.h"

void ds_squeeze_note(struct ds_squeeze *squeeze, const struct ds_ledger_state *seen,
		     const struct ds_ledger_resident *self, int64_t now_ns)
{
	const struct ds_groups had = ds_groups_intersection(self->own, self->held);
	const uint32_t own_sms = ds_groups_sms(&self->own, &seen->shape);
	const uint32_t sms = ds_groups_sms(&had, &seen->shape);

	if (!self->demand.active || ds_groups_within(&self->own, &self->planned) || !sms)
		return;
	if (now_ns >= squeeze->until_ns || own_sms != squeeze->own_sms)
		*squeeze = (struct ds_squeeze){
		    .own_sms = own_sms, .least_sms = sms, .drain_us = self->demand.drain_us};
	if (sms < squeeze->least_sms)
		squeeze->least_sms = sms;
	squeeze->until_ns = now_ns + (int64_t)DS_SQUEEZE_MS * 1000000;
}

uint32_t ds_squeeze_drain_us(const struct ds_squeeze *squeeze, uint32_t said_us, int64_t now_ns)
{
	if (!said_us || now_ns >= squeeze->until_ns)
		return said_us;
	const uint64_t scaled =
	    ((uint64_t)said_us * squeeze->least_sms + squeeze->own_sms - 1) / squeeze->own_sms;
	const uint64_t least = squeeze->drain_us < said_us ? squeeze->drain_us : said_us;

	return (uint32_t)(scaled > least ? scaled : least);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The blocks of kernels: taken to SMs, run, and given back. The device's thread alone comes here. */
#include "tests/emugpu/op.h"

#include <string.h>

static unsigned visible_smid(const struct emu_op *op, unsigned sm)
{
	unsigned id = 0;

	if (!op->renumber_smid)
		return sm;
	for (unsigned i = 0; i < sm; i++)
		id += emu_sms_has(&op->sms, i);
	return id;
}

static void want(struct emu_client *client, const struct emu_sms *sms)
{
	for (unsigned w = 0; w < EMU_SMS_MAX / 64; w++)
		client->wanted.bits[w] |= sms->bits[w];
}

/* Its blocks wait on their SMs for those that are still to come. */
static bool gathers(const struct emu_op *op)
{
	return op->work.u.launch.kernel->meet && op->issued &&
	       op->issued < op->work.u.launch.n_blocks;
}

/* Two grids that gathered at once on the same SMs would wait for each other for ever. */
static bool may_issue(const struct emu_device *dev, const struct emu_op *op)
{
	return !op->work.u.launch.kernel->meet || gathers(op) ||
	       emu_may_gather(dev->map.gpu, dev->client);
}

static void note_gathering(struct emu_device *dev, const struct emu_op *op)
{
	if (op->work.u.launch.kernel->meet && op->issued)
		emu_client_of(dev)->gathers = gathers(op);
}

unsigned emu_issue(struct emu_device *dev, bool *starved)
{
	struct emu_turn turn = emu_turn(dev->map.gpu, dev->client);
	unsigned n = 0;

	*starved = false;
	emu_client_of(dev)->wanted = (struct emu_sms){{0}};
	for (struct emu_op *op = dev->active; op; op = op->queue_next) {
		struct emu_run *run = &op->work.u.launch.run;
		if (op->issued < op->work.u.launch.n_blocks && !may_issue(dev, op)) {
			*starved = true;
			continue;
		}
		while (op->issued < op->work.u.launch.n_blocks && dev->n_running < EMU_SMS_MAX) {
			struct emu_running *r = &dev->running[dev->n_running];
			uint64_t i = op->issued;
			uint32_t index[3] = {(uint32_t)(i % run->grid[0]),
					     (uint32_t)(i / run->grid[0] % run->grid[1]),
					     (uint32_t)(i / run->grid[0] / run->grid[1])};
			int sm = emu_claim(dev->map.gpu, dev->client, &turn, &op->sms,
					   op->work.u.launch.kernel->name, index, op->ready_ns,
					   &r->claim, &r->end_ns);
			if (sm < 0) {
				*starved = true;
				want(emu_client_of(dev), &op->sms);
				break;
			}
			r->op = op;
			memcpy(r->index, index, sizeof(r->index));
			r->sm = (unsigned)sm;
			r->ended = false;
			op->issued++;
			op->running++;
			dev->n_running++;
			n++;
		}
		note_gathering(dev, op);
	}
	return n;
}

/* For as long as the block waits for others; far off, and no overflow when something is added. */
#define NO_END (UINT64_MAX / 4)

/* Blocks that wait for each other go on when the last one of their kernel has come. */
static void let_meet(struct emu_device *dev)
{
	const uint64_t now = emu_now_ns();

	for (unsigned i = 0; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];

		if (r->end_ns < NO_END || r->op->issued < r->op->work.u.launch.n_blocks)
			continue;
		r->end_ns = now + (r->end_ns - NO_END);
		atomic_store(&dev->map.gpu->slots[r->sm].deadline_ns, r->end_ns);
	}
}

/* Run the code of the newly taken blocks; r->end_ns holds the begin until then. */
int emu_run_blocks(struct emu_device *dev, unsigned n)
{
	int fault = 0;

	for (unsigned i = dev->n_running - n; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];
		struct emu_slot *slot = &dev->map.gpu->slots[r->sm];
		struct emu_run run = r->op->work.u.launch.run;
		memcpy(run.index, slot->block.index, sizeof(run.index));
		run.smid = visible_smid(r->op, r->sm);
		run.n_sms = emu_sms_count(&r->op->sms);
		run.now_ns = r->end_ns;
		int64_t ns = r->op->work.u.launch.kernel->block(&run);
		if (ns == EMU_ILLEGAL_ADDRESS)
			fault = 1;
		r->end_ns = ns > 0 ? r->end_ns + (uint64_t)ns : emu_now_ns();
		if (r->op->work.u.launch.kernel->meet && ns > 0)
			r->end_ns = NO_END + (uint64_t)ns;
		atomic_store(&slot->deadline_ns, r->end_ns);
	}
	if (n)
		let_meet(dev);
	return fault;
}

void emu_end_blocks(struct emu_device *dev, uint64_t now, bool all)
{
	for (unsigned i = 0; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];
		if (r->end_ns > now && !all)
			continue;
		emu_release(dev->map.gpu, dev->client, r->sm, r->claim,
			    r->end_ns < now ? r->end_ns : now);
		r->ended = true;
	}
}

/* What a block does when it ends; false: it faulted. */
static bool end_of_block(const struct emu_running *r)
{
	const struct emu_kernel *kernel = r->op->work.u.launch.kernel;
	struct emu_run run = r->op->work.u.launch.run;

	memcpy(run.index, r->index, sizeof(run.index));
	run.now_ns = r->end_ns;
	return !kernel->at_end || kernel->at_end(&run) != EMU_ILLEGAL_ADDRESS;
}

/* Its blocks are over. Takes the caller's reference. */
static void kernel_ended(struct emu_op *op, CUresult result, uint64_t at_ns)
{
	struct emu_op *beside = op->beside;

	if (!beside || beside->done) {
		emu_op_done(op, result, at_ns);
		return;
	}
	op->ended = true;
	op->result = result;
	op->done_ns = at_ns;
	emu_op_after(op, beside);
}

void emu_account_ended(struct emu_device *dev)
{
	unsigned kept = 0;
	CUresult fault = emu_device_fault(dev);

	for (unsigned i = 0; i < dev->n_running && !fault; i++)
		if (dev->running[i].ended && !end_of_block(&dev->running[i])) {
			emu_raise_fault(dev, CUDA_ERROR_ILLEGAL_ADDRESS);
			fault = CUDA_ERROR_ILLEGAL_ADDRESS;
		}

	for (unsigned i = 0; i < dev->n_running; i++) {
		struct emu_running *r = &dev->running[i];
		if (!r->ended) {
			dev->running[kept++] = *r;
			continue;
		}
		r->op->running--;
		if (r->end_ns > r->op->done_ns)
			r->op->done_ns = r->end_ns;
	}
	dev->n_running = kept;
	for (struct emu_op **p = &dev->active; *p;) {
		struct emu_op *op = *p;
		bool all_issued = fault || op->issued == op->work.u.launch.n_blocks;
		if (!all_issued || op->running) {
			p = &op->queue_next;
			continue;
		}
		*p = op->queue_next;
		/* Before anybody can know that it is done. */
		emu_kernel_ends(&dev->map, dev->client, &op->sms);
		kernel_ended(op, fault, op->done_ns ? op->done_ns : emu_now_ns());
	}
}

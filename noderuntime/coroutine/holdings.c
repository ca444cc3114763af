/* SPDX-License-Identifier: Apache-2.0 */
#include "noderuntime/coroutine/holdings.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

/* A hash table with chains; allocating on the GPU costs more than any look-up here. */
struct entry {
	struct ds_holding holding;
	struct entry *next;
};

enum { FIRST_BUCKETS = 256 };

static struct {
	pthread_mutex_t lock;
	struct entry **buckets;
	size_t n_buckets, n;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

static size_t bucket_of(enum ds_holding_kind kind, uint64_t key, size_t n_buckets)
{
	uint64_t hash = (key ^ (uint64_t)kind << 60) * UINT64_C(0x9e3779b97f4a7c15);

	return (size_t)(hash >> 32) & (n_buckets - 1);
}

/* Where the pointer to it is, or to nothing. Under the lock. */
static struct entry **find(enum ds_holding_kind kind, uint64_t key)
{
	struct entry **link;

	if (!table.buckets)
		return NULL;
	link = &table.buckets[bucket_of(kind, key, table.n_buckets)];
	while (*link && ((*link)->holding.key != key || (*link)->holding.kind != kind))
		link = &(*link)->next;
	return *link ? link : NULL;
}

/* Failing to grow only makes chains longer. */
static bool grow(void)
{
	size_t n_buckets = table.n_buckets ? table.n_buckets * 2 : FIRST_BUCKETS;
	struct entry **buckets = calloc(n_buckets, sizeof(*buckets));

	if (!buckets)
		return table.buckets != NULL;
	for (size_t i = 0; i < table.n_buckets; i++) {
		struct entry *entry = table.buckets[i];

		while (entry) {
			struct entry *next = entry->next;
			size_t b = bucket_of(entry->holding.kind, entry->holding.key, n_buckets);

			entry->next = buckets[b];
			buckets[b] = entry;
			entry = next;
		}
	}
	free(table.buckets);
	table.buckets = buckets;
	table.n_buckets = n_buckets;
	return true;
}

static bool put(const struct ds_holding *holding)
{
	struct entry **known = find(holding->kind, holding->key), *entry;
	size_t b;

	if (known) {
		(*known)->holding = *holding;
		return true;
	}
	if (table.n >= table.n_buckets && !grow())
		return false;
	entry = malloc(sizeof(*entry));
	if (!entry)
		return false;
	b = bucket_of(holding->kind, holding->key, table.n_buckets);
	*entry = (struct entry){*holding, table.buckets[b]};
	table.buckets[b] = entry;
	table.n++;
	return true;
}

static void take(struct entry **link, struct ds_holding *taken)
{
	struct entry *entry = *link;

	*taken = entry->holding;
	*link = entry->next;
	table.n--;
	free(entry);
}

bool ds_holdings_put(const struct ds_holding *holding)
{
	bool done;

	pthread_mutex_lock(&table.lock);
	done = put(holding);
	pthread_mutex_unlock(&table.lock);
	return done;
}

bool ds_holdings_take(enum ds_holding_kind kind, uint64_t key, struct ds_holding *taken)
{
	struct entry **link;

	if (kind == DS_HOLD_NONE)
		return false;
	pthread_mutex_lock(&table.lock);
	link = find(kind, key);
	if (link)
		take(link, taken);
	pthread_mutex_unlock(&table.lock);
	return link != NULL;
}

bool ds_holdings_find(enum ds_holding_kind kind, uint64_t key, struct ds_holding *found)
{
	struct entry **link;

	pthread_mutex_lock(&table.lock);
	link = find(kind, key);
	if (link)
		*found = (*link)->holding;
	pthread_mutex_unlock(&table.lock);
	return link != NULL;
}

bool ds_holdings_use(enum ds_holding_kind kind, uint64_t key)
{
	struct entry **link;

	pthread_mutex_lock(&table.lock);
	link = find(kind, key);
	if (link)
		(*link)->holding.uses++;
	pthread_mutex_unlock(&table.lock);
	return link != NULL;
}

bool ds_holdings_unuse(enum ds_holding_kind kind, uint64_t key, struct ds_holding *taken)
{
	struct entry **link;
	bool last = false;

	pthread_mutex_lock(&table.lock);
	link = find(kind, key);
	if (link && !--(*link)->holding.uses) {
		take(link, taken);
		last = true;
	}
	pthread_mutex_unlock(&table.lock);
	return last;
}

bool ds_holdings_take_within(enum ds_holding_kind kind, uint64_t from, uint64_t end,
			     struct ds_holding *taken)
{
	bool found = false;

	pthread_mutex_lock(&table.lock);
	for (size_t i = 0; i < table.n_buckets && !found; i++) {
		struct entry **link = &table.buckets[i];

		while (*link && !found) {
			const struct ds_holding *h = &(*link)->holding;

			found = h->kind == kind && h->key >= from && h->key < end;
			if (found)
				take(link, taken);
			else
				link = &(*link)->next;
		}
	}
	pthread_mutex_unlock(&table.lock);
	return found;
}

/* What another thread was doing to the table when the process forked is not known: it is left behind. */
void ds_holdings_forget(void)
{
	pthread_mutex_init(&table.lock, NULL);
	table.buckets = NULL;
	table.n_buckets = table.n = 0;
}

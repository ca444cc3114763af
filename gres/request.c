/* SPDX-License-Identifier: Apache-2.0 */
#include "gres/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Everything here compares bytes, not characters of a locale: slurmctld, slurmd and a user's client
 * run under different locales and must read a request alike.
 */

static const char DETSHARE[] = "detshare";
static const char SHARD[] = "shard";

/* A piece of a gres list; not terminated. */
struct span {
	const char *at;
	size_t length;
};

/* One element of a gres list: PREFIX NAME REST, where REST is empty or starts with ':' or '='. */
struct element {
	struct span whole;
	struct span prefix; /* "gres:", "gres/" or empty */
	struct span name;
	struct span rest;
};

/* Room for a quoted element in a message; longer ones are cut. */
enum { QUOTE_SIZE = 80 };

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool span_is(struct span span, const char *text)
{
	return span.length == strlen(text) && memcmp(span.at, text, span.length) == 0;
}

static bool span_is_digits(struct span span)
{
	for (size_t i = 0; i < span.length; i++)
		if (!is_digit(span.at[i]))
			return false;
	return span.length > 0;
}

/* Quote for a message: what a user sent must not break a log line or fill it. */
static const char *quote(struct span span, char buffer[QUOTE_SIZE])
{
	size_t n = 0;

	for (; n < span.length && n < QUOTE_SIZE - 4; n++) {
		unsigned char c = (unsigned char)span.at[n];
		buffer[n] = span.at[n];
		if (c < ' ' || c == 0x7f)
			buffer[n] = '?';
	}
	if (n < span.length) {
		memcpy(buffer + n, "...", 3);
		n += 3;
	}
	buffer[n] = '\0';
	return buffer;
}

/* Cut the next element off `*list`. False at the end. Empty elements are skipped, as Slurm does. */
static bool next_element(const char **list, struct element *element)
{
	const char *at = *list;
	size_t i = 0;

	while (*at == ',')
		at++;
	if (!*at)
		return false;

	element->whole = (struct span){at, strcspn(at, ",")};
	*list = at + element->whole.length;

	element->prefix = (struct span){at, 0};
	if (element->whole.length >= 5 && memcmp(at, "gres", 4) == 0 &&
	    (at[4] == ':' || at[4] == '/'))
		element->prefix.length = 5;

	struct span after = {at + element->prefix.length,
			     element->whole.length - element->prefix.length};
	while (i < after.length && after.at[i] != ':' && after.at[i] != '=')
		i++;
	element->name = (struct span){after.at, i};
	element->rest = (struct span){after.at + i, after.length - i};
	return true;
}

/* The element without its prefix: what the user typed. */
static struct span element_text(const struct element *element)
{
	return (struct span){element->name.at, element->name.length + element->rest.length};
}

static bool fits_class_name(struct span span)
{
	if (span.length == 0 || span.length >= DS_CLASS_NAME_SIZE || !is_letter(span.at[0]))
		return false;
	for (size_t i = 1; i < span.length; i++) {
		char c = span.at[i];
		if (!is_letter(c) && !is_digit(c) && c != '_' && c != '-')
			return false;
	}
	return true;
}

bool ds_class_name_valid(const char *name)
{
	return fits_class_name((struct span){name, strlen(name)});
}

static int fail_not_a_number(const char *shown, struct ds_error *err)
{
	return ds_fail(
	    err,
	    "share \"%s\" is not a number; write a fraction such as 0.5, or 1 for a whole GPU, "
	    "or thousandths such as 500",
	    shown);
}

static int fail_not_above_zero(const char *shown, struct ds_error *err)
{
	return ds_fail(err, "share \"%s\" is not above 0; write a fraction of one GPU, such as 0.5",
		       shown);
}

static int fail_above_one(const char *shown, struct ds_error *err)
{
	return ds_fail(
	    err,
	    "share \"%s\" is more than one GPU, but a share lies on one; write at most 1, or "
	    "ask whole GPUs with --gres=gpu:N instead",
	    shown);
}

/*
 * Decimal text to thousandths, without ever passing through a floating-point number: "0.7" has to
 * be 700 everywhere.
 */
static int parse_share(struct span text, uint32_t *share_milli, struct ds_error *err)
{
	char shown[QUOTE_SIZE];
	struct span whole = text;
	struct span fraction = {text.at, 0};
	const char *point = text.length ? memchr(text.at, '.', text.length) : NULL;
	uint32_t value = 0;

	quote(text, shown);
	if (text.length > 1 && text.at[0] == '-' && text.at[1] != '-') {
		/* "-0.5" is a number; say what is wrong with it. */
		if (parse_share((struct span){text.at + 1, text.length - 1}, &value, NULL) == 0)
			return fail_not_above_zero(shown, err);
		return fail_not_a_number(shown, err);
	}
	if (point) {
		whole.length = (size_t)(point - text.at);
		fraction = (struct span){point + 1, text.length - whole.length - 1};
		if (!span_is_digits(fraction) || (whole.length && !span_is_digits(whole)))
			return fail_not_a_number(shown, err);
	} else if (!span_is_digits(whole)) {
		const char *comma = text.length ? memchr(text.at, ',', text.length) : NULL;
		if (comma)
			return ds_fail(
			    err,
			    "share \"%s\" has a comma; write the fraction with a point, such as "
			    "0.5",
			    shown);
		if (text.length > 1 && text.at[text.length - 1] == '%' &&
		    span_is_digits((struct span){text.at, text.length - 1}))
			return ds_fail(err,
				       "share \"%s\" is a percentage; write it as a fraction, such "
				       "as 0.5 for 50%%",
				       shown);
		return fail_not_a_number(shown, err);
	}

	for (size_t i = 0; i < whole.length; i++) {
		value = value * 10 + (uint32_t)(whole.at[i] - '0');
		if (value > DS_SHARE_MILLI_MAX)
			return fail_above_one(shown, err);
	}
	if (!point && value > 1) {
		*share_milli = value;
		return 0;
	}

	while (fraction.length && fraction.at[fraction.length - 1] == '0')
		fraction.length--;
	if (value > 1 || (value == 1 && fraction.length))
		return fail_above_one(shown, err);
	if (value == 1) {
		*share_milli = DS_SHARE_MILLI_MAX;
		return 0;
	}
	if (!fraction.length)
		return fail_not_above_zero(shown, err);
	if (fraction.length > 3)
		return ds_fail(
		    err,
		    "share \"%s\" is finer than a thousandth of a GPU; round it to three "
		    "decimals, such as 0.125",
		    shown);
	for (size_t i = 0; i < 3; i++)
		value = value * 10 + (i < fraction.length ? (uint32_t)(fraction.at[i] - '0') : 0);
	if (value < DS_SHARE_MILLI_MIN)
		return ds_fail(
		    err,
		    "share \"%s\" is too small; the smallest is 0.002, because detshare:1 means "
		    "one GPU",
		    shown);
	*share_milli = value;
	return 0;
}

int ds_share_parse(const char *text, uint32_t *share_milli, struct ds_error *err)
{
	uint32_t parsed;

	if (!text)
		text = "";
	if (parse_share((struct span){text, strlen(text)}, &parsed, err) < 0)
		return -1;
	*share_milli = parsed;
	return 0;
}

const char *ds_share_format(uint32_t share_milli, char text[DS_SHARE_TEXT_SIZE])
{
	int length =
	    snprintf(text, DS_SHARE_TEXT_SIZE, "%u.%03u", share_milli / 1000, share_milli % 1000);

	while (text[length - 1] == '0')
		text[--length] = '\0';
	if (text[length - 1] == '.')
		text[--length] = '\0';
	return text;
}

bool ds_tres_mentions(const char *list, const char *word)
{
	static const char separators[] = ":/=,;";
	size_t length = strlen(word);

	for (const char *at = list ? list : ""; *at;) {
		size_t n = strcspn(at, separators);
		if (n == length && memcmp(at, word, length) == 0)
			return true;
		at += n;
		at += strspn(at, separators);
	}
	return false;
}

const char *ds_gres_show(const char *gres, char *text, size_t size)
{
	struct element element;
	size_t used = 0;

	text[0] = '\0';
	for (const char *at = gres ? gres : ""; next_element(&at, &element) && used + 1 < size;) {
		char shown[QUOTE_SIZE];
		int length = snprintf(text + used, size - used, "%s%s", used ? "," : "",
				      quote(element_text(&element), shown));
		used += (size_t)length;
	}
	return text;
}

/* NAME, NAME:SHARE, NAME:CLASS, NAME:CLASS:SHARE; '=' may stand before the share. */
static int parse_detshare(const struct element *element, struct ds_request *request,
			  struct ds_error *err)
{
	struct span rest = element->rest;
	struct span first, second = {NULL, 0};
	size_t i = 0;

	if (!rest.length) {
		/* Slurm's convention: no count means one. */
		request->share_milli = DS_SHARE_MILLI_MAX;
		return 0;
	}

	char separator = rest.at[0];
	first = (struct span){rest.at + 1, rest.length - 1};
	while (i < first.length && first.at[i] != ':' && first.at[i] != '=')
		i++;
	if (i < first.length) {
		second = (struct span){first.at + i + 1, first.length - i - 1};
		first.length = i;
	}

	if (separator == '=' && second.at)
		return ds_fail(err, "'=' stands only before the share: write detshare:CLASS=SHARE");
	if (second.at ? !second.length : !first.length)
		return ds_fail(err,
			       "the share is missing at the end; write for example detshare:0.5");
	if (!second.at && (separator == '=' || !is_letter(first.at[0])))
		return parse_share(first, &request->share_milli, err);
	if (second.at && !first.length)
		return ds_fail(err,
			       "the class is empty; write detshare:CLASS:SHARE or detshare:SHARE");
	if (second.at && !is_letter(first.at[0]))
		return ds_fail(err,
			       "the class stands before the share: write detshare:CLASS:SHARE");
	if (!fits_class_name(first)) {
		char shown[QUOTE_SIZE];
		return ds_fail(
		    err,
		    "\"%s\" cannot be a class: at most %d letters, digits, '-' and '_', the "
		    "first a letter",
		    quote(first, shown), DS_CLASS_NAME_SIZE - 1);
	}
	memcpy(request->class_name, first.at, first.length);
	request->class_name[first.length] = '\0';
	if (!second.at) {
		request->share_milli = DS_SHARE_MILLI_MAX;
		return 0;
	}
	return parse_share(second, &request->share_milli, err);
}

/*
 * The count of an element of another gres, as Slurm reads it: the number at its end with an
 * optional binary suffix, else 1. What Slurm will refuse counts as 0 here; that is for Slurm to say.
 */
static uint64_t other_count(const struct element *element)
{
	struct span rest = element->rest;
	uint64_t count = 0;
	unsigned shift = 0;
	size_t start = rest.length;
	static const char suffixes[] = "kmgtp";

	if (!rest.length)
		return 1;
	while (start > 0 && rest.at[start - 1] != ':' && rest.at[start - 1] != '=')
		start--;
	struct span last = {rest.at + start, rest.length - start};
	if (!last.length)
		return 0;
	if (!is_digit(last.at[0]))
		return 1; /* a type */

	const char *suffix = strchr(suffixes, last.at[last.length - 1] | 0x20);
	if (is_letter(last.at[last.length - 1]) && suffix) {
		shift = 10 * (unsigned)(suffix - suffixes + 1);
		last.length--;
	}
	if (!span_is_digits(last) || last.length > 18)
		return 0;
	for (size_t i = 0; i < last.length; i++)
		count = count * 10 + (uint64_t)(last.at[i] - '0');
	return count > UINT64_MAX >> shift ? UINT64_MAX : count << shift;
}

/* "shard:TYPE:COUNT" or "shard:TYPE" */
static bool has_type(const struct element *element)
{
	return element->rest.length > 1 && element->rest.at[0] == ':' &&
	       !is_digit(element->rest.at[1]);
}

/* " detshare", "detshare :0.5": the name is ours but for blanks. */
static bool is_detshare_with_blanks(struct span name)
{
	size_t length = name.length;

	while (name.length && is_blank(name.at[0])) {
		name.at++;
		name.length--;
	}
	while (name.length && is_blank(name.at[name.length - 1]))
		name.length--;
	return name.length < length && span_is(name, DETSHARE);
}

static int fail_element(const struct element *element, struct ds_error *err)
{
	char shown[QUOTE_SIZE];

	return ds_fail_within(err, "%s", quote(element_text(element), shown));
}

/* "detshare:0,5": a comma separates elements, so the digits behind it are an element. */
static int fail_decimal_comma(const struct element *element, struct span digits,
			      struct ds_error *err)
{
	char share[QUOTE_SIZE], rest[QUOTE_SIZE];

	return ds_fail(
	    err,
	    "%s,%s: a comma separates list elements; write the share with a point, such as "
	    "detshare:0.5",
	    quote(element_text(element), share), quote(digits, rest));
}

int ds_request_parse(const char *gres, struct ds_request *request, struct ds_error *err)
{
	struct element element, next;
	struct element typed_shard = {.whole = {NULL, 0}};
	struct ds_request parsed = {.asks_share = false};

	memset(request, 0, sizeof(*request));
	for (const char *at = gres ? gres : ""; next_element(&at, &element);) {
		if (span_is(element.name, DETSHARE)) {
			const char *ahead = at;
			if (next_element(&ahead, &next) && span_is_digits(element_text(&next)))
				return fail_decimal_comma(&element, element_text(&next), err);
			if (parsed.asks_share) {
				ds_fail(
				    err,
				    "a second share, but a job has one share per node; keep one "
				    "detshare element");
				return fail_element(&element, err);
			}
			parsed.asks_share = true;
			if (parse_detshare(&element, &parsed, err) < 0)
				return fail_element(&element, err);
		} else if (span_is(element.name, SHARD)) {
			uint64_t count = other_count(&element);
			parsed.asks_shard = parsed.asks_shard || count > 0;
			parsed.shard_count = count > UINT64_MAX - parsed.shard_count
						 ? UINT64_MAX
						 : parsed.shard_count + count;
			if (has_type(&element))
				typed_shard = element;
		} else if (span_is(element.name, "gpu") || span_is(element.name, "mps")) {
			parsed.asks_gpu = parsed.asks_gpu || other_count(&element) > 0;
		} else if (is_detshare_with_blanks(element.name)) {
			ds_fail(err, "a blank beside the name; write the list without blanks");
			return fail_element(&element, err);
		}
	}
	if (parsed.asks_share && typed_shard.whole.at) {
		ds_fail(
		    err,
		    "a shard of a type beside detshare, which takes its shards itself; leave the "
		    "shard out and choose the kind of GPU with --constraint or --partition");
		return fail_element(&typed_shard, err);
	}
	*request = parsed;
	return 0;
}

char *ds_request_rewrite(const char *gres, const char *class_name, uint32_t share_milli,
			 uint32_t shard_count)
{
	struct element element;
	char ours[2 * sizeof("gres:") + sizeof("detshare::4294967295,shard:4294967295") +
		  DS_CLASS_NAME_SIZE];
	char *list = NULL;
	size_t used = 0;
	bool done = false;

	if (!gres || strlen(class_name) >= DS_CLASS_NAME_SIZE)
		return NULL;
	list = malloc(strlen(gres) + sizeof(ours) + 1);
	if (!list)
		return NULL;

	for (const char *at = gres; next_element(&at, &element);) {
		struct span piece = element.whole;

		if (span_is(element.name, SHARD))
			continue;
		if (span_is(element.name, DETSHARE)) {
			if (done)
				continue;
			int length =
			    snprintf(ours, sizeof(ours), "%.*sdetshare%s%s:%u,%.*sshard:%u",
				     (int)element.prefix.length, element.prefix.at,
				     class_name[0] ? ":" : "", class_name, share_milli,
				     (int)element.prefix.length, element.prefix.at, shard_count);
			piece = (struct span){ours, (size_t)length};
			done = true;
		}
		if (used)
			list[used++] = ',';
		memcpy(list + used, piece.at, piece.length);
		used += piece.length;
	}
	list[used] = '\0';
	if (!done) {
		free(list);
		return NULL;
	}
	return list;
}

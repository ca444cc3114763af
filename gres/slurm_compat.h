/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_GRES_SLURM_COMPAT_H
#define DETSHARE_GRES_SLURM_COMPAT_H

/*
 * All differences between releases of Slurm, 22.05 to 26.05, and the few symbols that its daemons and
 * clients export to plugins without declaring them in a public header. A plugin is built for one
 * release: Slurm checks plugin_version and loads no other.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 26.05 names jobs by step ids, and has the calls by job id on demand. */
#ifndef SLURM_BACKWARD_COMPAT
#define SLURM_BACKWARD_COMPAT 1
#endif
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <slurm/spank.h> /* slurm_error and its kind */

#define DS_SLURM_SINCE(major, minor) (SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(major, minor, 0))

#define DS_EXPORT __attribute__((visibility("default")))

/* What every plugin has to export. */
#define DS_SLURM_PLUGIN(type, name)                     \
	DS_EXPORT extern const char plugin_name[];      \
	DS_EXPORT extern const char plugin_type[];      \
	DS_EXPORT extern const uint32_t plugin_version; \
	DS_EXPORT int init(void);                       \
	DS_EXPORT int fini(void);                       \
	const char plugin_name[] = name;                \
	const char plugin_type[] = type;                \
	const uint32_t plugin_version = SLURM_VERSION_NUMBER

/*
 * Slurm's memory: what a plugin hands to Slurm, or frees for it, has to come from here. The
 * allocators end the process when memory is out, or return NULL if `try` is set; slurm_xfree sets
 * the pointer to NULL.
 */
extern void *slurm_xcalloc(size_t count, size_t size, bool clear, bool try, const char *file,
			   int line, const char *function);
extern void *slurm_xrecalloc(void **item, size_t count, size_t size, bool clear, bool try,
			     const char *file, int line, const char *function);
extern void slurm_xfree(void **item);
extern char *slurm_xstrdup(const char *text);

/* Clients: the options of the command line, by the names of the long options. */
struct ds_slurm_options; /* Slurm's slurm_opt_t, which is private */
extern char *slurm_option_get(struct ds_slurm_options *options, const char *name);
extern bool slurm_option_isset(struct ds_slurm_options *options, const char *name);
extern int slurm_option_set(struct ds_slurm_options *options, const char *name, const char *value,
			    bool early);
/* The argument of a SPANK plugin's option, or NULL. Absent where Slurm lacks it: check first. */
extern char *spank_option_get(char *name) __attribute__((weak));

/*
 * slurmctld: a job record, which is private, as the public structure that once made it. Every
 * release from 22.05 to 26.05 has it (federations use it), but none promises it: check first.
 */
struct ds_slurm_job; /* Slurm's job_record_t */
extern job_desc_msg_t *copy_job_record_to_job_desc(struct ds_slurm_job *job) __attribute__((weak));
extern void slurm_free_job_desc_msg(job_desc_msg_t *message) __attribute__((weak));

/* The id of a slurm_job_info_t: inside step_id since 25.11. */
#if DS_SLURM_SINCE(25, 11)
#define DS_JOB_INFO_ID(record) ((record)->step_id.job_id)
#else
#define DS_JOB_INFO_ID(record) ((record)->job_id)
#endif

/* The handle of a host list: a pointer by itself until 23.11. */
#if DS_SLURM_SINCE(23, 11)
typedef hostlist_t *ds_slurm_hostlist_t;
#else
typedef hostlist_t ds_slurm_hostlist_t;
#endif

/* job_modify gained a message for the user in 23.02. */
#if DS_SLURM_SINCE(23, 2)
#define DS_JOB_MODIFY_ERR_MSG         , char **err_msg
#define DS_JOB_MODIFY_ERR_MSG_OR_NULL err_msg
#else
#define DS_JOB_MODIFY_ERR_MSG
#define DS_JOB_MODIFY_ERR_MSG_OR_NULL NULL
#endif

#endif

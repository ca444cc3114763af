/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_COMMAND_COMMAND_H
#define DETSHARE_NODERUNTIME_COMMAND_COMMAND_H

/*
 * The subcommands of `detshare`, one file each. argv[0] is "detshare NAME", which messages begin
 * with. Each returns the exit status: 0, 1 when what was asked could not be done (one line on
 * stderr says why), 2 when it was asked wrongly.
 */
enum { DS_EXIT_FAILURE = 1, DS_EXIT_USAGE = 2 };

int ds_command_status(int argc, char **argv);
int ds_command_plan(int argc, char **argv);
int ds_command_run(int argc, char **argv);

#endif

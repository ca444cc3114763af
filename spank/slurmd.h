/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_SPANK_SLURMD_H
#define DETSHARE_SPANK_SLURMD_H

/*
 * slurmd starts: have the node runtime read the GPUs' topology in the background, so that the first
 * job does not wait for it. Always returns 0: a node without detshare serves its other jobs.
 */
int ds_spank_slurmd_start(int argc, char **argv);

#endif

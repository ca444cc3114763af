/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_NVML_H
#define DETSHARE_COROUTINE_NVML_H

#include <stdbool.h>

/*
 * NVML as the job sees it: the memory of the allocation's GPU is the job's quota, as CUDA says. Two calls of
 * libnvidia-ml, however a program finds them (linked, or dlopen and dlsym as pynvml and nvidia-smi do);
 * all else of NVML, and all other GPUs, stay as they are.
 */

/* What stands in for the function of that name, if `address` is NVML's own; else NULL. */
void *ds_nvml_stand_in(const char *name, void *address);

/* Whether `address` is one of ours; and whether the NVML that the program has loaded has the function. */
bool ds_nvml_is_stand_in(const void *address);
bool ds_nvml_has(const char *name);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_NODERUNTIME_FAULT_CODES_H
#define DETSHARE_NODERUNTIME_FAULT_CODES_H

#include <stdbool.h>
#include <stdint.h>

enum {
	DS_FAULT_TERMINATED =
	    810, /* CUDA_ERROR_MPS_CLIENT_TERMINATED: by us, or by an administrator */
};

/* True for a CUresult after which nothing of the program works. Pure. */
static inline bool ds_fault_is_fatal(uint32_t code)
{
	switch (code) {
	case 214: /* ECC_UNCORRECTABLE */
	case 220: /* NVLINK_UNCORRECTABLE */
	case 700: /* ILLEGAL_ADDRESS */
	case 702: /* LAUNCH_TIMEOUT */
	case 710: /* ASSERT */
	case 714: /* HARDWARE_STACK_ERROR */
	case 715: /* ILLEGAL_INSTRUCTION */
	case 716: /* MISALIGNED_ADDRESS */
	case 717: /* INVALID_ADDRESS_SPACE */
	case 718: /* INVALID_PC */
	case 719: /* LAUNCH_FAILED */
	case 806: /* MPS_RPC_FAILURE: its server is gone */
	case DS_FAULT_TERMINATED:
		return true;
	default:
		return false;
	}
}

#endif

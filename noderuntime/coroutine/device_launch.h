/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DETSHARE_COROUTINE_DEVICE_LAUNCH_H
#define DETSHARE_COROUTINE_DEVICE_LAUNCH_H

#include <stddef.h>

/*
 * Does the code of a module launch kernels itself (dynamic parallelism)? On compute capability 9.x such kernels
 * may use two SMs more than their partition has. Code that does refers to functions of the device runtime by
 * name, in PTX as well as in the symbol table of a cubin.
 */
enum ds_device_launch {
	DS_LAUNCHES_NOTHING,
	DS_LAUNCHES_KERNELS,
	DS_LAUNCHES_UNREAD, /* compressed, too long or of an unknown form: nobody knows */
};

/*
 * Look through an image as the driver takes it: a cubin, a fat binary, its wrapper, or PTX, which ends with
 * its first zero. `size` is that of the memory it is in; SIZE_MAX: the image itself says how long it is, as
 * it does for the driver. Bounded in time: 64 parts of an image, 256 KiB of names or text in each. Pure.
 */
enum ds_device_launch ds_device_launch_look(const void *image, size_t size);

#endif

# SPDX-License-Identifier: Apache-2.0
# Included by every Makefile.am that compiles C.
AM_CPPFLAGS = -I$(top_srcdir) -I$(top_builddir) -D_GNU_SOURCE
AM_CFLAGS = -std=c11 -g $(DS_WARNING_CFLAGS) $(DS_SANITIZER_FLAGS) -fvisibility=hidden
AM_LDFLAGS = $(DS_SANITIZER_FLAGS)

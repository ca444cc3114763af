dnl SPDX-License-Identifier: Apache-2.0
dnl DS_SLURM: find Slurm's public headers and libslurm.
dnl --with-slurm=PREFIX looks in PREFIX/include and PREFIX/lib{,64,/MULTIARCH}; otherwise pkg-config,
dnl then the compiler's own paths.
AC_DEFUN([DS_SLURM], [
  AC_ARG_WITH([slurm],
    [AS_HELP_STRING([--with-slurm=PREFIX], [Slurm's headers and libslurm are below PREFIX])],
    [], [with_slurm=])
  SLURM_CPPFLAGS=
  SLURM_LIBS=-lslurm
  SLURM_CPPFLAGS_SHOWN="system headers"
  ds_slurm_prefix=
  AS_CASE([$with_slurm],
    [no], [AC_MSG_ERROR([--without-slurm: detshare is a set of Slurm plugins and cannot be built without Slurm's headers])],
    [''|yes],
      [PKG_CHECK_EXISTS([slurm],
        [SLURM_CPPFLAGS=`$PKG_CONFIG --cflags-only-I slurm`
         SLURM_LIBS=`$PKG_CONFIG --libs slurm`
         SLURM_CPPFLAGS_SHOWN="pkg-config"])],
    [ds_slurm_prefix=$with_slurm
     ds_slurm_libdir=
     SLURM_CPPFLAGS="-I$with_slurm/include"
     SLURM_CPPFLAGS_SHOWN="$with_slurm/include"
     for ds_dir in "$with_slurm/lib64" "$with_slurm/lib/$host_cpu-$host_os" "$with_slurm/lib"; do
       AS_IF([test -e "$ds_dir/libslurm.so"], [ds_slurm_libdir=$ds_dir; SLURM_LIBS="-L$ds_dir -lslurm"; break])
     done])
  ds_saved_CPPFLAGS=$CPPFLAGS; ds_saved_LIBS=$LIBS
  CPPFLAGS="$CPPFLAGS $SLURM_CPPFLAGS"
  AC_CHECK_HEADER([slurm/slurm.h], [ds_have_slurm=yes], [ds_have_slurm=no])
  AC_CHECK_HEADER([slurm/spank.h], [], [ds_have_slurm=no])
  # Compiler and linker would go on to the system's Slurm, another one than was asked for.
  AS_IF([test -n "$ds_slurm_prefix"],
    [AS_IF([test ! -f "$ds_slurm_prefix/include/slurm/slurm.h"], [ds_have_slurm=no],
       [test -z "$ds_slurm_libdir"],
       [ds_missing="$ds_missing
  libslurm: no libslurm.so below $ds_slurm_prefix/lib and lib64; give --with-slurm=PREFIX where Slurm is installed"])])
  SLURM_VERSION=unknown
  AS_IF([test "$ds_have_slurm" = yes], [
    LIBS="$SLURM_LIBS $LIBS"
    AC_MSG_CHECKING([whether libslurm links])
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <slurm/slurm.h>]], [[return (int)slurm_api_version();]])],
      [AC_MSG_RESULT([yes])],
      [AC_MSG_RESULT([no])
       ds_missing="$ds_missing
  libslurm: $SLURM_LIBS does not link; install the package libslurm-dev, or give --with-slurm=PREFIX"])
    AC_MSG_CHECKING([for Slurm's version])
    AC_COMPUTE_INT([ds_slurm_major], [SLURM_VERSION_MAJOR(SLURM_VERSION_NUMBER)], [[#include <slurm/slurm.h>]])
    AC_COMPUTE_INT([ds_slurm_minor], [SLURM_VERSION_MINOR(SLURM_VERSION_NUMBER)], [[#include <slurm/slurm.h>]])
    AC_COMPUTE_INT([ds_slurm_micro], [SLURM_VERSION_MICRO(SLURM_VERSION_NUMBER)], [[#include <slurm/slurm.h>]])
    SLURM_VERSION=`printf '%d.%02d.%d' "$ds_slurm_major" "$ds_slurm_minor" "$ds_slurm_micro"`
    AC_MSG_RESULT([$SLURM_VERSION])
    AS_IF([test `printf '%d%02d' "$ds_slurm_major" "$ds_slurm_minor"` -lt 2205],
      [ds_missing="$ds_missing
  Slurm: this is version $SLURM_VERSION, but detshare needs 22.05 or newer"])
  ], [ds_missing="$ds_missing
  Slurm: no <slurm/slurm.h> and <slurm/spank.h> (looked in: ${ds_slurm_prefix:-pkg-config and the system's paths}); install the package libslurm-dev, or give --with-slurm=PREFIX"])
  CPPFLAGS=$ds_saved_CPPFLAGS; LIBS=$ds_saved_LIBS
  ds_slurm_option=${ds_slurm_prefix:+--with-slurm=$ds_slurm_prefix}
  AC_SUBST([ds_slurm_option])
  AC_SUBST([SLURM_CPPFLAGS])
  AC_SUBST([SLURM_LIBS])
])

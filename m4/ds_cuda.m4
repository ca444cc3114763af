dnl SPDX-License-Identifier: Apache-2.0
dnl DS_CUDA: find cuda.h. Headers only: the driver is loaded at run time, so that one build works
dnl with and without it.
AC_DEFUN([DS_CUDA], [
  AC_ARG_WITH([cuda],
    [AS_HELP_STRING([--with-cuda=DIR], [cuda.h (12.4 or newer) is in DIR/include or DIR @<:@/usr/local/cuda, then the system's paths@:>@])],
    [], [with_cuda=])
  CUDA_CPPFLAGS=
  CUDA_VERSION_FOUND=unknown
  CUDA_CPPFLAGS_SHOWN="system headers"
  AS_CASE([$with_cuda],
    [no], [AC_MSG_ERROR([--without-cuda: the coroutine library needs the CUDA headers (no driver, no GPU)])],
    [''|yes], [ds_cuda_dirs="/usr/local/cuda/include /usr/include"],
    [ds_cuda_dirs="$with_cuda/include $with_cuda"])
  AC_MSG_CHECKING([for cuda.h])
  ds_cuda_found=
  for ds_dir in $ds_cuda_dirs; do
    AS_IF([test -f "$ds_dir/cuda.h"], [ds_cuda_found=$ds_dir; break])
  done
  AS_IF([test -n "$ds_cuda_found"],
    [CUDA_CPPFLAGS="-isystem $ds_cuda_found"
     CUDA_CPPFLAGS_SHOWN=$ds_cuda_found
     CUDA_VERSION_FOUND=`grep '^#define CUDA_VERSION ' "$ds_cuda_found/cuda.h" | cut -d' ' -f3`
     AC_MSG_RESULT([$ds_cuda_found/cuda.h, version $CUDA_VERSION_FOUND])
     AS_IF([test "${CUDA_VERSION_FOUND:-0}" -lt 12040],
       [ds_missing="$ds_missing
  CUDA headers: $ds_cuda_found/cuda.h is version $CUDA_VERSION_FOUND, but green contexts need 12040 (CUDA 12.4) or newer"])],
    [AC_MSG_RESULT([no])
     ds_missing="$ds_missing
  CUDA headers: no cuda.h in $ds_cuda_dirs; install the CUDA Toolkit; or, for the headers alone, pip install --no-deps --target DIR nvidia-cuda-runtime==13.0.96, and give --with-cuda=DIR/nvidia/cu13"])
  AC_SUBST([CUDA_CPPFLAGS])
  AC_SUBST([ds_cuda_found])
])

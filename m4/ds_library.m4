dnl SPDX-License-Identifier: Apache-2.0
dnl DS_LIBRARY(VARIABLE, pkg-config module, Debian package)
dnl Find a required library; what is missing is added to ds_missing with the package to install.
AC_DEFUN([DS_LIBRARY],
  [PKG_CHECK_MODULES([$1], [$2], [],
    [ds_missing="$ds_missing
  $2: pkg-config knows no module '$2'; install the package $3"])])

#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make ./configure after a fresh clone.
set -e
cd "$(dirname "$0")"
for program in autoconf automake libtoolize; do
	command -v $program >/dev/null ||
		{ echo "autogen.sh: no $program here; install the packages autoconf, automake, libtool and pkg-config" >&2; exit 1; }
done
mkdir -p build-aux
cp "$(automake --print-libdir)/tap-driver.sh" build-aux/
# Half of it made looks like all of it made to whoever looks for ./configure.
trap 'rm -f configure' EXIT
trap 'exit 130' INT TERM
autoreconf --install
trap - EXIT

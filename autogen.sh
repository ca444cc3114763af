#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make ./configure after a fresh clone.
set -e
cd "$(dirname "$0")"
mkdir -p build-aux
cp "$(automake --print-libdir)/tap-driver.sh" build-aux/
exec autoreconf --install

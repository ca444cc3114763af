#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run by `make check` in trees built with sanitizers; elsewhere contrib/check runs test_coroutine.py.
: "${srcdir:=.}" "${top_builddir:=.}" # from automake
for python in /usr/bin/python3 python3; do
	"$python" -c 'import pytest, pytest_timeout' 2>/dev/null && break
	python=
done
if [ -z "$python" ]; then
	echo "SKIP: no python3 with pytest and pytest-timeout"
	exit 77
fi
# Side by side, since they mostly wait, where that can be had.
side_by_side=
"$python" -c 'import xdist' 2>/dev/null && side_by_side='-n 3'
DETSHARE_BUILD=$(cd "$top_builddir" && pwd) || exit 1
export DETSHARE_BUILD
# shellcheck disable=SC2086 # words
exec "$python" -B -m pytest -p no:cacheprovider --timeout=120 -q --tb=short $side_by_side \
	-k '(granted or same_as_alone or threads or fork or destroyed or partition or back or grants or slips or soft or window) and not (moved and not 77)' \
	"$srcdir/../emugpu/test_coroutine.py" "$srcdir/../emugpu/test_graphs.py" \
	"$srcdir/../emugpu/test_ahead.py"

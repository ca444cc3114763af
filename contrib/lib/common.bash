# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What quickstart and check share: messages, packages, CUDA headers. Sourced, never run.

contrib=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
top=$(dirname "$contrib")

# Users other than root run what is built, and read the cluster's configuration.
umask 022

fail()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# plain_path OPTION PATH: make and the shell scripts of a build stumble over blanks and the like.
plain_path()
{
	case $2 in *[!A-Za-z0-9/._+-]*) fail "$1: letters, digits and / . _ + - only: $2" ;; esac
}

# fresh_sources: a build elsewhere would find the Makefiles and config.h of one that was made in the sources.
fresh_sources()
{
	[ ! -e "$top/config.status" ] ||
		fail "$top is configured itself, which stands in the way of builds elsewhere: run 'make distclean' there"
}

# say TEXT: one line of progress, with the seconds since the start.
say()
{
	printf '[%3d s] %s\n' "$SECONDS" "$*"
}

# logged LOG WHAT COMMAND...: run quietly; when it fails, show the end of what it said.
logged()
{
	local log=$1 what=$2
	shift 2
	"$@" >"$log" 2>&1 </dev/null && return 0
	local status=$?
	printf '%s: %s failed (exit %d); the last lines of %s:\n' "${0##*/}" "$what" "$status" "$log" >&2
	tail -n 30 "$log" | sed 's/^/    /' >&2
	return 1
}

# missing_packages LIST...: those named in contrib/packages/LIST.list that are not installed.
missing_packages()
{
	local list name
	for list; do
		while read -r name; do
			case $name in '' | '#'*) continue ;; esac
			[ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] ||
				printf '%s\n' "$name"
		done <"$contrib/packages/$list.list"
	done
}

# install_packages LOG NAME...: by apt-get, without starting the system services that come with them.
install_packages()
{
	local log=$1 policy=/usr/sbin/policy-rc.d made=no status=0
	shift
	[ "$(id -u)" = 0 ] || fail "cannot install the packages $*: not root; use sudo, or install them first"
	if ! [ -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		made=yes
	fi
	{
		apt_get update && apt_get install --no-install-recommends "$@"
	} >"$log" 2>&1 </dev/null || status=$?
	[ $made = no ] || rm -f "$policy"
	if [ $status != 0 ]; then
		tail -n 30 "$log" | sed 's/^/    /' >&2
		fail "apt-get could not install $* (see $log)"
	fi
}

apt_get()
{
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@"
}

# need_packages LOG LIST...: install what is missing.
need_packages()
{
	local log=$1 missing
	shift
	if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
		fail "this is no Debian system; install what contrib/packages/*.list names by hand, then run this on Debian 12 or newer"
	fi
	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} = 0 ] && return 0
	say "installing ${#missing[@]} packages: ${missing[*]}"
	install_packages "$log" "${missing[@]}"
}

# has_cuda_headers DIR: DIR/include/cuda.h or DIR/cuda.h is of CUDA 12.4 or newer.
has_cuda_headers()
{
	local header version
	for header in "$1/include/cuda.h" "$1/cuda.h"; do
		[ -f "$header" ] || continue
		version=$(sed -n 's/^#define CUDA_VERSION \([0-9]*\).*/\1/p' "$header")
		[ "${version:-0}" -ge 12040 ] && return 0
	done
	return 1
}

# fetch_cuda_headers DIR LOG WHEEL: unpack the headers of a Python package of NVIDIA's, NAME==VERSION, into DIR/include.
# Headers only: detshare loads the driver when it runs, so neither toolkit nor GPU is needed to build.
fetch_cuda_headers()
{
	local own=$1 log=$2 wheel=$3
	mkdir -p "$own"
	logged "$log" "downloading $wheel" /usr/bin/python3 -m pip download --no-deps \
		--only-binary=:all: --dest "$own" "$wheel" || return 1
	/usr/bin/python3 - "$own" <<'PYTHON' || return 1
import glob, sys, zipfile
target = sys.argv[1]
for wheel in glob.glob(target + "/nvidia_cuda_runtime*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            _, found, rest = name.partition("/include/")
            if found and not name.endswith("/") and ".." not in rest:
                from pathlib import Path
                path = Path(target, "include", rest)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
PYTHON
	has_cuda_headers "$own"
}

# find_cuda DIR LOG: print where the CUDA headers are; unpack them into DIR when the machine has none.
find_cuda()
{
	local own=$1 log=$2 wheel=nvidia-cuda-runtime==13.0.96 candidate
	for candidate in "${CUDA_HOME:-}" /usr/local/cuda /usr "$own"; do
		[ -n "$candidate" ] || continue
		if has_cuda_headers "$candidate"; then
			printf '%s\n' "$candidate"
			return 0
		fi
	done
	say "no CUDA headers (12.4 or newer) here: fetching those of the Python package $wheel" >&2
	need_packages "$log" cuda >&2
	fetch_cuda_headers "$own" "$log" "$wheel" || fail "$wheel holds no usable cuda.h; install the CUDA Toolkit instead"
	printf '%s\n' "$own"
}

# The toolkits whose headers the table of driver calls is compared with: the oldest and the newest, and between them
# those that brought calls.
toolkits=(
	nvidia-cuda-runtime-cu12=={12.4.99,12.6.37,12.8.57,12.9.79}
	nvidia-cuda-runtime=={13.1.80,13.2.86,13.3.29,13.4.92,13.5.37}
)

# fetch_toolkits DIR LOG: their headers, each in DIR/VERSION/include. What cannot be fetched is not there.
fetch_toolkits()
{
	local own=$1 log=$2 toolkit version
	need_packages "$log" cuda
	for toolkit in "${toolkits[@]}"; do
		version=${toolkit##*==}
		has_cuda_headers "$own/$version" && continue
		fetch_cuda_headers "$own/$version" "$log" "$toolkit" || rm -rf "${own:?}/$version"
	done
}

# autogen LOG: make ./configure when it is missing or older than what it is made from.
autogen()
{
	local newer=none lock
	# quickstart and check may run at the same time.
	exec {lock}<"$top/configure.ac"
	flock "$lock"
	[ ! -x "$top/configure" ] || newer=$(cd "$top" && find . -path './.git' -prune -o \
		\( -name configure.ac -o -name Makefile.am -o -name 'ds_*.m4' -o -name common.mk \) \
		-newer configure -print)
	if [ -n "$newer" ]; then
		say "making configure"
		logged "$1" autogen.sh "$top/autogen.sh" {lock}<&-
	fi
	exec {lock}<&-
}

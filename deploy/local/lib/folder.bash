# shellcheck shell=bash
# The folder of an instance, who owns it, and what it remembers between runs: ports, passwords and its mark.
# Part of deploy/local/services, which sources it.

readonly FALLBACK_ROOT=/var/lib/switchyard-local
readonly LOCK_TIMEOUT_SECONDS=600 # another `up` may be installing packages

# Sets local_dir (where the user looks) and state (where the files are; elsewhere only if the service users cannot get there).
locate() {
    local_dir=$(realpath -m "${SWITCHYARD_LOCAL_DIR:-$here/../../.switchyard}")
    state=$local_dir
    if [ -L "$local_dir/moved-to" ]; then state=$(readlink "$local_dir/moved-to"); fi
    if [ -e "$state" ] && [ ! -O "$state" ]; then
        die "$state belongs to $(stat -c %U "$state"), you are $(id -un): run this as that user, or choose another SWITCHYARD_LOCAL_DIR"
    fi
}

make_folder() {
    mkdir -p "$local_dir"
    [ -O "$local_dir" ] || die "$local_dir belongs to $(stat -c %U "$local_dir"), you are $(id -un)"
    chmod go+x "$local_dir"
}

# Holds the folder until this script ends, and looks again: who held it before may have moved the files.
lock() {
    exec 9>>"$local_dir/lock"
    if ! flock -n 9; then
        say "waiting for another deploy/local/services on $local_dir"
        flock -w "$LOCK_TIMEOUT_SECONDS" 9 || die "still locked after $LOCK_TIMEOUT_SECONDS s: $local_dir/lock"
    fi
    locate
}

# PostgreSQL refuses to run as root, and neither service should: as root each runs as its package's own user.
choose_users() {
    broker_user='' database_user=''
    [ "$(id -u)" -eq 0 ] || return 0
    broker_user=rabbitmq database_user=postgres
    local user
    for user in "$broker_user" "$database_user"; do
        getent passwd "$user" >/dev/null || die "there is no user '$user' to run the service as; run this as an ordinary user instead"
    done
    can_enter "$broker_user" "$local_dir" && can_enter "$database_user" "$local_dir" && return
    move_state
}

can_enter() { as_user "$1" test -x "$2"; }

# Runs a command as the given user, or as the caller when it is empty. setpriv replaces itself, so process ids stay true.
as_user() {
    local user=$1
    shift
    if [ -z "$user" ]; then "$@"; else setpriv --reuid="$user" --regid="$(id -gn "$user")" --init-groups -- "$@"; fi
}

move_state() {
    [ ! -L "$local_dir/moved-to" ] || return 0
    state=$FALLBACK_ROOT/$(printf %s "$local_dir" | sha256sum | cut -c1-16)
    mkdir -p "$state"
    chmod 0755 "$FALLBACK_ROOT"
    chmod 0711 "$state"
    printf '%s\n' "$local_dir" >"$state/belongs-to"
    ln -sfn "$state" "$local_dir/moved-to"
    say "the users rabbitmq and postgres cannot enter $local_dir, so the services live in $state ($local_dir/moved-to points there)"
}

random_hex() { od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n'; }

declare -A remembered=()

recall() {
    remembered=()
    [ -r "$state/instance" ] || return 1
    local key value
    while IFS='=' read -r key value; do remembered[$key]=$value; done <"$state/instance"
}

remember() {
    local key
    (umask 077; for key in "${!remembered[@]}"; do printf '%s=%s\n' "$key" "${remembered[$key]}"; done >"$state/instance.new")
    mv "$state/instance.new" "$state/instance"
}

recall_or_create() {
    recall && return
    local key
    for key in id amqp_password database_password superuser_password cookie; do remembered[$key]=$(random_hex); done
    for key in amqp_port distribution_port epmd_port database_port; do remembered[$key]=$(free_port); done
    remember
}

amqp_url() { printf 'amqp://%s:%s@127.0.0.1:%s/%s' "$NAME" "${remembered[amqp_password]}" "${remembered[$(amqp_key "${1:-1}")]}" "$NAME"; }
management_url() { printf 'http://%s:%s@127.0.0.1:%s' "$NAME" "${remembered[amqp_password]}" "${remembered[management_port]}"; }
database_url() { printf 'postgres://%s:%s@127.0.0.1:%s/%s' "$NAME" "${remembered[database_password]}" "${remembered[database_port]}" "$NAME"; }

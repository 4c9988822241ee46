# shellcheck shell=bash
# Ports and processes: starting detached, knowing our own again, waiting and stopping.
# Part of deploy/local/services, which sources it.

readonly PORT_FIRST=20000 PORT_COUNT=12000 # below the ephemeral range: no outgoing connection takes a remembered port
readonly START_TIMEOUT_SECONDS=90
readonly STOP_TIMEOUT_SECONDS=30
readonly LOG_MAX_BYTES=20000000

port_taken() {
    local hex
    printf -v hex '%04X' "$1"
    # State 0A is LISTEN. There is no tcp6 file where IPv6 is off.
    { cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || true; } |
        awk -v port=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }'
}

free_port() {
    local port
    while :; do
        port=$((PORT_FIRST + RANDOM % PORT_COUNT))
        if ! port_taken "$port" && [[ " ${remembered[*]} " != *" $port "* ]]; then break; fi
    done
    printf %s "$port"
}

# A remembered port may have been taken by a stranger while we were down. `up` moves; the start-* verbs promise not to.
settle_port() {
    local key=$1 may_move=$2 old=${remembered[$1]}
    port_taken "$old" || return 0
    [ "$may_move" = yes ] || die "port $old ($key) is in use by another process"
    # shellcheck disable=SC2004 # an associative array, declared in folder.bash
    remembered[$key]=$(free_port)
    remember
    say "port $old is in use by another process: $key is ${remembered[$key]} from now on (run \`env\` again)"
}

pid_of() { [ -r "$state/$1.pid" ] && cat "$state/$1.pid"; }

# A pid file proves nothing after a crash or a reboot: the process itself must carry this instance's mark.
running() {
    local pid
    pid=$(pid_of "$1") && [ -n "$pid" ] && has_mark "$pid"
}

has_mark() { grep -zqxF "SWITCHYARD_INSTANCE=${remembered[id]:-none}" "/proc/$1/environ" 2>/dev/null; }

# launch NAME USER LOG CMD..: detached, in its own session, with nothing of the caller's environment or descriptors.
launch() {
    local name=$1 user=$2 log=$3 run=()
    shift 3
    rotate "$log"
    rm -f "$state/$name.pid"
    if [ -n "$user" ]; then run=(setpriv "--reuid=$user" "--regid=$(id -gn "$user")" --init-groups --); fi
    local clean=(env -i "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin" LANG=C.UTF-8 "SWITCHYARD_INSTANCE=${remembered[id]}")
    (cd "$state/$name" && SWITCHYARD_INSTANCE=${remembered[id]} exec setsid bash -c "$become" \
        "$state/$name.pid" "${run[@]}" "${clean[@]}" "$@") </dev/null >>"$log" 2>&1 &
}

# The inner shell of launch: drops inherited descriptors (our lock is one), raises the limit of open files (1024 is too few for
# a broker, and Erlang reserves memory for an unlimited one), writes its pid ($0 is the file) and becomes the service.
# shellcheck disable=SC2016 # expanded by the inner shell
readonly become='
    for descriptor in /proc/$$/fd/*; do
        descriptor=${descriptor##*/}
        if [ "$descriptor" -gt 2 ]; then eval "exec $descriptor>&-"; fi
    done
    ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"
    echo "$$" >"$0" && exec "$@"'

rotate() {
    if [ -e "$1" ] && [ "$(stat -c %s "$1")" -gt "$LOG_MAX_BYTES" ]; then mv "$1" "$1.1"; fi
}

# await NAME WHAT CHECK..: until the check succeeds, the process dies, or the time is over.
await() {
    local name=$1 what=$2 deadline=$((SECONDS + START_TIMEOUT_SECONDS)) gone=0
    shift 2
    until "$@"; do
        # While a process replaces itself its environment reads as empty for a moment: believe only repeated absence.
        if [ -s "$state/$name.pid" ] && ! running "$name"; then gone=$((gone + 1)); else gone=0; fi
        if [ "$gone" -ge 3 ]; then fail_start "$name" "$what stopped while starting"; fi
        if [ "$SECONDS" -ge "$deadline" ]; then fail_start "$name" "$what is not ready after $START_TIMEOUT_SECONDS s"; fi
        sleep 0.1
    done
}

fail_start() {
    local log
    for log in $(logs_of "$1"); do
        # One that is older than the start says nothing about it.
        if [ ! -s "$log" ] || [ "$log" -ot "$state/$1.pid" ]; then continue; fi
        printf -- '---- the end of %s\n' "$log" >&2
        tail -n "$LOG_TAIL_LINES" "$log" >&2
    done
    die "$2; the logs are above and in full under $state/$1"
}

# stop NAME SIGNAL: asks, waits, and after the timeout kills. Only ever a process that carries our mark.
stop() {
    local name=$1 signal=$2 pid deadline=$((SECONDS + STOP_TIMEOUT_SECONDS))
    if ! running "$name"; then rm -f "$state/$name.pid"; return 1; fi
    pid=$(pid_of "$name")
    kill "-$signal" "$pid" 2>/dev/null || true
    while has_mark "$pid"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            say "$name did not stop within $STOP_TIMEOUT_SECONDS s: killing process $pid"
            kill -KILL "$pid" 2>/dev/null || true
            deadline=$((SECONDS + STOP_TIMEOUT_SECONDS))
        fi
        sleep 0.05
    done
    rm -f "$state/$name.pid"
}

# shellcheck disable=SC2016 # expanded by the inner shell
reachable() { timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null; }

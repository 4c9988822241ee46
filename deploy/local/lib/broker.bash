# shellcheck shell=bash
# One private RabbitMQ node, and the epmd that all nodes of the instance share. How many there are is in nodes.bash.
# Part of deploy/local/services, which sources it.

# Takes over the folder of one service for the user that it runs as.
own() {
    chmod 0700 "$2"
    if [ -n "$1" ]; then chown -R "$1:" "$2"; fi
}

configure_node() {
    local number=$1 home
    home=$state/$(node_service "$number")
    mkdir -p "$home/log" "$home/mnesia"
    rm -f "$home/.erlang.cookie"
    (umask 077
        printf %s "${remembered[cookie]}" >"$home/.erlang.cookie"
        enabled_plugins "$number" >"$home/enabled_plugins"
        : >"$home/rabbitmq-env.conf"
        broker_settings "$number" >"$home/rabbitmq.conf")
    chmod 0400 "$home/.erlang.cookie"
    own "$broker_user" "$home"
}

broker_settings() {
    cat <<CONF
# Written by deploy/local/services at every start; edits are lost.
listeners.tcp.local = 127.0.0.1:${remembered[$(amqp_key "$1")]}

# Created at the first start instead of guest, which therefore does not exist here.
default_user = $NAME
default_pass = ${remembered[amqp_password]}
default_vhost = $NAME
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
default_user_tags.administrator = true

# 24 h in ms. The default, 30 min, closes the whole channel of a consumer that holds one delivery longer: an agent holds
# the delivery of a step for as long as the step runs, and an apply may well run longer than 30 min.
consumer_timeout = 86400000

# 2 MiB: artifacts travel in parts of 512 KiB, so anything larger is a mistake and is refused at the door.
max_message_size = 2097152

# A developer's machine does other things too; the alarms must come from this node's own use, not from a nearly full disk.
vm_memory_high_watermark.relative = 0.3
disk_free_limit.absolute = ${DISK_ALARM_MEGABYTES}MB

# The write-ahead log of the quorum queues: the default of 512 MB is for servers.
raft.wal_max_size_bytes = 134217728

$(cluster_settings "$1")$(extra_settings "$1")
log.file = broker.log
log.file.level = info
log.file.rotation.size = 20000000
log.file.rotation.count = 2
CONF
}

# Only the first node offers them: its clients are the tests of TLS and of the management API, which need no other.
extra_settings() {
    if [ "$1" = 1 ]; then tls_settings; management_settings; fi
}

enabled_plugins() {
    if [ "$1" = 1 ] && [ -n "${remembered[management_port]:-}" ]; then printf '[rabbitmq_management].\n'; else printf '[].\n'; fi
}

# A listener of its own: the plain one stays, so that a test can compare.
tls_settings() {
    [ -n "${remembered[amqps_port]:-}" ] || return 0
    cat <<CONF

listeners.ssl.local = 127.0.0.1:${remembered[amqps_port]}
ssl_options.cacertfile = $state/broker/tls/ca.pem
ssl_options.certfile = $state/broker/tls/server.pem
ssl_options.keyfile = $state/broker/tls/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true

CONF
    echo
}

management_settings() {
    [ -n "${remembered[management_port]:-}" ] || return 0
    printf '\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %s\n\n' "${remembered[management_port]}"
}

# What this start offers beside the plain listener: decided by the environment, remembered with its ports.
settle_extras() {
    local may_move=$1 home=$state/broker key
    local -A wanted=([amqps_port]=${SWITCHYARD_LOCAL_TLS_DIR:-} [management_port]=${SWITCHYARD_LOCAL_MANAGEMENT:-})
    for key in "${!wanted[@]}"; do
        if [ -z "${wanted[$key]}" ]; then unset "remembered[$key]"; continue; fi
        # shellcheck disable=SC2004 # an associative array, declared in folder.bash
        remembered[$key]=${remembered[$key]:-$(free_port)}
        settle_port "$key" "$may_move"
    done
    remember
    [ -z "${SWITCHYARD_LOCAL_TLS_DIR:-}" ] || copy_certificates "$home/tls" "$broker_user"
}

# Copied, because the service's user may not be able to read the folder that was named.
copy_certificates() {
    local to=$1 user=$2
    mkdir -p "$to"
    cp "$SWITCHYARD_LOCAL_TLS_DIR"/{ca.pem,server.pem,server.key} "$to/"
    chmod 0600 "$to"/*
    own "$user" "$to"
}

# rabbitmqctl of the machine, talking to the first node that lives. Not Debian's wrapper, which changes user and home.
broker_ctl() {
    local home binary number
    binary=$(dirname "$(server_binary)")/rabbitmqctl
    number=$(first_live_node) || die 'the broker is not running: deploy/local/services up'
    home=$state/$(node_service "$number")
    cd "$home" && as_user "$broker_user" env -i "PATH=$PATH:/usr/sbin:/sbin" LANG=C.UTF-8 HOME="$home" \
        ERL_EPMD_PORT="${remembered[epmd_port]}" RABBITMQ_NODENAME="$(node_name "$number")" RABBITMQ_USE_LONGNAME=false \
        RABBITMQ_CONF_ENV_FILE="$home/rabbitmq-env.conf" "$binary" "$@"
}

start_node() {
    local number=$1 may_move=$2 binary service home port
    service=$(node_service "$number") home=$state/$(node_service "$number")
    if running "$service"; then say "$(node_title "$number") already runs (process $(pid_of "$service"))"; return; fi
    binary=$(server_binary) || die 'RabbitMQ is not installed: run deploy/local/services up'
    settle_port "$(amqp_key "$number")" "$may_move"
    settle_port "$(distribution_key "$number")" "$may_move"
    mkdir -p "$home"
    if [ "$number" = 1 ]; then settle_extras "$may_move"; fi
    configure_node "$number"
    start_epmd "$may_move"
    port=${remembered[$(amqp_key "$number")]}
    say "starting $(node_title "$number") on 127.0.0.1:$port, log $home/log/broker.log"
    rm -f "$home/log/startup.log"
    # `detached` makes the script become the Erlang machine instead of waiting for it, so that the recorded pid is the broker's.
    launch "$service" "$broker_user" "$home/log/startup.log" \
        HOME="$home" detached=true ERL_CRASH_DUMP_SECONDS=0 \
        RABBITMQ_NODENAME="$(node_name "$number")" RABBITMQ_USE_LONGNAME=false \
        RABBITMQ_DIST_PORT="${remembered[$(distribution_key "$number")]}" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
        ERL_EPMD_PORT="${remembered[epmd_port]}" ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_CONF_ENV_FILE="$home/rabbitmq-env.conf" RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" \
        RABBITMQ_ADVANCED_CONFIG_FILE="$home/advanced.config" RABBITMQ_GENERATED_CONFIG_DIR="$home/generated" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" RABBITMQ_PLUGINS_EXPAND_DIR="$home/plugins" \
        RABBITMQ_MNESIA_BASE="$home/mnesia" RABBITMQ_LOG_BASE="$home/log" RABBITMQ_PID_FILE="$home/server.pid" \
        "$binary"
}

# The instance's own port mapper: the machine's shared one on 4369 is neither used nor started.
start_epmd() {
    local binary
    running epmd && return
    binary=$(epmd_binary)
    settle_port epmd_port "$1"
    mkdir -p "$state/epmd"
    own "$broker_user" "$state/epmd"
    launch epmd "$broker_user" "$state/epmd/epmd.log" "$binary" -address 127.0.0.1 -port "${remembered[epmd_port]}"
    await epmd epmd reachable 127.0.0.1 "${remembered[epmd_port]}"
}

epmd_binary() {
    local path
    for path in "$(command -v epmd || true)" /usr/bin/epmd /usr/lib/erlang/bin/epmd /usr/lib/erlang/erts-*/bin/epmd; do
        if [ -x "$path" ]; then printf %s "$path"; return; fi
    done
    die 'epmd of Erlang was not found'
}

# Ready means that a client can log in and open the vhost, not that a port answers. One write carries the client's half of the
# AMQP 0-9-1 dialogue (StartOk, TuneOk, Open, Close); OpenOk must come back.
node_ready() {
    local auth start_ok open port=${remembered[$(amqp_key "$1")]}
    local tune_ok=000a001f0001000200000000 # one channel, frames of 128 KiB, no heartbeat
    local close=000a003200c80000000000
    port_taken "$port" || return 1
    auth=00$(to_hex "$NAME")00$(to_hex "${remembered[amqp_password]}")
    start_ok=000a000b0000000005$(to_hex PLAIN)$(printf %08x $((${#auth} / 2)))${auth}05$(to_hex en_US)
    open=000a0028$(printf %02x ${#NAME})$(to_hex "$NAME")0000
    amqp_opens "$port" "$(frame "$start_ok")$(frame "$tune_ok")$(frame "$open")$(frame "$close")"
}

to_hex() { printf %s "$1" | od -An -v -tx1 | tr -d ' \n'; }
frame() { printf '010000%08x%sce' $((${#1} / 2)) "$1"; }

# Sends the given frames (hexadecimal) to a port after the protocol header, and succeeds when OpenOk is among the answers.
amqp_opens() {
    local connection answer opened=1 LC_ALL=C
    { exec {connection}<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    # shellcheck disable=SC2001 # every pair of digits gets its own escape
    printf '%b' 'AMQP\x00\x00\x09\x01' "$(sed 's/../\\x&/g' <<<"$2")" >&"$connection"
    # A frame ends with the byte CE. `read` drops zero bytes: of OpenOk's head (type 1, size 5, method 10.41) these four remain.
    while [ "$opened" -ne 0 ] && IFS= read -r -t 5 -d $'\xce' answer <&"$connection"; do
        if [ "$answer" = $'\x01\x05\x0a\x29' ]; then opened=0; fi
    done
    exec {connection}>&-
    return "$opened"
}

stop_node() {
    local number=$1 signal=$2
    if stop "$(node_service "$number")" "$signal"; then say "$(node_title "$number") stopped ($signal)"
    else say "$(node_title "$number") does not run"
    fi
}

# shellcheck shell=bash
# The broker as one node or a cluster of three: what each node is called, and what is done to one or all of them.
# Part of deploy/local/services, which sources it.

readonly CLUSTER_NODES=3 # an odd number, so that a majority is left when one is lost

broker_nodes() { printf %s "${remembered[broker_nodes]:-1}"; }

# The first node has the names that the only node of an instance always had.
node_service() { if [ "$1" = 1 ]; then printf broker; else printf 'broker%s' "$1"; fi; }
node_name() { if [ "$1" = 1 ]; then printf '%s@localhost' "$NAME"; else printf '%s%s@localhost' "$NAME" "$1"; fi; }
node_title() { if [ "$(broker_nodes)" = 1 ]; then printf RabbitMQ; else printf 'RabbitMQ %s' "$1"; fi; }
amqp_key() { if [ "$1" = 1 ]; then printf amqp_port; else printf 'amqp_port_%s' "$1"; fi; }
distribution_key() { if [ "$1" = 1 ]; then printf distribution_port; else printf 'distribution_port_%s' "$1"; fi; }

# Decides how many nodes an instance has when it is first started, and draws their ports. Its number never changes: the queues of one
# that grew would keep the members that they have.
settle_nodes() {
    local wanted=${SWITCHYARD_LOCAL_BROKER_NODES:-$(broker_nodes)} number key
    case $wanted in
        1 | "$CLUSTER_NODES") ;;
        *) die "SWITCHYARD_LOCAL_BROKER_NODES is $wanted: 1 or $CLUSTER_NODES" ;;
    esac
    if [ "$wanted" = "$(broker_nodes)" ]; then return; fi
    [ ! -e "$state/broker/mnesia" ] ||
        die "this instance has $(broker_nodes) broker node(s), not $wanted: reset it first, or choose another SWITCHYARD_LOCAL_DIR"
    remembered[broker_nodes]=$wanted
    for ((number = 2; number <= wanted; number++)); do
        # shellcheck disable=SC2004 # an associative array, declared in folder.bash
        for key in "$(amqp_key "$number")" "$(distribution_key "$number")"; do remembered[$key]=$(free_port); done
    done
    remember
}

# Only the nodes after the first look for a cluster, and only at the first one, which is up by then: none can found a second cluster.
# A minority stops serving, as is usual where there are three: its clients must go to the majority.
cluster_settings() {
    [ "$(broker_nodes)" != 1 ] || return 0
    printf '\ncluster_partition_handling = pause_minority\n'
    [ "$1" != 1 ] || return 0
    cat <<CONF
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = $(node_name 1)
cluster_formation.classic_config.nodes.2 = $(node_name "$1")
CONF
}

first_live_node() {
    local number
    for ((number = 1; number <= $(broker_nodes); number++)); do
        if running "$(node_service "$number")"; then printf %s "$number"; return; fi
    done
    return 1
}

any_node_running() { first_live_node >/dev/null; }

all_nodes_running() {
    local number
    for ((number = 1; number <= $(broker_nodes); number++)); do running "$(node_service "$number")" || return 1; done
}

# The numbers that a verb is about: the given one, or all.
nodes_meant() {
    case ${1:-} in
        '') seq "$(broker_nodes)" ;;
        [1-9]) [ "$1" -le "$(broker_nodes)" ] || die "there is no broker node $1: this instance has $(broker_nodes)"; echo "$1" ;;
        *) die "not the number of a broker node: $1" ;;
    esac
}

# Launches all nodes, without waiting for them but where one can only join another that is up. Nodes that were a cluster before start
# side by side: each waits for the others.
start_broker() {
    local may_move=$1 number
    start_node 1 "$may_move"
    if [ "$(broker_nodes)" != 1 ] && [ ! -e "$state/$(node_service "$CLUSTER_NODES")/mnesia" ]; then await_node 1; fi
    for ((number = 2; number <= $(broker_nodes); number++)); do start_node "$number" "$may_move"; done
}

await_broker() {
    local number
    for ((number = 1; number <= $(broker_nodes); number++)); do await_node "$number"; done
}

await_node() { await "$(node_service "$1")" "$(node_title "$1")" node_ready "$1"; }

# All at once: a node that is left alone for a moment would stop serving and start again.
stop_broker() {
    local signal=$1 numbers number pids=()
    numbers=$(nodes_meant "${2:-}")
    for number in $numbers; do
        stop_node "$number" "$signal" &
        pids+=("$!")
    done
    wait "${pids[@]}"
}

describe_broker() {
    local number failed=0
    for ((number = 1; number <= $(broker_nodes); number++)); do
        describe "$(node_service "$number")" "$(node_title "$number")" "${remembered[$(amqp_key "$number")]}" node_ready "$number" || failed=1
    done
    return "$failed"
}

broker_logs() {
    local number
    for ((number = 1; number <= $(broker_nodes); number++)); do logs_of "$(node_service "$number")" | head -1; done
}

# The URL of every node, for clients that can be given more than one.
amqp_urls() {
    local number urls=()
    for ((number = 1; number <= $(broker_nodes); number++)); do urls+=("$(amqp_url "$number")"); done
    (IFS=,; printf %s "${urls[*]}")
}

# shellcheck shell=bash
# Services of the user's own, named by URLs in the environment.
# Part of deploy/local/services, which sources it.

url_of() {
    local direct=$1 file=$1_FILE
    if [ -n "${!direct:-}" ]; then printf %s "${!direct}"
    elif [ -n "${!file:-}" ]; then tr -d '\n' <"${!file}"
    fi
}

# True when the environment names services of the user's own. Our own URLs do not count: `eval "$(services env)"` sets them.
external() {
    [ -z "${SWITCHYARD_LOCAL_DIR:-}" ] || return 1
    local amqp database
    amqp=$(url_of SWITCHYARD_AMQP_URL)
    database=$(url_of SWITCHYARD_DATABASE_URL)
    [ -n "$amqp$database" ] || return 1
    if recall && [ "$amqp" = "$(amqp_url)" ] && [ "$database" = "$(database_url)" ]; then return 1; fi
    if [ -z "$amqp" ] || [ -z "$database" ]; then
        die 'only one of SWITCHYARD_AMQP_URL and SWITCHYARD_DATABASE_URL is set: set both to use services of your own, or neither'
    fi
}

# Prints host and port of a URL; the password may contain anything but "/" and "@" after the last "@" ends the user part.
host_and_port() {
    local url=$1 rest host port
    rest=${url#*://} rest=${rest%%[/?]*} rest=${rest##*@}
    host=${rest%:*} port=${rest##*:}
    if [[ "$rest" != *:* || "$rest" == *']' ]]; then
        host=$rest
        case $url in amqps:*) port=5671 ;; amqp:*) port=5672 ;; *) port=5432 ;; esac
    fi
    host=${host#[} host=${host%]}
    printf '%s %s' "$host" "$port"
}

check_external() {
    local name host port failed=0
    for name in SWITCHYARD_AMQP_URL SWITCHYARD_DATABASE_URL; do
        read -r host port < <(host_and_port "$(url_of "$name")") || true
        if reachable "$host" "$port"; then say "external service of $name: $host:$port can be reached"
        else say "external service of $name: $host:$port cannot be reached"; failed=1
        fi
    done
    return "$failed"
}

# shellcheck shell=bash
# The private PostgreSQL cluster.
# Part of deploy/local/services, which sources it.

readonly SOCKET_FOLDER_MAX_BYTES=85 # a socket path may have 107 bytes, and the name of the socket is added

# Built beside and renamed: an interrupted first start leaves nothing half made.
create_cluster() {
    local home=$state/database bin=$1
    [ ! -e "$home/data/PG_VERSION" ] || return 0
    say "creating a PostgreSQL $("$bin/postgres" --version | grep -o '[0-9][0-9.]*' | head -1) cluster in $home/data"
    rm -rf "$home/new" "$home/data"
    (umask 077; printf '%s\n' "${remembered[superuser_password]}" >"$home/password")
    own "$database_user" "$home"
    (cd "$home" && as_user "$database_user" "$bin/initdb" -D "$home/new" --username=postgres --pwfile="$home/password" \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-instructions >"$home/initdb.log" 2>&1) ||
        { tail -n "$LOG_TAIL_LINES" "$home/initdb.log" >&2; die "initdb failed, see $home/initdb.log"; }
    rm -f "$home/password"
    # Relative, so that a checkout can be moved.
    printf "\ninclude = '../switchyard.conf'\n" >>"$home/new/postgresql.conf"
    create_role "$bin" || { tail -n "$LOG_TAIL_LINES" "$home/initdb.log" >&2; die "creating the role failed, see $home/initdb.log"; }
    mv "$home/new" "$home/data"
}

# Without a server, hence before anyone can connect. The role may create databases (tests make one each) and nothing more.
create_role() {
    local home=$state/database bin=$1
    database_settings >"$home/switchyard.conf"
    own "$database_user" "$home"
    # The password is part of a statement, and a failing statement would be logged.
    cd "$home" && as_user "$database_user" "$bin/postgres" --single -D "$home/new" -c log_min_error_statement=panic \
        -c exit_on_error=on template1 >/dev/null 2>>"$home/initdb.log" <<SQL
CREATE ROLE $NAME LOGIN CREATEDB PASSWORD '${remembered[database_password]}';
CREATE DATABASE $NAME OWNER $NAME;
SQL
}

database_settings() {
    local sockets=$state/database/socket
    if [ "${#sockets}" -gt "$SOCKET_FOLDER_MAX_BYTES" ]; then sockets=''; fi
    cat <<CONF
# Written by deploy/local/services at every start; edits are lost.
listen_addresses = '127.0.0.1'
port = ${remembered[database_port]}
# Empty when the path of this folder is too long for a socket.
unix_socket_directories = '${sockets//\'/\'\'}'
unix_socket_permissions = 0700
password_encryption = scram-sha-256
max_connections = 200

# Tests must see what production sees: a commit that was confirmed survives a SIGKILL.
fsync = on
synchronous_commit = on
full_page_writes = on

$(database_tls_settings)
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d %a '
log_lock_waits = on
CONF
}

# The same port as without: PostgreSQL takes both on one.
database_tls_settings() {
    [ -n "${SWITCHYARD_LOCAL_TLS_DIR:-}" ] || return 0
    cat <<CONF
ssl = on
ssl_ca_file = '$state/database/tls/ca.pem'
ssl_cert_file = '$state/database/tls/server.pem'
ssl_key_file = '$state/database/tls/server.key'
hba_file = '$state/database/pg_hba.conf'
CONF
}

# Over TLS only with a certificate of the CA; without TLS as ever.
database_tls() {
    local home=$state/database
    [ -n "${SWITCHYARD_LOCAL_TLS_DIR:-}" ] || return 0
    copy_certificates "$home/tls" "$database_user"
    cat >"$home/pg_hba.conf" <<'HBA'
local     all all              scram-sha-256
hostssl   all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostnossl all all 127.0.0.1/32 scram-sha-256
HBA
}

# Server processes that outlive a killed postmaster still hold the data: PostgreSQL will not start beside them.
orphans() {
    local link pid
    while read -r link; do
        pid=${link#/proc/} pid=${pid%/cwd}
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = postgres ]; then printf '%s\n' "$pid"; fi
    done < <(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$state/database/data" 2>/dev/null)
}

clear_orphans() {
    local deadline=$((SECONDS + STOP_TIMEOUT_SECONDS)) pid
    while [ -n "$(orphans)" ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then for pid in $(orphans); do kill -KILL "$pid" 2>/dev/null || true; done; fi
        sleep 0.05
    done
    # With no server process on the data the lock files are stale; after a reboot their pid may be anyone's and stop the start.
    rm -f "$state/database/data/postmaster.pid" "$state/database/socket/".s.PGSQL.*
}

start_database() {
    local may_move=$1 home=$state/database bin
    if running database; then say "PostgreSQL already runs (process $(pid_of database))"; return; fi
    bin=$(postgres_bin) || die 'PostgreSQL is not installed: run deploy/local/services up'
    mkdir -p "$home/socket"
    create_cluster "$bin"
    clear_orphans
    settle_port database_port "$may_move"
    database_settings >"$home/switchyard.conf"
    database_tls
    own "$database_user" "$home"
    say "starting PostgreSQL on 127.0.0.1:${remembered[database_port]}, log $home/postgresql.log"
    launch database "$database_user" "$home/postgresql.log" HOME="$home" "$bin/postgres" -D "$home/data"
}

database_ready() {
    port_taken "${remembered[database_port]}" &&
        PGPASSWORD=${remembered[database_password]} PGCONNECT_TIMEOUT=5 "$(postgres_bin)/psql" -XAtq -h 127.0.0.1 \
            -p "${remembered[database_port]}" -U "$NAME" -d "$NAME" -c 'SELECT 1' >/dev/null 2>&1
}

stop_database() {
    if stop database "$1"; then say "PostgreSQL stopped ($1)"; else say 'PostgreSQL does not run'; fi
    clear_orphans
}

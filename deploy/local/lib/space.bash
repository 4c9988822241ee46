# shellcheck shell=bash
# How much room the disk has. RabbitMQ takes nothing from publishers when there is little, and says so only to those who ask it:
# everything then looks as if it hung.
# Part of deploy/local/services, which sources it.

readonly DISK_ALARM_MEGABYTES=100   # below this RabbitMQ blocks every publisher (disk_free_limit)
readonly DISK_LEAST_MEGABYTES=500   # to start at all: an empty broker and an empty database take about 200
readonly DISK_ENOUGH_MEGABYTES=2000 # for the data of every test, with the write-ahead logs of both

free_megabytes() { df --output=avail --block-size=1M "$1" | tail -n 1 | tr -d ' '; }

# Before something is started. Takes the folder that it will write to.
check_space() {
    local free
    free=$(free_megabytes "$1")
    [ "$free" -ge "$DISK_LEAST_MEGABYTES" ] ||
        die "the disk of $1 has $free MB left, at least $DISK_LEAST_MEGABYTES are needed: RabbitMQ takes nothing from publishers below $DISK_ALARM_MEGABYTES. Delete something (cargo clean, deploy/local/services reset), or set SWITCHYARD_LOCAL_DIR to a folder on another disk"
    [ "$free" -ge "$DISK_ENOUGH_MEGABYTES" ] ||
        say "warning: the disk of $1 has $free MB left; below $DISK_ALARM_MEGABYTES RabbitMQ takes nothing from publishers"
}

# After something failed: a full disk has many faces, and none of them says so.
explain_space() {
    local free
    free=$(free_megabytes "$1")
    [ "$free" -ge "$DISK_ENOUGH_MEGABYTES" ] ||
        say "the disk of $1 has only $free MB left, which may be why: below $DISK_ALARM_MEGABYTES RabbitMQ takes nothing from publishers, and PostgreSQL needs room too"
}

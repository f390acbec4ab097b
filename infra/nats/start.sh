#!/bin/sh
# Copies the log's files, then runs nats-server: when it starts, it deletes a stream that it cannot read (one damaged
# block is enough, or a wrong key) and truncates the newest block where a checksum is wrong. See ../runbooks/log-missing.md.
#
#   start.sh --config FILE …
#
# NATS_DATA is the folder of `store_dir` (/data), NATS_MONITOR_PORT the port of `http` (8222).
# DATA/kept has the blocks from before this start: hard links, which cost nothing, and copies of the newest.
# DATA/damaged has the blocks that the previous start lost.
#
# After a failed write (a full disk), the stream accepts no event until the server restarts. So the server is ended
# once there is space again, and the container's restart policy starts it: see ../runbooks/disk-full.md.
set -eu

data=${NATS_DATA:-/data}
kept=$data/kept
room_kib=65536

sealed() { [ "$(head -c 3 "$1" | tr -d '\0')" = cmp ]; }

lost() {
    [ -e "$2" ] || return 0
    # A block that was sealed meanwhile is shorter, and complete.
    [ "$(wc -c <"$2")" -lt "$(wc -c <"$1")" ] && { sealed "$1" || ! sealed "$2"; }
}

if [ -d "$kept" ]; then
    found=$(cd "$kept" && find . -name '*.blk' | while read -r file; do
        if lost "$kept/$file" "$data/jetstream/$file"; then echo "$file"; fi
    done)
    if [ -n "$found" ]; then
        mkdir -p "$data/damaged"
        mv "$kept" "$data/damaged/$(date -u +%Y%m%dT%H%M%SZ)"
        echo "nats-server deleted or cut these blocks at its last start; as they were, they are in $data/damaged: $found" >&2
    else
        rm -rf "$kept"
    fi
fi

if [ -d "$data/jetstream" ]; then
    # Atomic: a start that is killed here leaves nothing that looks like copies.
    rm -rf "$kept.new"
    mkdir -p "$kept.new"
    (cd "$data/jetstream" && find . -path '*/streams/*' \( -name '*.blk' -o -name 'meta.*' -o -name '*.key' \) ! -path '*/obs/*') |
        while read -r file; do
            mkdir -p "$kept.new/$(dirname "$file")"
            if sealed "$data/jetstream/$file"; then
                ln "$data/jetstream/$file" "$kept.new/$file"
            else
                cp -p "$data/jetstream/$file" "$kept.new/$file"
            fi
        done
    mv "$kept.new" "$kept"
fi

health() {
    if command -v nc >/dev/null; then
        printf 'GET /healthz HTTP/1.0\r\n\r\n' | nc -w 2 127.0.0.1 "${NATS_MONITOR_PORT:-8222}"
    else
        wget -q --content-on-error -O - "http://127.0.0.1:${NATS_MONITOR_PORT:-8222}/healthz"
    fi 2>/dev/null
}

watch() {
    while sleep 2 && kill -0 "$1" 2>/dev/null; do
        case $(health) in *"write error"*)
            if [ "$(df -Pk "$data" | awk 'NR == 2 { print $4 }')" -gt "$room_kib" ]; then
                echo "nats-server could not write, and there is space again: ending it so that it is restarted" >&2
                kill -TERM "$1"
                return
            fi ;;
        esac
    done
}

watch $$ &
exec nats-server "$@"

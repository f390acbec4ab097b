#!/bin/sh
# Keeps the log's files, then becomes nats-server: a start of it deletes a stream that it cannot read (one damaged block
# is enough, or a wrong key) and cuts a newest block whose content does not check. See ../runbooks/log-missing.md.
#
#   start.sh --config FILE …        (NATS_DATA: the folder of `store_dir`, /data unless said)
#
# DATA/kept holds the blocks as they were before this start: hard links, which cost nothing, and copies of the newest.
# What the start before has lost is in DATA/damaged.
set -eu

data=${NATS_DATA:-/data}
kept=$data/kept

sealed() { [ "$(head -c 3 "$1" | tr -d '\0')" = cmp ]; }

lost() {
    [ -e "$2" ] || return 0
    # A block that was sealed meanwhile is shorter, and whole.
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
    # Whole or not at all: a start that is killed here leaves nothing that looks like copies.
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

exec nats-server "$@"

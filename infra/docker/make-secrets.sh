#!/bin/sh
# Creates random passwords, once, and writes for each container only what it needs: infra/docker/secrets/*.env, mode 0600.
# Never overwrites: the password of an existing volume cannot be changed by writing another one here.
set -eu
umask 077
folder="${1:-$(dirname "$0")/secrets}"
if [ -e "$folder" ]; then
    echo "$folder is there already; nothing was changed" >&2
    exit 1
fi

# Begins with a letter: the broker parses a variable as configuration syntax, where digits are a number.
password() {
    printf 'p%s' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"
}

administrator=$(password)
projector=$(password)
reply=$(password)
gateway=$(password)
author=$(password)
server=$(password)
superuser=$(password)
database=$(password)

making="$folder.new"
rm -rf "$making"
mkdir -p "$making"

# addresses USER PASSWORD: a user's address at each server of the cluster.
addresses() {
    printf 'nats://%s:%s@nats:4222,nats://%s:%s@nats-2:4222,nats://%s:%s@nats-3:4222' "$1" "$2" "$1" "$2" "$1" "$2"
}
postgres="postgres://refold:$database@postgres:5432/refold"

cat > "$making/nats.env" <<END
NATS_ADMINISTRATOR_PASSWORD=$administrator
NATS_PROJECTOR_PASSWORD=$projector
NATS_REPLY_PASSWORD=$reply
NATS_GATEWAY_PASSWORD=$gateway
NATS_AUTHOR_PASSWORD=$author
END
cat > "$making/nats.cluster.env" <<END
NATS_SERVER_PASSWORD=$server
NATS_ROUTES=["nats://server:$server@nats:6222", "nats://server:$server@nats-2:6222", "nats://server:$server@nats-3:6222"]
END
cat > "$making/postgres.env" <<END
POSTGRES_PASSWORD=$superuser
DATABASE_PASSWORD=$database
END
cat > "$making/projector.env" <<END
REFOLD_NATS_URL=nats://projector:$projector@nats:4222
REFOLD_NATS_REPLY_URL=nats://reply:$reply@nats:4222
REFOLD_NATS_ADMIN_URL=nats://administrator:$administrator@nats:4222
REFOLD_POSTGRES_URL=$postgres
END
cat > "$making/projector.cluster.env" <<END
REFOLD_NATS_URL=$(addresses projector "$projector")
REFOLD_NATS_REPLY_URL=$(addresses reply "$reply")
REFOLD_NATS_ADMIN_URL=$(addresses administrator "$administrator")
END
cat > "$making/gateway.env" <<END
REFOLD_NATS_URL=nats://gateway:$gateway@nats:4222
REFOLD_POSTGRES_URL=$postgres
END
cat > "$making/gateway.cluster.env" <<END
REFOLD_NATS_URL=$(addresses gateway "$gateway")
END
# For clients that publish from this machine; no container reads it.
cat > "$making/author.env" <<END
NATS_URL=nats://author:$author@127.0.0.1:4222
END
mv "$making" "$folder"
echo "made $folder"

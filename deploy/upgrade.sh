#!/bin/sh
# Upgrade the service of docker-compose.yml. Callbacks meanwhile wait in the proxy. Everything that takes long is done
# while the old version still serves, and if that fails, it goes on.
set -eu
cd "$(dirname "$0")/.."

docker compose build app
# `--no-deps`, because `run` would also start the database anew if its image or its settings have changed, and `up`
# would first stop the service, and then migrate once more.
docker compose run --rm --no-deps migrate
docker compose up -d --no-deps --wait --wait-timeout 120 app

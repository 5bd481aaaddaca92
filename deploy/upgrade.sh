#!/bin/sh
# Upgrade the service of docker-compose.yml. Callbacks meanwhile wait in the proxy; whatever fails, the old version
# goes on. Everything that takes long is done while it still serves.
set -eu
cd "$(dirname "$0")/.."

docker compose build app
docker compose run --rm migrate
# `--no-deps`, because `up` would first stop the service, and then migrate once more.
docker compose up -d --no-deps --wait --wait-timeout 120 app

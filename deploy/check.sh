#!/usr/bin/env bash
# Checks of deploy/ that need no Docker engine: the compose file, .env.example, and the RUN lines of
# the Dockerfile, executed in a clean folder. The last line is the number of failures.
# With CHECK_DATABASE_URL=postgres://… it also starts the result: the health probe of the image must
# pass, and SIGTERM must end the service with exit code 0.
# With a Docker engine, `docker compose up --build --wait` checks more.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

failed=0
passed() { echo "ok       $1"; }
failure() { echo "FAILED   $1"; failed=$((failed + 1)); }
skipped() { echo "skipped  $1"; }
# expect WHAT COMMAND…: the command must succeed. Its output is shown only on failure.
expect() {
  local what=$1 out
  shift
  if out=$("$@" 2>&1); then passed "$what"; else failure "$what"; head -n 15 <<<"$out" | sed 's/^/         /'; fi
}
expect_not() {
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then failure "$what"; else passed "$what"; fi
}

work=$(mktemp -d)
server=
cleanup() {
  [ -z "$server" ] || kill "$server" 2>/dev/null
  rm -rf "$work"
}
trap cleanup EXIT

echo "== docker-compose.yml"
if docker compose version >/dev/null 2>&1; then compose=(docker compose); elif command -v docker-compose >/dev/null; then compose=(docker-compose); else compose=(); fi
if [ ${#compose[@]} -eq 0 ]; then
  skipped "compose config: compose is not installed"
else
  : >"$work/empty.env"
  secrets=(POSTGRES_PASSWORD REDIS_PASSWORD RABBITMQ_PASSWORD REDISINSIGHT_KEY)
  all=("${secrets[@]/%/=0f}")
  with() { env -i PATH="$PATH" HOME="$HOME" "$@"; }
  config=("${compose[@]}" --env-file "$work/empty.env" -f docker-compose.yml config -q)
  expect "the compose file is valid (${compose[*]})" with "${all[@]}" "${config[@]}"
  for secret in "${secrets[@]}"; do
    expect_not "compose rejects the file without $secret" with "${all[@]/$secret=*/X=}" "${config[@]}"
  done
fi
expect_not "every image has an exact version" grep -nE '^ *image: *[^ ]+$' <(grep -vE 'image: *(holdfast:local|[a-z/]+:[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z]+)?)$' docker-compose.yml)
expect_not "every port is bound to 127.0.0.1" grep -nE '^ +- ["'\'']?(0\.0\.0\.0|\$\{[A-Z_]+:-[0-9]+\}|[0-9]+):' docker-compose.yml

echo "== .env.example"
if [ -f src/config.ts ]; then
  names=$(sed -n '/^const VARIABLES = {/,/^};/s/^  \([A-Z][A-Z0-9_]*\):.*/\1/p' src/config.ts)
  [ -n "$names" ] || failure "src/config.ts: no table of variables found"
  for name in $names; do grep -q "^$name=" .env.example || failure ".env.example lacks $name"; done
  known=$(printf '%s\n' "$names" POSTGRES_PASSWORD REDIS_PASSWORD RABBITMQ_PASSWORD REDISINSIGHT_KEY)
  while read -r name; do
    grep -qx "$name" <<<"$known" || failure ".env.example has $name, which the service does not read"
  done < <(sed -n 's/^\([A-Z][A-Z0-9_]*\)=.*/\1/p' .env.example)
  [ $failed -ne 0 ] || passed "it names exactly the variables that the service reads"
else
  skipped ".env.example: src/config.ts does not exist"
fi

echo "== deploy/Dockerfile, its RUN lines in a clean clone of HEAD"
install=(npm ci --ignore-scripts)
production=(npm ci --omit=dev --ignore-scripts)
unused=(rm -rf node_modules/typescript node_modules/.bin/tsc node_modules/.bin/tsserver)
for line in "${install[*]}" 'npm run build' "${production[*]}" "${unused[*]}"; do expect "the Dockerfile still runs: ${line:0:60}" grep -qF -- "$line" deploy/Dockerfile; done

git clone -q --no-hardlinks . "$work/clone" && mkdir "$work/build" "$work/app"
# The paths that .dockerignore allows.
sed -n 's/^!//p' .dockerignore | while read -r path; do [ ! -e "$work/clone/$path" ] || cp -R "$work/clone/$path" "$work/build/"; done
expect "${install[*]}" env -C "$work/build" "${install[@]}"
expect "npm run build" env -C "$work/build" npm run build
cp "$work/build/package.json" "$work/build/package-lock.json" "$work/app/"
[ ! -e "$work/build/.npmrc" ] || cp "$work/build/.npmrc" "$work/app/"
expect "${production[*]}" env -C "$work/app" "${production[@]}"
(cd "$work/app" && "${unused[@]}")
[ ! -d "$work/build/dist" ] || cp -R "$work/build/dist" "$work/app/"
for name in embedded-postgres typescript jest eslint @nestjs/cli @swc/core playwright-core; do
  expect_not "production has no $name" test -e "$work/app/node_modules/$name"
done
expect_not "production has no PostgreSQL binary" grep -q . <(find "$work/app" -type f \( -name postgres -o -name initdb \))
echo "         production node_modules: $(du -sm "$work/app/node_modules" | cut -f1) MB, dist: $(du -sm "$work/app/dist" 2>/dev/null | cut -f1) MB"

entry=dist/main.js
if [ ! -f "$work/app/$entry" ]; then
  failure "$entry exists"
else
  chmod -R a+rX "$work"
  # As in the image: an empty environment, another user when started by root, the same command.
  as=(env -i -C "$work/app" PATH="$PATH" HOME=/tmp NODE_ENV=production HOST=127.0.0.1)
  [ "$(id -u)" -ne 0 ] || as+=(setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs)
  run=(node --enable-source-maps "$entry")

  out=$("${as[@]}" env PORT=0 timeout 30 "${run[@]}" 2>&1)
  code=$?
  if [ $code -ne 0 ] && [ $code -ne 124 ] && grep -q DATABASE_URL <<<"$out" && ! grep -qE 'ERR_MODULE_NOT_FOUND|^ +at ' <<<"$out"; then
    passed "without DATABASE_URL startup fails and names the variable"
  else
    failure "without DATABASE_URL startup fails, names the variable and shows no stack (exit code $code)"
    head -n 15 <<<"$out" | sed 's/^/         /'
  fi

  if [ -n "${CHECK_DATABASE_URL:-}" ]; then
    port=$((20000 + RANDOM % 20000))
    "${as[@]}" env PORT="$port" DATABASE_URL="$CHECK_DATABASE_URL" "${run[@]}" >"$work/server.log" 2>&1 &
    server=$!
    probe=$(sed -n 's/^ *CMD \["node", "-e", "\(.*\)"\]$/\1/p' deploy/Dockerfile)
    alive=1
    for _ in $(seq 60); do
      PORT=$port node -e "$probe" && alive=0 && break
      kill -0 "$server" 2>/dev/null || break
      sleep 0.5
    done
    expect "the service starts, and the probe of the image passes" test $alive -eq 0
    kill -TERM "$server" 2>/dev/null
    wait "$server"
    code=$?
    server=
    expect "SIGTERM ends the service with exit code 0 (got $code)" test $code -eq 0
    if [ $alive -ne 0 ] || [ $code -ne 0 ]; then head -n 15 "$work/server.log" | sed 's/^/         /'; fi
  else
    skipped "start and stop: CHECK_DATABASE_URL is not set"
  fi
fi

echo "== $failed failed"
exit $((failed > 0))

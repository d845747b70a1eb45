# shellcheck shell=bash
# What the machine must have, installed, fetched or built once: a part of tests/run, which sources it.
# shellcheck disable=SC2154 # variables of tests/run

lacking() { ! command -v "$1" >/dev/null 2>&1; }

# Names the Debian packages of everything that is not there.
missing_packages() {
  # librdkafka's configure script asks for a C++ compiler, too.
  if lacking cc || lacking c++ || lacking make || lacking perl; then echo build-essential perl; fi
  if lacking pkg-config; then echo pkg-config libssl-dev; elif ! pkg-config --exists openssl; then echo libssl-dev; fi
  if [ "$fast" = true ]; then return 0; fi
  if [ -z "${SLUICE_TEST_MYSQL_URL:-}" ] && lacking mariadbd && [ ! -x /usr/sbin/mariadbd ]; then
    echo mariadb-server
  fi
  if [ -z "${SLUICE_TEST_POSTGRES_URL:-}" ] && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
    echo postgresql
  fi
  # A proxy of PostgreSQL that reads from replicas.
  if [ -z "${SLUICE_TEST_POSTGRES_URL:-}" ] && lacking pgpool && [ ! -x /usr/sbin/pgpool ]; then echo pgpool2; fi
  if [ -z "${SLUICE_TEST_KAFKA:-}" ]; then
    if lacking java; then echo default-jre-headless; fi
    if lacking mvn && [ ! -e "$SLUICE_TEST_KAFKA_JARS/complete" ]; then echo maven; fi
  fi
  # Packets that are lost, and a node's services.
  if lacking iptables && [ ! -x /usr/sbin/iptables ]; then echo iptables; fi
  if [ "$with_peers" = true ] && [ ! -e "$SLUICE_TEST_ZIPKIN/complete" ]; then
    if lacking java; then echo default-jre-headless; fi
    if lacking mvn; then echo maven; fi
    if lacking unzip; then echo unzip; fi
  fi
  if [ "$with_kubernetes" = true ]; then
    if lacking etcd; then echo etcd-server; fi
    if lacking containerd; then echo containerd; fi
    if lacking runc && [ ! -x /usr/sbin/runc ]; then echo runc; fi
    if [ ! -x /usr/lib/cni/bridge ]; then echo containernetworking-plugins; fi
    if lacking conntrack && [ ! -x /usr/sbin/conntrack ]; then echo conntrack; fi
    if lacking ip && [ ! -x /usr/sbin/ip ]; then echo iproute2; fi
    if lacking openssl; then echo openssl; fi
  fi
}

install_packages() {
  local packages
  packages="$(missing_packages | tr '\n' ' ')"
  if [ -z "${packages// /}" ]; then return 0; fi
  echo "installing: $packages"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if lacking sudo || lacking apt-get; then
      echo "tests/run: install these first, or name servers in the environment (--help): $packages" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  # Debian would start the servers that it installs; the tests start their own.
  "${as_root[@]}" apt-get update -q
  # shellcheck disable=SC2086 # a list of package names
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -q -y --no-install-recommends $packages
}

fetch_kafka() {
  if [ -n "${SLUICE_TEST_KAFKA:-}" ]; then return 0; fi
  if [ ! -e "$SLUICE_TEST_KAFKA_JARS/complete" ]; then fetch_kafka_jars; fi
  if [ ! -e "$SLUICE_TEST_KAFKA_JARS/classes.jsa" ]; then archive_kafka_classes; fi
}

fetch_kafka_jars() {
  echo "fetching Kafka $kafka_version"
  rm -rf "$SLUICE_TEST_KAFKA_JARS"
  mkdir -p "$SLUICE_TEST_KAFKA_JARS"
  mvn --quiet --batch-mode --file tests/kafka/pom.xml \
    dependency:copy-dependencies "-DoutputDirectory=$SLUICE_TEST_KAFKA_JARS"
  touch "$SLUICE_TEST_KAFKA_JARS/complete"
}

# Keeps the classes that a broker loads as Java wants them in its memory: with them its start takes half of the time,
# without them it only takes longer. Where it listens is a guess, and a try is all it gets.
archive_kafka_classes() {
  echo "archiving the classes of a Kafka broker"
  local archive="$SLUICE_TEST_KAFKA_JARS/classes.jsa" dir port broker java made
  dir="$(mktemp -d)"
  port=$((10000 + RANDOM % 20000))
  made="$archive.$$"
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
log.dirs=$dir/data
PROPERTIES
  # The class path must be that of tests/src/kafka/broker.rs; flags that bear on speed may differ.
  java=(timeout --kill-after=60 240 java -Xmx512m -XX:+UseSerialGC -cp "$SLUICE_TEST_KAFKA_JARS/*")
  if "${java[@]}" kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAQ -c "$dir/server.properties" >"$dir/log" 2>&1; then
    "${java[@]}" "-XX:ArchiveClassesAtExit=$made" kafka.Kafka "$dir/server.properties" >>"$dir/log" 2>&1 &
    broker=$!
    # Until its port is open; then what it loads at its start is loaded.
    while kill -0 "$broker" 2>/dev/null && ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.5; done
    # As it is asked to end it writes them down.
    kill "$broker" 2>/dev/null || true
    wait "$broker" || true
  fi
  if [ -s "$made" ]; then
    mv "$made" "$archive"
  else
    echo "tests/run: no archive of a broker's classes was made, brokers start slower: $(tail -n 3 "$dir/log")" >&2
  fi
  rm -rf "$dir" "$made"
}

# Zipkin's server, and its schema for MySQL out of a jar within its jar.
fetch_zipkin() {
  if [ -e "$SLUICE_TEST_ZIPKIN/complete" ]; then return 0; fi
  echo "fetching Zipkin $zipkin_version"
  rm -rf "$SLUICE_TEST_ZIPKIN"
  mkdir -p "$SLUICE_TEST_ZIPKIN"
  mvn --quiet --batch-mode --file tests/peers/zipkin/pom.xml \
    dependency:copy-dependencies "-DoutputDirectory=$SLUICE_TEST_ZIPKIN" -Dmdep.stripVersion=true
  unzip -p "$SLUICE_TEST_ZIPKIN/zipkin-server-exec.jar" 'BOOT-INF/lib/zipkin-storage-mysql-v1-*.jar' \
    >"$SLUICE_TEST_ZIPKIN/storage.jar"
  unzip -p "$SLUICE_TEST_ZIPKIN/storage.jar" mysql.sql >"$SLUICE_TEST_ZIPKIN/mysql.sql"
  rm "$SLUICE_TEST_ZIPKIN/storage.jar"
  touch "$SLUICE_TEST_ZIPKIN/complete"
}

# Has the builder that a tool module pins generate and compile a collector of the components that builder.yaml pins.
build_collector() {
  local bin="$SLUICE_TEST_COLLECTOR" recipe="$PWD/tests/peers/collector/builder.yaml" work
  if [ -x "$bin/otelcol" ]; then return 0; fi
  build_go_tools peers/collector "$bin" ""
  # Where builder.yaml, which names no folder, would have it written is the system's folder for temporary files.
  work="$(mktemp -d "$(dirname "$bin")/build.XXXXXX")"
  sed "s:^dist\:.*:&\n  output_path\: $work:" "$recipe" >"$work/builder.yaml"
  CGO_ENABLED=0 GOWORK=off GOFLAGS="" nice "$bin/builder" --config "$work/builder.yaml"
  mv "$work/otelcol" "$bin/otelcol"
  rm -rf "$work"
}

# Builds the commands of a Go tool module, once a version: build_go_tools FOLDER DIRECTORY LDFLAGS.
build_go_tools() {
  local module="tests/$1" bin="$2" ldflags="-s -w $3"
  if [ -e "$bin/complete" ]; then return 0; fi
  # In the module's folder: a newer Go fetches the version that the module asks for, one before 1.21 does not know how.
  local needed found=""
  needed="$(sed -n 's/^go //p' "$module/go.mod")"
  if ! lacking go; then found="$(cd "$module" && GOWORK=off go env GOVERSION)"; fi
  if [ "$(printf '%s\n' "$needed" "${found#go}" | sort -V | head -n 1)" != "$needed" ]; then
    echo "tests/run: needs go $needed or newer to build $module, found ${found:-none}; see https://go.dev/dl" >&2
    return 1
  fi
  echo "building $(basename "$(dirname "$bin")") from its sources"
  rm -rf "$bin"
  mkdir -p "$bin"
  # Without a user's workspace file or flags: what is built is what the module pins.
  (cd "$module" && CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=readonly \
    nice go build -buildvcs=false -trimpath -ldflags "$ldflags" -o "$bin/" tool)
  touch "$bin/complete"
}

build_kubernetes() {
  local version="k8s.io/component-base/version" numbers
  IFS=. read -r -a numbers <<<"${kubernetes_version#v}"
  build_go_tools cluster/kubernetes "$SLUICE_TEST_KUBERNETES" "-X $version.gitVersion=$kubernetes_version \
    -X $version.gitMajor=${numbers[0]} -X $version.gitMinor=${numbers[1]} -X $version.gitTreeState=clean"
}

build_helm() {
  build_go_tools cluster/helm3 "$SLUICE_TEST_HELM3" ""
  build_go_tools cluster/helm4 "$SLUICE_TEST_HELM4" ""
}

refuse_a_cluster_in_use() {
  if [ "${SLUICE_TEST_CLUSTER:-}" != yes ]; then return 0; fi
  local crd
  crd="$(kubectl get crd tracepipelines.sluice.dev --ignore-not-found --output name)"
  if [ -z "$crd" ]; then return 0; fi
  echo "tests/run: the cluster of $KUBECONFIG has the CRD of TracePipelines, from former tests or because they are" \
    "in use there; tests delete it with all pipelines. If they may: SLUICE_TEST_CLUSTER=replace-crd" >&2
  return 1
}

install_deny() {
  if ! lacking cargo-deny; then return 0; fi
  local root="$cache/cargo-deny-$deny_version"
  export PATH="$root/bin:$PATH"
  if [ -x "$root/bin/cargo-deny" ]; then return 0; fi
  # A debug build: checking takes a second either way, building a fraction.
  CARGO_TARGET_DIR="$cache/cargo-deny-build" cargo install --quiet --locked --debug \
    --version "$deny_version" --root "$root" cargo-deny
  rm -rf "$cache/cargo-deny-build"
}

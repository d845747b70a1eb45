#!/bin/sh
# The first process of the node's own namespaces (mounts, processes, network): machine.sh FOLDER.
# Whatever runs beside it, and every mount, address and iptables rule in there, ends when this process ends.
set -eu
folder="$1"

# kubelet sets these for the whole machine, and refuses to start where it cannot. In here they are plain files
# that hold the wanted values already, so that the machine keeps its own.
while read -r key value; do
  echo "$value" >"$folder/sysctl"
  mkdir -p "$folder/sysctls/$(dirname "$key")"
  mv "$folder/sysctl" "$folder/sysctls/$key"
  mount --bind "$folder/sysctls/$key" "/proc/sys/$key"
done <<'KEYS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
KEYS

# The places in which containerd, CNI and kubelet keep what they know.
for place in /run /var/lib /var/log; do
  mkdir -p "$folder$place"
  mount --bind "$folder$place" "$place"
done

ip link set lo up
# Pods reach the host's components, and clients of the host reach pods, through this node.
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$folder/ready"

# As the first process it reaps those that lost their parents; a shell does so while it waits.
while :; do
  sleep 3600 &
  wait "$!"
done
